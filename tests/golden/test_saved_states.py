"""States that older versions saved are continued as if nothing had been. See `record_states` for how they were made."""

from __future__ import annotations

import pytest

from models.bundle import wrap
from streamer.codecs.messages import Envelope, FinalTranscript, PartialTranscript, StreamEvent
from streamer.errors import StateMismatch
from streamer.log.base import Assigned, Commit, Log, append_of
from streamer.log.memory import MemoryLog
from streamer.records import NewRecord, TopicPartition
from streamer.testing.serving import APPLICATION, INPUT, PIPELINE, Serving
from streamer.worker import snapshot, topics
from streamer.worker.header import LAYOUT, OLDER
from streamer.worker.progress import FLOOR_KEY
from streamer.worker.results import StreamKey
from streamer.worker.reviving import revive
from streamer.worker.snapshot import Mark
from streamer.worker.version import Version
from streamer.worker.worker import version_of
from tests.golden.record_states import FOLDER
from tests.golden.state_stream import SAVED_AFTER, Speller, options, records, serving, task

LAYOUTS = (OLDER, LAYOUT)


def golden(kind: str, layout: int) -> bytes:
    return (FOLDER / f"{kind}-layout-{layout}.bin").read_bytes()


def version() -> Version:
    return version_of(options(), "golden", 1_000_000, wrap(Speller(), name="model"), task())


async def plant(log: Log, bench: Serving, data: bytes) -> None:
    """Leave a partition as a worker left it that had answered `SAVED_AFTER` records, the state saved by `data`."""
    changelog = TopicPartition(bench.changelog, 0)
    partition = TopicPartition(INPUT, 0)
    async with log.consumer(topics.group_of(APPLICATION, PIPELINE), [INPUT]) as consumer:
        while not any(isinstance(event, Assigned) for event in await consumer.read(timeout_s=1.0)):
            pass
        floor = NewRecord(FLOOR_KEY, str(SAVED_AFTER).encode())
        states = [append_of(changelog, [NewRecord(b"mic", data)])]
        await consumer.commit(
            [Commit(partition, SAVED_AFTER, "id", states=states, floor=[append_of(changelog, [floor])])]
        )


def from_record(said: list[Envelope], offset: int) -> list[str]:
    """What was said of records from `offset` on, in words: kind, revision or segment, text, times of the words."""
    told = []
    for message in said:
        body, at = message.body, int(message.id.split("/")[2])
        if at >= offset and isinstance(body, PartialTranscript):
            told.append(f"{message.id} {body.segment} {body.text} {body.start_s}-{body.end_s}")
        elif at >= offset and isinstance(body, FinalTranscript):
            words = [(w.text, w.start_s, w.end_s, round(w.confidence, 2)) for w in body.words]
            told.append(f"{message.id} {body.segment} {body.text} {words}")
    return told


async def served(data: bytes | None) -> list[Envelope]:
    """The whole stream's outputs, undisturbed; or those of what follows a saved state."""
    async with MemoryLog() as log:
        bench = serving(log)
        await bench.create_topics()
        await bench.feed(records())
        if data is not None:
            await plant(log, bench, data)
        await bench.serve()
        return await bench.said()


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_stream_goes_on_from_a_saved_state_as_if_undisturbed(layout: int) -> None:
    whole, after = await served(None), await served(golden("state", layout))
    assert from_record(after, 0) == from_record(whole, SAVED_AFTER)
    assert [m.body.text for m in after if isinstance(m.body, FinalTranscript)] == ["a ab ab b"]
    assert not [m.body for m in after if isinstance(m.body, StreamEvent)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_saved_state_tells_its_layout_model_position_and_time(layout: int) -> None:
    header = snapshot.peek(golden("state", layout))
    assert header._replace(numerics="") == (
        layout, "state", "model-1@db9e29b24d89", "", SAVED_AFTER, 1_700_000_001_700,
    )  # fmt: skip
    assert bool(header.numerics) == (layout == LAYOUT)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_saved_mark_is_read_whichever_model_serves(layout: int) -> None:
    assert snapshot.load_mark(golden("mark", layout)) == Mark(4, ("first",))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_saved_state_is_saved_again_in_this_layout_to_the_byte(layout: int) -> None:
    """Whoever sees this fail has changed what is saved: give the layout a new number and golden files of its own."""
    now, wanted = version(), golden("state", LAYOUT)
    stream = revive(StreamKey(0, "mic"), golden("state", layout), now)
    header, saved = snapshot.peek(wanted), now.task.dump(stream.task)
    again = snapshot.dump(stream, stream.spilled, saved, stream.resampler.to_arrays(), header.model, header.numerics)
    assert again == wanted


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_saved_mark_is_saved_again_in_this_layout_to_the_byte(layout: int) -> None:
    wanted = golden("mark", LAYOUT)
    header = snapshot.peek(wanted)
    assert snapshot.dump_mark(snapshot.load_mark(golden("mark", layout)), header.model, header.numerics) == wanted


def test_a_state_of_no_layout_that_this_version_reads_is_refused_by_its_number() -> None:
    with pytest.raises(StateMismatch, match=r"saved state has layout 1, this version reads 2 and 3"):
        snapshot.peek(golden("state", OLDER).replace(b"\xa6layout\x02", b"\xa6layout\x01"))
