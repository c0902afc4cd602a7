"""Where recorded sensor streams lie and which of them may be trained on.

The Numenta Anomaly Benchmark (Lavin & Ahmad 2015; MIT) has 58 files. Half of them are for training, by a rule that
looks at names only: in each category, sorted by name, every second file starting with the first; none of
`realKnownCause`, which stays unseen as a whole. The labels are never trained on.
"""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_HELD_OUT = "realKnownCause"
_REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Recording:
    """One labelled stream. name: category/file; time_ms: (T,) since 1970; value: (T,); windows_ms: labelled
    anomalies, first and last millisecond; training: whether a model may learn from it."""

    name: str
    time_ms: NDArray[np.int64]
    value: NDArray[np.float64]
    windows_ms: tuple[tuple[int, int], ...]
    training: bool


def data_folder() -> Path:
    """`$STREAMER_DATA`, else `../shared/data` beside the repository; it need not exist."""
    named = os.environ.get("STREAMER_DATA")
    return Path(named) if named else _REPOSITORY.parent / "shared" / "data"


def read_nab(folder: Path) -> list[Recording]:
    """The 58 recordings of an NAB folder, sorted by name. Raises OSError where it is not there."""
    labels = json.loads((folder / "labels" / "combined_windows.json").read_text(encoding="utf-8"))
    found: list[Recording] = []
    place: dict[str, int] = {}
    for name in sorted(labels):
        category = name.partition("/")[0]
        index = place[category] = place.get(category, -1) + 1
        time_ms, value = _read_csv(folder / "data" / name)
        windows = tuple((_milliseconds(first), _milliseconds(last)) for first, last in labels[name])
        found.append(Recording(name, time_ms, value, windows, category != _HELD_OUT and index % 2 == 0))
    return found


def read_ett(path: Path) -> list[NDArray[np.float64]]:
    """The seven columns of ETTh1 (Zhou et al. 2021), each (17420,). Raises OSError where it is not there."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row[1:] for row in csv.reader(file)][1:]
    return list(np.asarray(rows, dtype=np.float64).T)


def _read_csv(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    times = np.asarray([_milliseconds(row[0]) for row in rows], dtype=np.int64)
    return times, np.asarray([float(row[1]) for row in rows], dtype=np.float64)


def _milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)
