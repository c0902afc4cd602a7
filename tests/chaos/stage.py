"""What the faults that are not kills of workers have in common: workers that serve while input comes at a pace.

Each scenario has brokers of its own and one act that does its faults for so long; in the end everything is fed and
answered, the workers are sent away, and what subscribers were given is compared with what a worker said that nobody
disturbed.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from streamer.log.kafka_connection import Delivery
from streamer.worker.topics import changelog_of, group_of, output_topics
from tests.chaos import outside
from tests.chaos.compare import count, differences
from tests.chaos.crew import Crew
from tests.chaos.history import APPLICATION, History
from tests.chaos.outside import Feeder, Output
from tests.chaos.scenario import Row

CREW = 3
TURN_S = 0.05
BEGIN_S, ANSWER_S = 60.0, 180.0
"""How long the workers may take to say the first words, and to answer what is left when all faults are over."""
PATIENCE_S = 240.0
"""How long workers wait for a broker that is away."""
REQUEST_TIMEOUT_S = 5.0
"""Shorter than the product's, so that silent connections are given up within a run."""


class Around(Protocol):
    """What workers serve over. bootstrap: for them; direct: for those who feed and read, past all proxies."""

    @property
    def bootstrap(self) -> str: ...

    @property
    def direct(self) -> str: ...


class Stage:
    """A crew that serves while a history is fed, within so many seconds; its evidence lies in `folder`.

    draw: whatever is to be left to chance. times: how often each fault fell. clock: the file of its workers' clocks.
    """

    def __init__(
        self,
        around: Around,
        history: History,
        folder: Path,
        *,
        seed: int,
        seconds: float,
        clock: Path | None = None,
        delivery: Delivery = "exactly_once",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        patient = {
            name: dataclasses.replace(options, commit=dataclasses.replace(options.commit, wait_s=PATIENCE_S))
            for name, options in history.pipelines.items()
        }
        self.around, self.history, self.folder, self.seconds = around, history, folder, seconds
        self.draw = random.Random(f"{seed}/{folder.name}")
        self.crew = Crew(
            around.bootstrap, patient, folder, request_timeout_s=REQUEST_TIMEOUT_S, clock=clock, delivery=delivery
        )
        self.delivery = delivery
        self.times: Counter[str] = Counter()
        self._feeder = Feeder(around.direct, history.records)
        self._groups = {o.input.topic: group_of(APPLICATION, name) for name, o in history.pipelines.items()}
        self._began = self._turned = time.monotonic()
        self._share = 0.02

    @property
    def over(self) -> bool:
        """Whether the time of the faults has passed."""
        return time.monotonic() - self._began > self.seconds

    def begin(self) -> None:
        """Start the workers and wait until each pipeline has published. Raises TimeoutError."""
        for _ in range(CREW):
            self.crew.start()
        if not self.until(self._published, BEGIN_S):
            raise TimeoutError("the workers published nothing before any fault fell")
        self._began = time.monotonic()

    def feed_all(self) -> None:
        """Let all input be there before anybody serves."""
        self._feeder.finish()
        self._share = 1.0

    def settle_input(self) -> None:
        """Wait until all input so far is there: a broker that is lost now has no record of which nobody knows."""
        self._feeder.settle()

    def live(self, seconds: float) -> None:
        """Let time pass: input goes on coming."""
        self.until(lambda: False, seconds)

    def until(self, done: Callable[[], bool], limit_s: float) -> bool:
        """Let time pass until this is so, for so long at most; whether it is."""
        deadline = time.monotonic() + limit_s
        while not (so := done()) and time.monotonic() < deadline:
            time.sleep(TURN_S)
            self._turn()
        return so

    def end(self) -> tuple[list[Output], list[str]]:
        """Feed and let answer all that is left, send everyone away; what subscribers see, and what went wrong."""
        self.feed_all()
        wrong = [] if self.until(self._answered, ANSWER_S) else ["not all input was answered"]
        there = outside.ends(self.around.direct, self._groups)
        wrong += [
            f"the input is not as it was fed: {there[place]} records of {fed} in {place[0]}/{place[1]}"
            for place, fed in self._feeder.fed.items()
            if there[place] != fed
        ]
        self.crew.dismiss()
        wrong += sorted({f"{n} times: {said}" for said, n in Counter(self.crew.failures).items()})
        topics = sorted({topic for options in self.history.pipelines.values() for topic in output_topics(options)})
        changelogs = [changelog_of(group, topic) for topic, group in self._groups.items()]
        outside.until_settled(self.around.direct, [*topics, *changelogs])
        return outside.read_committed(self.around.direct, topics), wrong

    def _turn(self) -> None:
        now = time.monotonic()
        # A fifth is left for the time after the faults.
        self._share = max(self._share, min(0.8, self._share + 0.8 * (now - self._turned) / self.seconds))
        self._turned = now
        self._feeder.feed(self._share)
        self.crew.look()

    def _published(self) -> bool:
        return sum(worker.board.publications for worker in self.crew.workers) > 0

    def _answered(self) -> bool:
        return outside.left(self.around.direct, self._groups) == 0


Act = Callable[[Stage], None]


def perform(stage: Stage, act: Act) -> tuple[list[Output], list[str]]:
    """A scenario from beginning to end: what subscribers were given, and what went wrong."""
    try:
        stage.begin()
        act(stage)
        return stage.end()
    finally:
        stage.crew.end()


def compared(stage: Stage, expected: Sequence[Output], found: Sequence[Output], wrong: Sequence[str]) -> Sequence[Row]:
    """A row for every fault; all share the verdict, for they fell into one run. Evidence stays in the folder.

    At least once may say something again; all else must be as it would have been.
    """
    apart, note = differences(expected, found), ""
    if stage.delivery == "at_least_once":
        again = sum(difference.what == "doubled" for difference in apart)
        apart = [difference for difference in apart if difference.what != "doubled"]
        note = f"{again} said again, under the same ids"
    if apart or wrong:
        outside.write(stage.folder / "found.jsonl", found)
        (stage.folder / "differences.txt").write_text("\n".join([*wrong, *map(str, apart)]) + "\n", encoding="utf-8")
    history = "deterministic" if stage.delivery == "exactly_once" else "at least once"
    faults = enumerate(stage.times.items())
    return [Row(fault, history, times, count(apart), wrong, "" if n else note) for n, (fault, times) in faults]
