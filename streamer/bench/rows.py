"""A row of the bench, and how figures are compared: medians of runs that take turns on the same machine.

Taking turns matters more than repeating: a machine whose speed changes by the minute changes for both sides.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside its rival's.

    ratio: value / rival_value. reach: what the ratio (without a rival: the value) is to reach; `better` says whether
    that is at least or at most. met: None where there is nothing to reach or nothing was measured. note: how it was
    measured, or why it was not.
    """

    name: str
    value: float | None
    unit: str
    rival: str = ""
    rival_value: float | None = None
    reach: float | None = None
    better: Literal["higher", "lower"] = "higher"
    note: str = ""

    @property
    def ratio(self) -> float | None:
        if self.value is None or not self.rival_value:
            return None
        return self.value / self.rival_value

    @property
    def met(self) -> bool | None:
        judged = self.ratio if self.rival else self.value
        if self.reach is None or judged is None:
            return None
        return judged >= self.reach if self.better == "higher" else judged <= self.reach

    def as_json(self) -> str:
        """One line: name, value, unit, rival, rival_value, ratio, reach, met, better, note."""
        plain = asdict(self) | {"ratio": self.ratio, "met": self.met}
        return json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in plain.items()})


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call, s."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternating(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call every side once a round, in turn. Returns what each gave, round by round."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            taken[name].append(measure())
    return taken


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of neighbouring runs. Raises ValueError for unequal counts or none."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def skipped(name: str, unit: str, why: str) -> Row:
    """A row that could not be measured here."""
    return Row(name, None, unit, note=f"skipped: {why}")


COLUMNS = ("workload", "value", "unit", "rival", "rival's", "ratio", "reach", "met")


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text, notes below."""
    cells = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", *(f"{row.name}: {row.note}" for row in rows if row.note)])


def _cells(row: Row) -> tuple[str, ...]:
    sign = "" if row.better == "higher" else "<= "
    met = {None: "", True: "yes", False: "NO"}[row.met]
    reach = "" if row.reach is None else sign + _number(row.reach)
    return (
        *(row.name, _number(row.value), row.unit, row.rival, _number(row.rival_value)),
        *(_number(row.ratio), reach, met),
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
