"""Who steps now: streams take turns, a stream's items stay in order, nothing is lost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.worker.batcher import Batcher

ITEMS = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers()), max_size=60)


@settings(max_examples=50)
@given(ITEMS, st.integers(1, 4), st.integers(1, 4))
def test_every_item_is_called_once_in_its_streams_order_within_the_limits(
    items: list[tuple[str, int]], max_streams: int, max_items: int
) -> None:
    batcher: Batcher[str, int] = Batcher(max_streams, max_items)
    for stream, item in items:
        batcher.add(stream, item)
    called: dict[str, list[int]] = {}
    while call := batcher.next():
        assert len({stream for stream, _ in call}) == len(call) <= max_streams
        for stream, got in call:
            assert 1 <= len(got) <= max_items
            called.setdefault(stream, []).extend(got)
    assert called == {s: [i for t, i in items if t == s] for s in dict.fromkeys(s for s, _ in items)}
    assert len(batcher) == 0


def test_a_live_stream_does_not_wait_for_another_ones_backlog() -> None:
    batcher: Batcher[str, int] = Batcher(1, 1)
    for n in range(1000):
        batcher.add("behind", n)
    batcher.add("live", 0)
    assert [batcher.next()[0][0] for _ in range(3)] == ["behind", "live", "behind"]


@given(ITEMS)
def test_dropped_streams_are_gone_and_the_others_stay(items: list[tuple[str, int]]) -> None:
    batcher: Batcher[str, int] = Batcher(100, 100)
    for stream, item in items:
        batcher.add(stream, item)
    gone = batcher.drop(lambda stream: stream in "abc")
    assert sorted(gone) == sorted(i for s, i in items if s in "abc")
    assert {s for s, _ in batcher.next()} == {s for s, _ in items if s not in "abc"}


def test_an_item_that_was_begun_comes_before_its_streams_others_and_after_the_streams_that_wait() -> None:
    batcher: Batcher[str, int] = Batcher(1, 1)
    for n in range(2):
        batcher.add("long", n)
    ((stream, (begun,)),) = batcher.next()
    batcher.add("other", 0)
    batcher.put_back(stream, begun)
    assert [batcher.next() for _ in range(3)] == [[("long", [0])], [("other", [0])], [("long", [1])]]
    assert len(batcher) == 0


def test_it_is_behind_while_more_waits_than_a_call_has_rows() -> None:
    batcher: Batcher[str, int] = Batcher(2, 1)
    behind = []
    for n in range(4):
        batcher.add("abcd"[n], n)
        behind.append(batcher.behind)
    assert behind == [False, False, True, True]
    batcher.next()
    assert not batcher.behind
