"""What a process that serves holds on to, as numbers: memory, descriptors, tasks, threads, objects, tables, norms."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch

from streamer.app import App
from streamer.worker.batcher import Batcher
from streamer.worker.progress import Progress
from streamer.worker.stream import Stream
from streamer.worker.table import StreamTable
from streamer.worker.version import Version

T = TypeVar("T")
ENDLESS = "endless"
"""Streams with this word in their names never end: their norms are where a drift would show."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PARTS = (StreamTable, Progress, Version, Batcher)


class Parts:
    """The worker's parts that live now, found by the collector of garbage: also those that nobody should hold.

    Asked for what refers to their classes, as each does. A list of all objects would hold tuples that other threads
    are building, and `tuple` cannot finish one that somebody else holds (SystemError).
    """

    def __init__(self) -> None:
        self._found: dict[type, list[Any]] = defaultdict(list)
        for thing in gc.get_referrers(*_PARTS):
            if type(thing) in _PARTS:
                self._found[type(thing)].append(thing)

    def __len__(self) -> int:
        return sum(map(len, self._found.values()))

    def of(self, kind: type[T]) -> list[T]:
        """Those of a kind."""
        return cast("list[T]", self._found[kind])


class Norms(NamedTuple):
    """Of one leaf of the states of some streams: the mean and the largest Euclidean norm."""

    mean: float
    most: float


def sample(app: App, began_s: float) -> dict[str, float]:
    """Everything now. Called on the event loop, while the engine's threads go on."""
    gc.collect()  # a process that serves collects so seldom that what is already garbage would look like growth
    parts, count = Parts(), _objects()
    found = {"seconds": time.monotonic() - began_s, "answered": 0.0, **_process()}
    found |= {"objects": float(count), "parts": float(len(parts))}
    for name, status in app.status().items():
        found["answered"] += status.records
        found[f"{name}.records"] = status.records
        found[f"{name}.lag"] = status.lag_records
        found[f"{name}.step_ms_p99"] = status.step_ms_p99
    return found | _tables(parts)


def _objects() -> int:
    """How many there are that the collector looks after, counted without a hold on any."""
    gc.freeze()
    count = gc.get_freeze_count()
    gc.unfreeze()
    return count


def _process() -> dict[str, float]:
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    return {
        "rss_mb": resident / 1e6,
        "descriptors": len(os.listdir("/proc/self/fd")) - 1,  # the listing needs one
        "tasks": len(asyncio.all_tasks()),
        "threads": len(os.listdir("/proc/self/task")),
        "python_threads": threading.active_count(),
        "cpu_s": time.process_time(),
    }


def _tables(parts: Parts) -> dict[str, float]:
    tables, books = parts.of(StreamTable), parts.of(Progress)
    found = {
        "streams_table": sum(len(table.streams) for table in tables),
        "dormant_table": sum(len(table.dormant) for table in tables),
        "marks_table": sum(len(table.marks) for table in tables),
        "waiting": sum(len(batcher) for batcher in parts.of(Batcher)),
        "unfinished": sum(book.unfinished for book in books),
        "unsaved_table": sum(len(book.unsaved()) for book in books),
        "inflight_mb": sum(book.inflight_bytes for book in books) / 1e6,
    }
    streams = [stream for table in tables for stream in list(table.streams.values())]
    for version in parts.of(Version):
        name, residence = version.model.partition("@")[0], version.residence
        found[f"{name}.slots_table"] = len(residence)
        found[f"{name}.spilled_mb"] = residence.spilled_bytes / 1e6
        mine = [stream for stream in streams if stream.version is version and ENDLESS in stream.id]
        for leaf, norms in norms_of(version, mine).items():
            found[f"{name}.{leaf}.norm_mean"], found[f"{name}.{leaf}.norm_max"] = norms
    return {name: float(value) for name, value in found.items()}


def norms_of(version: Version, streams: Sequence[Stream]) -> dict[str, Norms]:
    """The norms of every leaf of those streams that lie on the device.

    The engine may write a row while it is read: a norm of half an old and half a new state is as good a measure.
    """
    slots = [slot for stream in streams if (slot := stream.slot) is not None]
    if not slots:
        return {}
    pool = version.residence.pool
    with torch.inference_mode():
        state = pool.gather(torch.tensor(slots, dtype=torch.int64, device=pool.device))
        norms = {name: leaf.float().reshape(len(slots), -1).norm(dim=1) for name, leaf in state.items() if leaf.numel()}
    return {name: Norms(float(norm.mean()), float(norm.max())) for name, norm in norms.items()}
