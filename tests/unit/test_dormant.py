"""Saved states that nobody has looked into yet."""

from streamer.records import Record
from streamer.worker.dormant import Dormant
from streamer.worker.results import StreamKey


def state(value: bytes) -> Record:
    return Record("changelog", 0, 0, 0, b"a", value, ())


def test_a_stream_that_is_laid_down_again_is_there_once_in_its_later_state() -> None:
    dormant, first, second = Dormant(), StreamKey(0, "first"), StreamKey(0, "second")
    dormant.lay_all(0, {first: state(b"1"), second: state(b"22")})
    dormant.lay_all(0, {second: state(b"333")})
    dormant.lay(first, state(b"4444"))
    assert (len(dormant), dormant.nbytes) == (2, 7)
    assert dormant.get(second) == state(b"333")
    assert dormant.take(first) == state(b"4444")
    assert (len(dormant), dormant.nbytes) == (1, 3)


def test_a_partition_of_which_nothing_was_saved_has_no_dormant_streams() -> None:
    dormant = Dormant()
    dormant.lay_all(3, {})
    assert dormant.partitions == frozenset()
