"""Does a quantity grow? A robust line through what was measured, and what its rise may be. Pure.

The line is Theil's and Sen's: its slope is the median of the slopes through any two points, so that a third of the
points may lie anywhere. It is laid through the second half of a run: the first fills caches and reaches every size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Series = NDArray[np.float64]
MOST_POINTS = 400
FEWEST_POINTS = 8
"""Of a half: with fewer no line means anything."""
_NORMAL, _ERRORS = 1.4826, 5.0
"""Standard deviations in a median absolute one, where points scatter normally; standard errors that are no chance."""


Sample = Mapping[str, float]


class Half(NamedTuple):
    """The second half of a run. millions: of chunks and events that were answered in it; before: how far apart the
    values lay in the quarter before it; chance: what a line through points that only scatter may well rise by."""

    millions: float
    before: float
    chance: float


class Limits(NamedTuple):
    """What the second half of a run may rise by.

    mb_per_million: memory in MB a million of chunks; memory, objects, table, disk, norm: shares of the level. A norm
    may also rise or fall by as much as it moved about in the quarter before: what people say is not always the same.
    What grows steadily rises by twice that. And all may rise by what is chance where they scatter.
    """

    mb_per_million: float = 1.0
    memory: float = 0.02
    objects: float = 0.02
    table: float = 0.05
    disk: float = 0.25
    norm: float = 0.05


class Finding(NamedTuple):
    """One quantity. level: its median over the second half; rise: of the line over it; limit: None is never wrong."""

    name: str
    level: float
    most: float
    rise: float
    limit: float | None

    @property
    def right(self) -> bool:
        """Whether it does not grow. What falls is right, but for norms."""
        if self.limit is None:
            return True
        return self.rise <= self.limit and (not _is_norm(self.name) or -self.rise <= self.limit)


def judge(samples: Sequence[Sample], limits: Limits) -> list[Finding]:
    """All quantities of the second half of `samples`, in the order in which they first come.

    samples: each with `seconds` and `answered`, the chunks and events answered so far. Raises ValueError where there
    are too few.
    """
    quarter, half = (_since(samples, share) for share in (0.25, 0.5))
    before, late = samples[quarter:half], samples[half:]
    if len(late) < FEWEST_POINTS:
        raise ValueError(f"{len(late)} samples in the second half: {FEWEST_POINTS} are needed; run for longer")
    names = dict.fromkeys(name for sample in late for name in sample)
    return [
        _found(name, late, before, limits)
        for name in names
        if name not in ("seconds", "answered") and sum(name in sample for sample in late) >= FEWEST_POINTS
    ]


def _since(samples: Sequence[Sample], share: float) -> int:
    """Where this share of the time has passed."""
    begin, end = samples[0]["seconds"], samples[-1]["seconds"]
    return next(n for n, sample in enumerate(samples) if sample["seconds"] >= begin + share * (end - begin))


def _spread(name: str, samples: Sequence[Sample]) -> float:
    values = [sample[name] for sample in samples if name in sample]
    return max(values) - min(values) if values else 0.0


def _found(name: str, samples: Sequence[Sample], before: Sequence[Sample], limits: Limits) -> Finding:
    times, values = np.array([(sample["seconds"], sample[name]) for sample in samples if name in sample]).T
    level, rises = float(np.median(values)), rise(times, values)
    rest = values - rises * (times - times[0]) / (times[-1] - times[0])
    scatter = _NORMAL * float(np.median(np.abs(rest - np.median(rest))))
    millions = (samples[-1]["answered"] - samples[0]["answered"]) / 1e6
    half = Half(millions, _spread(name, before), _ERRORS * scatter * (12 / len(times)) ** 0.5)
    return Finding(name, level, float(values.max()), rises, limit_of(name, level, half, limits))


def rise(times: Series, values: Series) -> float:
    """How much the robust line through (n,) points rises from the first time to the last."""
    if len(times) > MOST_POINTS:
        chosen = np.linspace(0, len(times) - 1, MOST_POINTS).astype(np.int64)
        times, values = times[chosen], values[chosen]
    first, second = np.triu_indices(len(times), 1)
    slopes = (values[second] - values[first]) / (times[second] - times[first])
    return float(np.median(slopes) * (times[-1] - times[0]))


def limit_of(name: str, level: float, half: Half, limits: Limits) -> float | None:
    """What a quantity of this name may rise by; None where it is only told."""
    limit = next((rule(level, half, limits) for pattern, rule in _RULES if fnmatchcase(name, pattern)), None)
    return None if limit is None else max(limit, half.chance)


def _is_norm(name: str) -> bool:
    return fnmatchcase(name, _NORMS)


Rule = Callable[[float, Half, Limits], float | None]
_NORMS = "*.norm_mean"
_ONE = 0.9
"""Of what there are so many and no more: a line that rises by less has not gained one."""
_FEW = 3.0
_RULES: Sequence[tuple[str, Rule]] = (
    ("rss_mb", lambda level, half, most: min(most.mb_per_million * half.millions, most.memory * level)),
    ("objects", lambda level, half, most: most.objects * level),
    ("descriptors", lambda level, half, most: _ONE),
    ("tasks", lambda level, half, most: _ONE),
    ("threads", lambda level, half, most: _ONE),
    ("parts", lambda level, half, most: _ONE),
    ("*_table", lambda level, half, most: max(_FEW, most.table * level)),
    ("disk_mb", lambda level, half, most: max(_FEW, most.disk * level)),
    ("*.seen.norm*", lambda level, half, most: None),
    ("*.scored.norm*", lambda level, half, most: None),
    (_NORMS, lambda level, half, most: max(most.norm * level, half.before)),
)
"""The first pattern that fits; `seen` and `scored` count a stream's events."""
