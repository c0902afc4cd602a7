"""A partition's books: the watermark, the replay floor, and what one commit holds (DESIGN.md rules 2 to 5)."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.log.base import Commit
from streamer.records import Append, NewRecord, Record, TopicPartition
from streamer.worker.pending import Pending
from streamer.worker.progress import FLOOR_KEY, Progress
from streamer.worker.results import Copy, PartitionResult, StreamKey
from streamer.worker.watermark import Watermark

PARTITION = TopicPartition("input", 0)


def progress(committed: int = 0, position: int = 0) -> Progress:
    return Progress(PARTITION, changelog="log", topic_of=lambda role: role, committed=committed, position=position)


def delivered(book: Progress, offsets: list[int], next_offset: int | None = None) -> None:
    records = [Record("input", 0, offset, 0, b"a", b"v", ()) for offset in offsets]
    book.deliver(records, offsets[-1] + 1 if next_offset is None else next_offset)


def pending(offset: int, *, decision: bool = False) -> Pending:
    return Pending(offset, "predictions", NewRecord(b"a", str(offset).encode()), decision)


def copy(stream: str, position: int, *, live: bool = True) -> Copy:
    return Copy(StreamKey(0, stream), stream.encode(), position, b"state", live)


def floor_in(commit: Commit) -> int | None:
    values = [r.value for append in commit.floor for r in append.records if r.key == FLOOR_KEY]
    return int(values[0] or b"") if values else None


def keys_in(appends: Sequence[Append]) -> list[tuple[bytes | None, bytes | None]]:
    return [(record.key, record.value) for append in appends for record in append.records]


def step(book: Progress, stream: str, offset: int) -> None:
    book.apply(PartitionResult(finished=[offset], stepped=[(stream, offset)], outputs=[pending(offset)]))


@settings(max_examples=50)
@given(st.data())
def test_the_watermark_is_the_lowest_unfinished_offset_else_the_position_behind_the_batch(data: st.DataObject) -> None:
    offsets = sorted(data.draw(st.sets(st.integers(0, 50), min_size=1)))
    behind = offsets[-1] + data.draw(st.integers(1, 5))
    mark = Watermark(0)
    mark.deliver(offsets, behind)
    left = set(offsets)
    for offset in data.draw(st.permutations(offsets)):
        assert mark.value == min(left)
        assert mark.unfinished == len(left)
        mark.finish([offset])
        left.discard(offset)
    assert (mark.value, mark.unfinished) == (behind, 0)


def test_a_commit_holds_the_outputs_below_n_and_leaves_the_others_for_later() -> None:
    book = progress()
    delivered(book, [0, 1, 2])
    step(book, "a", 0)
    step(book, "b", 2)
    commit = book.close()
    assert commit is not None
    assert commit.offset == 1
    assert [r.value for append in commit.outputs for r in append.records] == [b"0"]


def test_a_closed_commit_stays_the_same_until_it_is_settled() -> None:
    book = progress()
    delivered(book, [0, 1])
    step(book, "a", 0)
    first = book.close()
    step(book, "a", 1)
    assert book.close() is first
    book.settle()
    later = book.close()
    assert later is not None
    assert later.offset == 2


def test_a_partition_is_quiet_while_its_next_commit_would_only_move_offsets() -> None:
    book = progress()
    delivered(book, [0, 1, 2])
    book.apply(PartitionResult(finished=[0], stepped=[("a", 0)]))
    seen = [book.quiet]
    step(book, "a", 1)
    seen.append(book.quiet)  # an output waits
    book.close()
    seen.append(book.quiet)  # what is closed is not settled
    book.settle()
    seen.append(book.quiet)
    book.apply(PartitionResult(copies=[copy("a", 2)]))
    seen.append(book.quiet)  # a state waits
    assert seen == [True, False, False, True, False]


def test_the_floor_is_the_lowest_offset_that_no_saved_state_contains() -> None:
    book = progress()
    delivered(book, [0, 1, 2])
    for stream, offset in (("a", 0), ("b", 1), ("a", 2)):
        step(book, stream, offset)
    commit = book.close()
    assert commit is not None
    assert floor_in(commit) == 0
    book.settle()
    book.apply(PartitionResult(copies=[copy("a", 3)]))
    commit = book.close()
    assert commit is not None
    assert floor_in(commit) == 1


def test_a_copy_waits_until_n_has_reached_it() -> None:
    book = progress()
    delivered(book, [0, 1])
    step(book, "a", 1)
    book.apply(PartitionResult(copies=[copy("a", 2)]))
    early = book.close()
    assert early is not None
    assert (early.offset, early.states) == (0, [])
    book.settle()
    step(book, "b", 0)
    commit = book.close()
    assert commit is not None
    assert keys_in(commit.states) == [(b"a", b"state")]


def test_a_re_run_says_only_decisions_again_and_commits_nothing_below_n() -> None:
    book = progress(committed=2, position=0)
    delivered(book, [0, 1, 2])
    book.apply(PartitionResult(outputs=[pending(0)]))
    book.apply(PartitionResult(outputs=[pending(1, decision=True)]))
    for offset in (0, 1):
        book.apply(PartitionResult(stepped=[("a", offset)]))
        book.apply(PartitionResult(finished=[offset]))
    step(book, "a", 2)
    commit = book.close()
    assert commit is not None
    assert [r.value for append in commit.outputs for r in append.records] == [b"1", b"2"]


def test_finished_batches_are_not_in_flight_even_while_re_running() -> None:
    book = progress(committed=10, position=0)
    delivered(book, [0, 1])
    assert book.inflight_bytes > 0
    for offset in (0, 1):
        book.apply(PartitionResult(stepped=[("a", offset)]))
        book.apply(PartitionResult(finished=[offset]))
    assert book.close() is None
    assert book.inflight_bytes == 0


def test_a_mark_becomes_a_tombstone_only_when_the_floor_has_passed_it() -> None:
    """Beyond it: the record where the mark stands may begin the next stream of that key."""
    book = progress()
    delivered(book, [0, 1])
    step(book, "slow", 0)
    book.apply(PartitionResult(finished=[1]))
    book.apply(PartitionResult(copies=[copy("gone", 2, live=False)]))
    first = book.close()
    assert first is not None
    assert (keys_in(first.states), first.tombstones) == ([(b"gone", b"state")], [])
    assert book.settle() == []
    assert book.close() is None  # the floor stands at 0
    book.apply(PartitionResult(copies=[copy("slow", 1)]))
    second = book.close()
    assert second is not None
    assert (floor_in(second), keys_in(second.states), second.tombstones) == (2, [(b"slow", b"state")], [])
    assert book.settle() == []
    delivered(book, [2])
    book.apply(PartitionResult(finished=[2]))
    third = book.close()
    assert third is not None
    assert (floor_in(third), keys_in(third.tombstones)) == (3, [(b"gone", None)])
    assert [mark.stream.id for mark in book.settle()] == ["gone"]
    assert book.close() is None


def test_a_mark_whose_stream_lives_again_becomes_no_tombstone() -> None:
    book = progress()
    delivered(book, [0, 1])
    step(book, "slow", 0)
    book.apply(PartitionResult(copies=[copy("back", 1, live=False)]))
    step(book, "back", 1)
    assert book.close() is not None
    assert book.settle() == []
    for saved in (copy("slow", 1), copy("back", 2)):
        book.apply(PartitionResult(copies=[saved]))
    commit = book.close()
    assert commit is not None
    assert (floor_in(commit), commit.tombstones) == (2, [])
    assert book.settle() == []
    assert book.close() is None


ACTIONS = st.lists(st.tuples(st.sampled_from(["step", "copy", "commit"]), st.integers(0, 9)), max_size=60)


@settings(max_examples=50)
@given(ACTIONS)
def test_in_any_order_n_never_falls_each_output_is_published_once_and_the_floor_is_covered(
    actions: list[tuple[str, int]],
) -> None:
    """Ten records of three streams, finished in any order of streams; each stream's own in order."""
    book, queues = progress(), {s: [o for o in range(10) if o % 3 == n] for n, s in enumerate("abc")}
    delivered(book, list(range(10)))
    stepped: dict[str, int] = {}
    saved: dict[str, int] = {}
    published: list[int] = []
    n = 0
    for action, which in [*actions, *(("step", i) for i in range(3) for _ in range(4)), ("commit", 0)]:
        stream = "abc"[which % 3]
        if action == "step" and queues[stream]:
            offset = queues[stream].pop(0)
            step(book, stream, offset)
            stepped[stream] = offset + 1
        elif action == "copy" and stream in stepped:
            book.apply(PartitionResult(copies=[copy(stream, stepped[stream])]))
        elif action == "commit" and (commit := book.close()) is not None:
            assert n <= commit.offset
            n = commit.offset
            published += [int(r.value or b"") for a in commit.outputs for r in a.records]
            for append in commit.states:
                for record in append.records:
                    saved[(record.key or b"").decode()] = n
            book.settle()
            if (floor := floor_in(commit)) is not None:
                assert floor <= n
                assert all(o >= floor for s in "abc" if s not in saved for o in range(n) if o % 3 == "abc".index(s))
    assert sorted(published) == list(range(10))
    assert n == 10


def test_the_floor_is_written_again_when_a_partition_came_back() -> None:
    """Another owner may have written a higher one and died before it committed."""
    book = progress()
    delivered(book, [0])
    step(book, "a", 0)
    first = book.close()
    assert first is not None
    assert floor_in(first) == 0
    book.settle()
    assert book.close() is None
    book.came_back()
    again = book.close()
    assert again is not None
    assert (again.offset, floor_in(again)) == (1, 0)
