"""One run: the uninterrupted worker, then the same input under faults, then the comparison.

Both have a broker of their own, so that topics, groups and offsets have the same names and the outputs may be equal
to the byte.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from streamer.testing.kafka_broker import KafkaBroker
from streamer.worker.topics import changelog_of, group_of, output_topics
from tests.chaos import outside
from tests.chaos.compare import Difference, differences
from tests.chaos.crew import Crew
from tests.chaos.history import APPLICATION, History
from tests.chaos.journal import Entry, Journal
from tests.chaos.outside import Feeder, Output
from tests.chaos.schedule import cycle
from tests.chaos.storm import Storm

ANSWER_S = 180.0
"""How long the workers may take, undisturbed, to answer what is left."""


class Undecided(Exception):
    """A stream of the history has no alert or no final: it would prove little."""


@dataclass(frozen=True, slots=True)
class Plan:
    """folder: where the state of progress and the evidence lie. minutes: of faults, at most. planted: see `watched`."""

    seed: int
    kills: int
    minutes: float
    folder: Path
    planted: bool


class Result(NamedTuple):
    """How it went. answered: whether all input was in the end."""

    journal: Journal
    expected: Counter[str]
    found: Counter[str]
    decisions: Counter[str]
    differences: Sequence[Difference]
    answered: bool


def run(plan: Plan, history: History) -> Result:
    """Do what is not done yet, and compare. Raises Undecided."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    expected = uninterrupted(plan, history)
    journal = Journal(plan.folder / "journal.jsonl")
    found, answered = _disturbed(plan, history, journal)
    apart = differences(expected, found)
    if apart or not answered:
        outside.write(plan.folder / "found.jsonl", found)
        (plan.folder / "differences.txt").write_text("\n".join(map(str, apart)) + "\n", encoding="utf-8")
    return Result(
        journal,
        Counter(output.topic for output in expected),
        Counter(output.topic for output in found),
        Counter(output.header("ce_type") for output in expected),
        apart,
        answered,
    )


def uninterrupted(plan: Plan, history: History) -> list[Output]:
    """What one worker says that nobody disturbs. Raises Undecided."""
    path = plan.folder / "expected.jsonl"
    if not path.exists():
        outputs, answered = _undisturbed(plan, history)
        if not answered:
            raise Undecided(f"the uninterrupted run did not answer its input within {ANSWER_S:.0f} s")
        check_decided(history, outputs)
        outside.write(path, outputs)
    return outside.read(path)


def check_decided(history: History, outputs: Sequence[Output]) -> None:
    """Raises Undecided unless every stream has the decision of its pipeline."""
    said = {(output.header("ce_subject"), output.header("ce_type")) for output in outputs}
    lacking = {
        record.key.decode()
        for record in history.records
        if (record.key.decode(), history.decision[record.topic]) not in said
    }
    if lacking:
        raise Undecided(f"no alert or final in {', '.join(sorted(lacking))}")


def _undisturbed(plan: Plan, history: History) -> tuple[list[Output], bool]:
    with ExitStack() as stack:
        broker = stack.enter_context(KafkaBroker())
        crew = Crew(broker.bootstrap, history.pipelines, plan.folder, planted=False)
        stack.callback(crew.end)
        Feeder(broker.bootstrap, history.records).finish()
        crew.start()
        deadline = time.monotonic() + ANSWER_S
        while not (answered := _answered(broker, history)) and not crew.failures and time.monotonic() < deadline:
            time.sleep(0.5)
            crew.look()
        return _said(broker, history, crew), answered


def _disturbed(plan: Plan, history: History, journal: Journal) -> tuple[list[Output], bool]:
    with ExitStack() as stack:
        broker = stack.enter_context(KafkaBroker(data=plan.folder / "broker"))
        crew = Crew(broker.bootstrap, history.pipelines, plan.folder, planted=plan.planted)
        stack.callback(crew.end)
        storm = Storm(crew, Feeder(broker.bootstrap, history.records), plan.kills, len(journal.deaths))
        while storm.done < plan.kills and journal.seconds < 60 * plan.minutes:
            began, failed = time.monotonic(), len(crew.failures)
            done = [storm.act(fault) for fault in cycle(plan.seed, len(journal.entries)) if storm.done < plan.kills]
            journal.add(Entry(done, time.monotonic() - began, crew.failures[failed:]))
            _tell(journal, plan)
        answered = storm.calm(lambda: _answered(broker, history), ANSWER_S)
        failed = len(crew.failures)
        found = _said(broker, history, crew)
        if crew.failures[failed:]:
            journal.add(Entry([], 0.0, crew.failures[failed:]))
        return found, answered


def _answered(broker: KafkaBroker, history: History) -> bool:
    groups = {options.input.topic: group_of(APPLICATION, name) for name, options in history.pipelines.items()}
    return outside.left(broker.bootstrap, groups) == 0


def _said(broker: KafkaBroker, history: History, crew: Crew) -> list[Output]:
    """All outputs, after the workers have gone and every transaction has ended."""
    crew.dismiss()
    topics = sorted({topic for options in history.pipelines.values() for topic in output_topics(options)})
    changelogs = [
        changelog_of(group_of(APPLICATION, name), options.input.topic) for name, options in history.pipelines.items()
    ]
    outside.until_settled(broker.bootstrap, [*topics, *changelogs])
    return outside.read_committed(broker.bootstrap, topics)


def _tell(journal: Journal, plan: Plan) -> None:
    print(
        f"\r{len(journal.deaths)} of {plan.kills} kills, {journal.seconds:.0f} s, "
        f"{len(journal.failures)} workers ended by themselves",
        end="",
        flush=True,
    )


def forget(folder: Path) -> None:
    """Remove everything of an earlier run."""
    shutil.rmtree(folder, ignore_errors=True)
