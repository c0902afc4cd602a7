"""The buffer between a live source and the log: samples captured are samples taken plus those in marked gaps."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.codecs.headers import EOS
from streamer.feeds.buffer import LiveBuffer
from streamer.records import NewRecord
from tests.unit.pumping import (
    CHUNK,
    audio,
    gap,
    samples,
)

operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(["a", "b"]), st.integers(1, 4)),
        st.tuples(st.just("end"), st.sampled_from(["a", "b"]), st.integers(0, 4)),
        st.tuples(st.just("take"), st.just(""), st.integers(1, 5)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(operations=operations, buffer_ms=st.sampled_from([0, 15, 50]))
def test_samples_captured_are_samples_taken_plus_samples_in_marked_gaps(
    operations: list[tuple[str, str, int]], buffer_ms: int
) -> None:
    buffer = LiveBuffer(buffer_ms / 1000)
    taken: list[NewRecord] = []
    captured = {"a": 0, "b": 0}
    ended = {"a": 0, "b": 0}
    tick = 0
    for what, stream, size in operations:
        if what == "take":
            taken += buffer.take(size)
            continue
        record = audio(tick, stream, size * CHUNK, eos=what == "end")
        captured[stream] += size * CHUNK
        ended[stream] += what == "end"
        tick += 1
        buffer.put([record])
    taken += buffer.rest()
    for stream, total in captured.items():
        out = [record for record in taken if record.key == stream.encode()]
        assert total == sum(samples(record) + gap(record) for record in out)
        assert sum(EOS in dict(record.headers) for record in out) >= ended[stream]
    assert buffer.dropped_samples == sum(map(gap, taken))
    assert len(buffer) == 0


@settings(deadline=None)
@given(st.integers(1, 50))
def test_a_source_without_times_is_bounded_by_count(most: int) -> None:
    buffer = LiveBuffer(1.0, max_records=most)
    buffer.put(NewRecord(b"d", b"{}", ()) for _ in range(100))
    taken = buffer.rest()
    assert len(taken) == most
    assert gap(taken[0]) == 100 - most
