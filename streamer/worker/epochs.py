"""Whose records of a changelog are believed where a commit is several writes (docs/adr/0004-the-offset-is-the-root.md).

A worker that was paused goes on when another owns its partition: what it writes late must be believed by nobody, and
must not take the place of what is believed, not even when the topic is compacted. So every owner writes under keys of
its own epoch, a name drawn at random, and a stream's states lie in two slots in turns: what a commit writes never lies
where the last one that is settled does. What is settled the committed offset tells. Its metadata is the root: the
epoch of the owner and the number of its commit. The group refuses the offset of who is no longer its member, and a
commit whose offset was refused never happened. An owner's first commit holds its claim: the epochs before it of which
anything is left, each up to its last commit that is settled.

    key of a record    00 40, epoch (16 hexadecimal digits), slot (0 or 1), key as in a log with transactions
    header `commit`    number of the commit that wrote it, decimal
    claim              [[epoch, number], ...] in JSON, the newest first, under the key 00 `claim`
    metadata           epoch/number

Records without an epoch are from a log with transactions or a version before this one: the claim names them by an
empty epoch, and its number is the last offset that was there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from streamer.errors import StateMismatch
from streamer.log.base import Committed
from streamer.records import Record, TopicPartition, header, make_record

PREFIX = b"\x00@"
CLAIM_KEY = b"\x00claim"
COMMIT_HEADER = "commit"
NO_EPOCH = ""
_EPOCH_DIGITS = 16
_DIGITS = 20
_SLOT = len(PREFIX) + _EPOCH_DIGITS
_KEY = re.compile(re.escape(PREFIX) + rb"[0-9a-f]{%d}[01]" % _EPOCH_DIGITS)
_ROOT = re.compile(rf"([0-9a-f]{{{_EPOCH_DIGITS}}})/([0-9]+)")

Chain = tuple[tuple[str, int], ...]
"""Epochs with their last commits that count, the newest first."""


class Root(NamedTuple):
    """The owner that committed last, and how often it had."""

    epoch: str
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}/{self.number}"


def root_of(metadata: str) -> Root | None:
    """The root in a committed offset's metadata; None where its owner had no epoch."""
    found = _ROOT.fullmatch(metadata)
    return None if found is None else Root(found[1], int(found[2]))


class Named(NamedTuple):
    """What a changelog's key says. slot: -1 where it has no epoch."""

    epoch: str
    slot: int
    key: bytes

    def raw(self) -> bytes:
        """The key as it lies in the changelog."""
        return b"%b%b%d%b" % (PREFIX, self.epoch.encode(), self.slot, self.key)


def named(raw: bytes) -> Named:
    """What a changelog's key says."""
    if _KEY.match(raw) is None:
        return Named(NO_EPOCH, -1, raw)
    return Named(raw[len(PREFIX) : _SLOT].decode(), raw[_SLOT] - ord("0"), raw[_SLOT + 1 :])


class Believed(NamedTuple):
    """What counts of a changelog's partition.

    records: the latest of each key, under keys without epoch, in changelog order; held: where each lies. chain: the
    epochs of these. stale: keys of all that does not count any more. rooted: whether owners have epochs here.
    """

    records: dict[bytes, Record]
    held: dict[bytes, bytes]
    chain: Chain
    stale: list[bytes]
    rooted: bool


def believed(found: Mapping[bytes, Record], committed: Committed | None, partition: TopicPartition) -> Believed:
    """What counts of `found`, the latest record of each key, tombstones left out.

    Raises StateMismatch where the last owner's claim is missing or is none.
    """
    chain = _chain(found, committed, partition)
    ranks = {epoch: (-place, number) for place, (epoch, number) in enumerate(chain)}
    best: dict[bytes, tuple[int, int, Record]] = {}
    stale: list[bytes] = []
    writers: dict[bytes, tuple[int, int]] = {}  # by the beginning of their keys: there are few, and many records
    for raw, record in found.items():
        if (rank := writers.get(raw[: _SLOT + 1])) is None:
            epoch, _, key = named(raw)
            rank = ranks.get(epoch, (0, -1))
            if epoch != NO_EPOCH:
                writers[raw[: _SLOT + 1]] = rank
            number = record.offset if epoch == NO_EPOCH else _number(record, rank[1] + 1)
        else:
            key, number = raw[_SLOT + 1 :], _number(record, rank[1] + 1)
        place, most = rank
        if number > most or key == CLAIM_KEY:
            stale.append(raw)
            continue
        before = best.get(key)
        if before is None or (before[0], before[1]) < (place, number):
            best[key] = place, number, record
            if before is not None:
                stale.append(before[2].key or b"")
        else:
            stale.append(raw)
    kept = sorted(((record, key) for key, (_, _, record) in best.items()), key=_offset_of)
    used = {-place for place, _, _ in best.values()}
    return Believed(
        {
            key: make_record((topic, number, offset, time_ms, key, value, headers))
            for (topic, number, offset, time_ms, _, value, headers), key in kept
        },
        {key: record.key or b"" for record, key in kept},
        tuple(entry for place, entry in enumerate(chain) if place in used),
        stale,
        rooted=any(epoch != NO_EPOCH for epoch, _ in chain),
    )


def _chain(found: Mapping[bytes, Record], committed: Committed | None, partition: TopicPartition) -> Chain:
    """Who is believed, and up to where."""
    everything: Chain = ((NO_EPOCH, max((record.offset for record in found.values()), default=0)),)
    if committed is None:
        return _without_offsets(found, partition) or everything
    if (root := root_of(committed.metadata)) is None:
        return everything
    claim = found.get(Named(root.epoch, 0, CLAIM_KEY).raw())
    if claim is None:
        raise StateMismatch(
            f"{partition} holds nothing of owner {root.epoch}, which the committed offset names: the changelog was "
            "deleted or compacted wrongly; import a backup (python -m streamer state import --replace), or delete the "
            "group's offsets to begin afresh"
        )
    return (root, *_claimed(claim))


def _without_offsets(found: Mapping[bytes, Record], partition: TopicPartition) -> Chain:
    """The group's offsets are gone, or there were none yet: the last owner counts as far as it surely went on."""
    claims = [(record, named(raw).epoch) for raw, record in found.items() if named(raw).key == CLAIM_KEY]
    if not claims:
        return ()
    claim, epoch = max(claims, key=lambda pair: pair[0].offset)
    number = max(_number(record, 0) for raw, record in found.items() if named(raw).epoch == epoch)
    earlier = _claimed(claim)
    # A second commit begins only when the first is settled.
    return ((epoch, number), *earlier) if number > 1 else earlier


def _claimed(claim: Record) -> Chain:
    try:
        return msgspec.json.decode(claim.value or b"", type=Chain)
    except msgspec.DecodeError as error:
        raise StateMismatch(f"{claim.coordinates} is no claim of an owner: {error}") from error


def _offset_of(pair: tuple[Record, bytes]) -> int:
    return pair[0].offset


def _number(record: Record, unknown: int) -> int:
    headers = record.headers
    alone = len(headers) == 1 and headers[0][0] == COMMIT_HEADER  # as they are written here
    value = headers[0][1] if alone else header(record, COMMIT_HEADER)
    return int(value) if value is not None and value.isdigit() and len(value) < _DIGITS else unknown
