"""What 10,000 idle W1 streams take, in device slots and spilled to the host, beside the bytes of their states."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from models.contract import state_bytes
from streamer.bench.networks import FeatureLstm
from streamer.bench.rows import Row
from streamer.worker.engine import pick_device
from streamer.worker.residence import Residence
from streamer.worker.slots import HostState, SlotPool
from streamer.worker.stream import Stream

STREAMS = 10_000
REACH = 1.5


def idle_streams(count: int = STREAMS) -> list[Row]:
    """Resident memory gained by `count` streams that each have a written state."""
    model = FeatureLstm()
    wanted = float(count * state_bytes(model))
    return [
        Row(
            f"memory of {count:,} idle W1 streams, {where}",
            gained,
            "bytes",
            "their state",
            wanted,
            REACH,
            "lower",
            note="resident memory gained, host records of the streams included",
        )
        for where, gained in ((where, _measured(where, count)) for where in ("in the pool", "spilled"))
    ]


def _measured(where: str, count: int) -> float:
    """In a process of its own: memory that another measurement freed would be taken again unseen."""
    command = [sys.executable, "-m", "streamer.bench.memory", where, str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _pooled(model: FeatureLstm, count: int) -> float:
    before = resident_bytes()
    residence = _residence(model, count)
    streams = [_stream(i) for i in range(count)]
    _touch(residence, streams)
    return float(resident_bytes() - before)


def _spilled(model: FeatureLstm, count: int) -> float:
    """A pool of 256 slots: nearly all streams lie on the host."""
    before = resident_bytes()
    residence = _residence(model, 256)
    streams = [_stream(i) for i in range(count)]
    _touch(residence, streams)
    return float(resident_bytes() - before)


def _residence(model: FeatureLstm, slots: int) -> Residence[str]:
    return Residence(SlotPool(model, slots, pick_device("cpu")))


def _stream(number: int) -> Stream:
    name = f"s{number}"
    return Stream(id=name, key=name.encode(), partition=0, first_offset=0, started_ms=0, task=None)


def _touch(residence: Residence[str], streams: list[Stream]) -> None:
    """Give every stream a slot and a state of its own, 256 at a time."""
    for start in range(0, len(streams), 256):
        part = streams[start : start + 256]
        residence.bring([(s.id, s) for s in part])
        slots = np.array([s.slot for s in part], np.int64)
        residence.pool.write(slots, [_ones_like(state) for state in residence.pool.read(slots)])


def _ones_like(state: HostState) -> HostState:
    return {name: np.ones_like(leaf) for name, leaf in state.items()}


def resident_bytes() -> int:
    """Resident memory of this process."""
    gc.collect()
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except FileNotFoundError:  # no Linux: the peak is what there is
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()


if __name__ == "__main__":
    print((_pooled if sys.argv[1] == "in the pool" else _spilled)(FeatureLstm(), int(sys.argv[2])))
