"""Writes the golden states of the version at hand: `python -m tests.golden.record_states` at the repository's root.

`state-layout-N.bin` is what is saved of the stream in `state_stream` after `SAVED_AFTER` records, `mark-layout-N.bin`
what is saved of a stream that ended. A layout's files are written once, by the version that brought it, and never
again: they are what later versions must still read. Nothing is overwritten.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from streamer.log.memory import MemoryLog
from streamer.records import NewRecord
from streamer.worker import snapshot
from tests.golden.state_stream import SAVED_AFTER, last_words, records, serving

FOLDER = Path(__file__).parent / "states"


async def latest(fed: list[NewRecord], stream: str) -> bytes:
    """What is saved of a stream last, after these records were served and the worker left."""
    async with MemoryLog() as log:
        bench = serving(log)
        await bench.create_topics()
        await bench.feed(fed)
        async with bench.running() as worker:
            await bench.until(worker, lambda: worker.status().records == len(fed))
        found = [r.value for r in await bench.records(bench.changelog) if r.key == stream.encode() and r.value]
        return found[-1]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, data in (
        ("state", asyncio.run(latest(records()[:SAVED_AFTER], "mic"))),
        ("mark", asyncio.run(latest([*records("other")[:3], last_words("other", 3)], "other"))),
    ):
        path = FOLDER / f"{name}-layout-{snapshot.LAYOUT}.bin"
        with path.open("xb") as file:
            file.write(data)
        print(f"{path}: {len(data)} bytes")


if __name__ == "__main__":
    main()
