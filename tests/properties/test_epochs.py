"""What a changelog is believed to hold is what was settled last, whoever writes late and however it is compacted.

A model of one partition without transactions: owners take over from each other at any write of a commit; those that
were paused go on with theirs whenever they wake. Of each key only the latest record is there at any time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from streamer.log.base import Commit, Committed
from streamer.records import Append, NewRecord, Record, TopicPartition
from streamer.worker.epochs import Believed, believed, root_of
from streamer.worker.ledger import EpochLedger, Ledger, PlainLedger

INPUT, CHANGELOG = TopicPartition("input", 0), TopicPartition("changelog", 0)
KEYS = st.sampled_from([b"a", b"b", b"c", b"\x00floor"])


@dataclass(eq=False)
class Owner:
    """An owner with what it has still to write of its commit, before and after the offset."""

    ledger: Ledger
    commit: Commit | None = None
    before: deque[NewRecord] = field(default_factory=deque)
    after: deque[NewRecord] = field(default_factory=deque)
    tried: bool = False

    def close(self, commit: Commit) -> None:
        self.commit = commit = self.ledger.close(commit)
        self.tried = False
        self.begin_again()
        self.after = deque(records_of(commit.tombstones))

    def begin_again(self) -> None:
        """A stage that failed is written once more, unless the offset was tried already."""
        if self.commit is not None and not self.tried:
            self.before = deque([*records_of(self.commit.states), *records_of(self.commit.floor)])


def records_of(appends: object) -> list[NewRecord]:
    assert isinstance(appends, list | tuple)
    return [record for append in appends for record in append.records]


class Changelog(RuleBasedStateMachine):
    """settled: what counts, by key; ending: keys of which it does not matter whether they are still there."""

    asleep = Bundle("asleep")

    def __init__(self) -> None:
        super().__init__()
        self.log: dict[bytes, Record] = {}
        self.written = 0
        self.committed: Committed | None = None
        self.settled: dict[bytes, bytes] = {}
        self.ending: dict[bytes, bytes] = {}

    @initialize(states=st.dictionaries(KEYS, st.binary(max_size=2)), ever=st.booleans())
    def began_in_transactions(self, states: dict[bytes, bytes], ever: bool) -> None:
        if ever:
            owner = Owner(PlainLedger(CHANGELOG.topic))
            owner.close(self.commit_of(states, []))
            self.write(owner.before, len(owner.before))
            self.committed, self.settled = Committed(0, "of a version before epochs"), states
        self.owner = self.new_owner()

    @rule(states=st.dictionaries(KEYS, st.binary(max_size=2), max_size=3), ended=st.sets(KEYS))
    def close(self, states: dict[bytes, bytes], ended: set[bytes]) -> None:
        """The owner begins a commit; one that is under way stays the same."""
        if self.owner.commit is None:
            self.states = dict(states)
            self.ended = [k for k in sorted(ended) if k in self.settled and k not in states]
            self.owner.close(self.commit_of(states, self.ended))

    @rule(writes=st.integers(0, 8))
    def go_on(self, writes: int) -> None:
        self.write(self.owner.before, writes)

    @rule()
    def settle(self) -> None:
        """The group takes the offset of its member."""
        owner = self.owner
        if owner.commit is None or owner.before or owner.tried:
            return
        owner.tried = True
        self.committed = Committed(0, owner.commit.metadata)
        self.settled |= self.states
        self.ending = {key: self.settled.pop(key) for key in self.ended} | {
            key: value for key, value in self.ending.items() if key not in self.states
        }

    @rule(writes=st.integers(0, 3))
    def end(self, writes: int) -> None:
        """What is over is ended, and the commit with it."""
        owner = self.owner
        if owner.tried:
            self.write(owner.after, writes)
            if not owner.after:
                owner.ledger.settle()
                owner.commit, owner.tried = None, False

    @rule(states=st.dictionaries(KEYS, st.binary(max_size=2), max_size=3), ended=st.sets(KEYS))
    def commit(self, states: dict[bytes, bytes], ended: set[bytes]) -> None:
        """Nobody disturbs the owner in its commit."""
        self.close(states, ended)
        self.go_on(len(self.owner.before))
        self.settle()
        self.end(len(self.owner.after))

    @rule(target=asleep)
    def take_over(self) -> Owner:
        """Another owner comes; the one before sleeps, with what it had in its hands."""
        before, self.owner = self.owner, self.new_owner()
        return before

    @rule(sleeper=asleep, writes=st.integers(1, 8), again=st.booleans())
    def wake(self, sleeper: Owner, writes: int, again: bool) -> None:
        """One who slept goes on up to its offset, or behind it where the group took that before it fell asleep."""
        if sleeper.tried:
            self.write(sleeper.after, writes)
        else:
            if again:
                sleeper.begin_again()
            self.write(sleeper.before, writes)

    @rule(sleeper=consumes(asleep))
    def die(self, sleeper: Owner) -> None:
        sleeper.before.clear()

    @invariant()
    def what_was_settled_counts(self) -> None:
        found = {key: record.value for key, record in self.believed().records.items()}
        for key, value in self.ending.items():
            if key not in self.settled and found.get(key) == value:
                del found[key]
        assert found == self.settled

    def believed(self) -> Believed:
        return believed(self.log, self.committed, CHANGELOG)

    def new_owner(self) -> Owner:
        return Owner(EpochLedger(CHANGELOG.topic, self.believed()))

    def commit_of(self, states: dict[bytes, bytes], ended: list[bytes]) -> Commit:
        changed = [Append(*CHANGELOG, [NewRecord(key, value) for key, value in states.items()])]
        ends = [Append(*CHANGELOG, [NewRecord(key, None) for key in ended])]
        return Commit(INPUT, 0, states=changed, tombstones=ends)

    def write(self, records: deque[NewRecord], count: int) -> None:
        for _ in range(min(count, len(records))):
            key, value, headers, _ = records.popleft()
            assert key is not None
            self.log.pop(key, None)
            if value is not None:
                self.log[key] = Record(*CHANGELOG, self.written, 0, key, value, headers)
            self.written += 1


Changelog.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
test_what_counts_is_what_was_settled_whoever_writes_late = Changelog.TestCase


def test_a_root_is_told_from_the_id_of_a_transaction() -> None:
    assert root_of("0123456789abcdef/12") == ("0123456789abcdef", 12)
    assert root_of("0123456789abcdef0123456789abcdef") is None
    assert root_of("") is None
