"""What is to be seen of a partition from outside, all of one moment: what was said, what is committed and saved."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from streamer.codecs.messages import decode
from streamer.log.memory import MemoryLog
from streamer.records import Record, TopicPartition
from streamer.testing.serving import INPUT
from streamer.worker import snapshot
from streamer.worker.epochs import believed
from streamer.worker.progress import FLOOR_KEY, floor_of
from streamer.worker.timeline import TIMELINE_KEY
from streamer.worker.topics import changelog_of
from tests.properties.sums_reference import Meaning, meaning

OUTPUTS = ("predictions", "alerts", "streams", "deadletters")


class Seen(NamedTuple):
    """said: by id; most: how often the same id is there. committed, floor: offsets. saved: states and marks."""

    said: dict[str, Meaning]
    most: int
    committed: int
    floor: int
    saved: dict[str, bytes]


async def look(log: MemoryLog, group: str, partition: int) -> Seen:
    """Everything about a partition of the input. It never waits, so that nothing changes meanwhile."""
    name, place = TopicPartition(INPUT, partition), TopicPartition(changelog_of(group, INPUT), partition)
    committed = (await log.committed(group, [name])).get(name)
    said: dict[str, Meaning] = {}
    counts: Counter[str] = Counter()
    for topic in OUTPUTS:
        for message in map(decode, log.partition(TopicPartition(topic, partition)).records):
            now = meaning(message)
            assert said.setdefault(message.id, now) == now, "one id, two meanings"
            counts[message.id] += 1
    latest: dict[bytes, Record] = {}
    for record in log.partition(place).records:
        latest.pop(record.key or b"", None)
        if record.value is not None:
            latest[record.key or b""] = record
    records = dict(believed(latest, committed, place).records)
    records.pop(TIMELINE_KEY, None)
    floor = records.pop(FLOOR_KEY, None)
    n = 0 if committed is None else committed.offset
    saved = {key.decode(): record.value or b"" for key, record in records.items()}
    return Seen(said, max(counts.values(), default=1), n, n if floor is None else floor_of(floor.value), saved)


def is_settled_end(name: str, committed: int) -> bool:
    """An end is told under the stream's last record, and may be published before the record that ended it."""
    _, _, offset, kind, _ = name.split("/")
    return kind in ("ended", "alert-at-end") and int(offset) < committed


def sum_in(data: bytes) -> float:
    """The running sum in a saved state."""
    stream, _, _ = snapshot.load(data, snapshot.peek(data).model, {"sum": ("float32", (1,))})
    return 0.0 if stream.spilled is None else float(stream.spilled["sum"][0])
