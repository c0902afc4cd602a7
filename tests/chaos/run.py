"""Kills over one history: the uninterrupted worker, then the same input under faults, then the comparison.

Both have a broker of their own, so that topics, groups and offsets have the same names and the outputs may be equal
to the byte.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from models.bundle import load as load_bundle
from streamer.tasks.alert import rule_of
from streamer.testing.kafka_broker import KafkaBroker
from streamer.worker.topics import changelog_of, group_of, output_topics
from tests.chaos import outside
from tests.chaos.agreement import disagreements
from tests.chaos.compare import Difference, differences
from tests.chaos.crew import Crew
from tests.chaos.history import ALERT, APPLICATION, SENSOR_MODEL, History, Mode
from tests.chaos.journal import Entry, Journal
from tests.chaos.mistakes import Mistake
from tests.chaos.outside import Feeder, Output
from tests.chaos.scenario import Order
from tests.chaos.schedule import Fault, after_mistakes, cycle
from tests.chaos.storm import Storm

ANSWER_S = 600.0
"""How long the workers may take, undisturbed, to answer what is left."""


class Undecided(Exception):
    """A stream of the history has no alert or no final: it would prove little."""


class Result(NamedTuple):
    """How it went. answered: whether all input was in the end."""

    journal: Journal
    expected: Counter[str]
    found: Counter[str]
    decisions: Counter[str]
    differences: Sequence[Difference]
    answered: bool

    @property
    def right(self) -> bool:
        """Whether everything was answered, as it was without faults, and no worker ended by itself."""
        return self.answered and not self.differences and not self.journal.failures


def run(order: Order, history: History, mode: Mode, planted: Mistake | None = None) -> Result | Journal:
    """Do what is not done yet, and compare; the journal alone when time was over before that. Raises Undecided."""
    order.folder.mkdir(parents=True, exist_ok=True)
    expected = uninterrupted(order.shared, history)
    journal = Journal(order.folder / "journal.jsonl")
    said = _disturbed(order, history, journal, mode, planted)
    if said is None:
        return journal
    found, answered = said
    if mode == "deterministic":
        apart = differences(expected, found)
    else:
        apart = disagreements(expected, found, rule_of(load_bundle(SENSOR_MODEL), ALERT))
    if apart or not answered:
        outside.write(order.folder / "found.jsonl", found)
        (order.folder / "differences.txt").write_text("\n".join(map(str, apart)) + "\n", encoding="utf-8")
    return Result(
        journal,
        Counter(output.topic for output in expected),
        Counter(output.topic for output in found),
        Counter(output.header("ce_type") for output in expected),
        apart,
        answered,
    )


def uninterrupted(folder: Path, history: History) -> list[Output]:
    """What one worker says that nobody disturbs; kept in `folder`. Raises Undecided."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"expected-{history.kind}-{len(history.records)}.jsonl"
    if not path.exists():
        outputs, answered = _undisturbed(folder, history)
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


def _undisturbed(folder: Path, history: History) -> tuple[list[Output], bool]:
    with ExitStack() as stack:
        broker = stack.enter_context(KafkaBroker())
        crew = Crew(broker.bootstrap, history.pipelines, folder)
        stack.callback(crew.end)
        Feeder(broker.bootstrap, history.records).finish()
        crew.start()
        deadline = time.monotonic() + ANSWER_S
        while not (answered := _answered(broker, history)) and not crew.failures and time.monotonic() < deadline:
            time.sleep(0.5)
            crew.look()
        return _said(broker, history, crew), answered


def _disturbed(
    order: Order, history: History, journal: Journal, mode: Mode, planted: Mistake | None
) -> tuple[list[Output], bool] | None:
    """What was said under faults and whether all input was answered; None when time was over before all had fallen."""
    with ExitStack() as stack:
        broker = stack.enter_context(KafkaBroker(data=order.folder / "broker"))
        crew = Crew(broker.bootstrap, history.pipelines, order.folder, mode=mode, planted=planted)
        stack.callback(crew.end)
        storm = Storm(crew, Feeder(broker.bootstrap, history.records), order.kills, len(journal.deaths))
        for faults in _faults(order, len(journal.entries), planted):
            if storm.done >= order.kills:
                break
            if journal.seconds >= order.seconds:
                return None  # the rest of the input is for the rest of the faults
            began, failed = time.monotonic(), len(crew.failures)
            done = [storm.act(fault) for fault in faults if storm.done < order.kills]
            journal.add(Entry(done, time.monotonic() - began, crew.failures[failed:]))
            _tell(journal, order)
        failed = len(crew.failures)
        answered = storm.calm(lambda: _answered(broker, history), ANSWER_S)
        found = _said(broker, history, crew)
        if crew.failures[failed:]:
            journal.add(Entry([], 0.0, crew.failures[failed:]))
        return found, answered


def _faults(order: Order, done: int, planted: Mistake | None) -> Iterator[Sequence[Fault]]:
    """What is left of the cycles, without end; a planted mistake has its own."""
    around = [] if planted is None else [[fault] for fault in after_mistakes(order.seed)]
    while True:
        yield around[done % len(around)] if around else cycle(order.seed, done)
        done += 1


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


def _tell(journal: Journal, order: Order) -> None:
    print(
        f"{order.folder.name}: {len(journal.deaths)} of {order.kills} kills, {journal.seconds:.0f} s, "
        f"{len(journal.failures)} workers ended by themselves",
        flush=True,
    )
