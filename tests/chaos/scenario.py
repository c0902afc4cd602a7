"""What a run of `make chaos` is made of: named scenarios. Each plays its faults and ends as rows of the last table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.chaos.history import Kind


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked of a scenario.

    seed: of its faults. kills: how many workers a whole run kills. kind, generated: what is fed, see `history`.
    shared: a folder of all scenarios of a run, for what an undisturbed worker says. folder: the scenario's own, for
    its progress and evidence; what it holds already is gone on with. seconds: what is left for all faults.
    """

    seed: int
    kills: int
    kind: Kind
    generated: bool
    shared: Path
    folder: Path
    seconds: float


class Row(NamedTuple):
    """A fault over a history. times: how often it fell. apart: differences by word (lost, doubled, ...).

    wrong: what else is not as it should be, in words. note: what is worth saying although nothing is wrong.
    """

    fault: str
    history: str
    times: int
    apart: Mapping[str, int]
    wrong: Sequence[str] = ()
    note: str = ""

    @property
    def clean(self) -> bool:
        """Whether everything is as it would be without the fault."""
        return not any(self.apart.values()) and not self.wrong


class Outcome(NamedTuple):
    """How a scenario ended. seconds: of faults. told: more about it, for the reader. finished: False when time was over
    before all faults had fallen."""

    rows: Sequence[Row]
    seconds: float
    told: str = ""
    finished: bool = True


class Scenario(NamedTuple):
    """name: on the command line, and of its folder. play: does what is not done yet of it, and judges."""

    name: str
    play: Callable[[Order], Outcome]
