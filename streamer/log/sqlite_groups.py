"""Consumer groups in a SQLite file: leases with epochs, moved by whichever member looks next. No daemon, no clock.

Plain functions on a connection, inside a transaction of their caller. A lease says who owns a partition; its epoch
rises with every owner and is checked inside the commit transaction, so that a member that was stopped for an hour can
harm nobody. A lease that must move is first marked as being revoked and waits for its owner.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec

from streamer.errors import Fenced
from streamer.log.assignment import balanced
from streamer.log.base import Committed
from streamer.records import TopicPartition


class Lease(NamedTuple):
    """A partition that a member owns, since which epoch, and whether the group wants it back."""

    epoch: int
    revoking: bool
    committed: Committed | None
    begin: int


class View(NamedTuple):
    """What a member sees of its group. `version` rises with every change."""

    version: int
    generation: int
    leases: dict[TopicPartition, Lease]


class Signs(NamedTuple):
    """What there is to judge liveness by: (member, process) -> heartbeat, and (partition, epoch) being revoked."""

    members: dict[str, tuple[str, int]]
    revoking: frozenset[tuple[TopicPartition, int]]


def join(connection: sqlite3.Connection, group: str, member: str, process: str, topics: Sequence[str]) -> None:
    """Add a member and give it its share."""
    connection.execute("INSERT OR IGNORE INTO groups (name) VALUES (?)", (group,))
    connection.execute(
        "INSERT INTO members (group_name, member, process, topics) VALUES (?, ?, ?, ?)",
        (group, member, process, msgspec.json.encode(sorted(topics)).decode()),
    )
    rebalance(connection, group)


def leave(connection: sqlite3.Connection, group: str, members: Collection[str]) -> None:
    """Remove members, gone or dead; what they owned is free at once."""
    rows = [(group, member) for member in members]
    connection.executemany("DELETE FROM members WHERE group_name = ? AND member = ?", rows)
    connection.executemany(
        "UPDATE leases SET member = NULL, revoking = 0 WHERE group_name = ? AND member = ?",
        rows,
    )
    rebalance(connection, group)


def release(connection: sqlite3.Connection, group: str, leases: Iterable[tuple[TopicPartition, int]]) -> None:
    """Free leases that were being revoked, each only in the epoch given: its owner has settled or had its time."""
    connection.executemany(
        "UPDATE leases SET member = NULL, revoking = 0 "
        "WHERE group_name = ? AND topic = ? AND partition = ? AND epoch = ? AND revoking = 1",
        [(group, *partition, epoch) for partition, epoch in leases],
    )
    rebalance(connection, group)


def rebalance(connection: sqlite3.Connection, group: str) -> None:
    """Balance all partitions that exist over the members: mark what must move, grant what is free."""
    query = "SELECT member, topics FROM members WHERE group_name = ? ORDER BY id"
    members = {row[0]: frozenset(msgspec.json.decode(row[1])) for row in connection.execute(query, (group,))}
    partitions = [TopicPartition(*row) for row in connection.execute("SELECT topic, partition FROM partitions")]
    query = "SELECT topic, partition, member, revoking FROM leases WHERE group_name = ? AND member IS NOT NULL"
    rows = connection.execute(query, (group,)).fetchall()
    owners: dict[TopicPartition, str] = {TopicPartition(row[0], row[1]): row[2] for row in rows}
    revoking = {TopicPartition(row[0], row[1]) for row in rows if row[3]}
    target = balanced(partitions, members, owners)
    exists = frozenset(partitions)
    deleted = [partition for partition in owners if partition not in exists]
    leaving = [p for p, owner in owners.items() if p in exists and target.get(p) != owner and p not in revoking]
    granted = [(partition, member) for partition, member in target.items() if partition not in owners]
    _mark(connection, group, deleted, leaving)
    _grant(connection, group, granted)
    connection.execute(
        "UPDATE groups SET version = version + 1, generation = generation + ? WHERE name = ?", (bool(granted), group)
    )


def rebalance_all(connection: sqlite3.Connection) -> None:
    """After topics came or went."""
    for (group,) in connection.execute("SELECT DISTINCT group_name FROM members").fetchall():
        rebalance(connection, group)


def version(connection: sqlite3.Connection, group: str) -> int:
    """Rises with every change a member must notice."""
    row = connection.execute("SELECT version FROM groups WHERE name = ?", (group,)).fetchone()
    return int(row[0]) if row else -1


def view(connection: sqlite3.Connection, group: str, member: str) -> View:
    """The member's leases now, with the group's committed offsets."""
    number, generation = connection.execute(
        "SELECT version, generation FROM groups WHERE name = ?", (group,)
    ).fetchone()
    rows = connection.execute(
        "SELECT l.topic, l.partition, l.epoch, l.revoking, o.next_offset, o.metadata, p.begin_offset FROM leases l "
        "JOIN partitions p ON p.topic = l.topic AND p.partition = l.partition "
        "LEFT JOIN offsets o ON o.group_name = l.group_name AND o.topic = l.topic AND o.partition = l.partition "
        "WHERE l.group_name = ? AND l.member = ?",
        (group, member),
    )
    leases = {
        TopicPartition(topic, partition): Lease(
            epoch, bool(revoking), None if offset is None else Committed(offset, metadata), begin
        )
        for topic, partition, epoch, revoking, offset, metadata, begin in rows
    }
    return View(number, generation, leases)


def signs(connection: sqlite3.Connection, group: str) -> Signs:
    """What there is to judge liveness by."""
    rows = connection.execute("SELECT member, process, heartbeat FROM members WHERE group_name = ?", (group,))
    members = {member: (process, heartbeat) for member, process, heartbeat in rows}
    rows = connection.execute(
        "SELECT topic, partition, epoch FROM leases WHERE group_name = ? AND revoking = 1", (group,)
    )
    return Signs(members, frozenset((TopicPartition(row[0], row[1]), row[2]) for row in rows))


def beat(connection: sqlite3.Connection, group: str, member: str) -> bool:
    """Raise the member's heartbeat; False when the group has dropped it."""
    query = "UPDATE members SET heartbeat = heartbeat + 1 WHERE group_name = ? AND member = ?"
    return connection.execute(query, (group, member)).rowcount == 1


def check_lease(
    connection: sqlite3.Connection, group: str, member: str, partition: TopicPartition, epoch: int | None
) -> None:
    """Raises Fenced unless `member` owns `partition` since `epoch`."""
    query = "SELECT member, epoch FROM leases WHERE group_name = ? AND topic = ? AND partition = ?"
    row = connection.execute(query, (group, *partition)).fetchone()
    if row != (member, epoch):
        raise Fenced(
            f"group {group!r} has given {partition} to another member: drop its state; "
            "it comes back with an Assigned event"
        )


def committed(connection: sqlite3.Connection, group: str, partition: TopicPartition) -> Committed | None:
    """The group's position, None where it never committed."""
    query = "SELECT next_offset, metadata FROM offsets WHERE group_name = ? AND topic = ? AND partition = ?"
    row = connection.execute(query, (group, *partition)).fetchone()
    return Committed(*row) if row else None


def store_offset(connection: sqlite3.Connection, group: str, partition: TopicPartition, position: Committed) -> None:
    """The group's position in `partition`."""
    connection.execute("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?, ?)", (group, *partition, *position))


def _mark(
    connection: sqlite3.Connection, group: str, deleted: Iterable[TopicPartition], leaving: Iterable[TopicPartition]
) -> None:
    connection.executemany(
        "UPDATE leases SET member = NULL, revoking = 0 WHERE group_name = ? AND topic = ? AND partition = ?",
        [(group, *partition) for partition in deleted],
    )
    connection.executemany(
        "UPDATE leases SET revoking = 1 WHERE group_name = ? AND topic = ? AND partition = ?",
        [(group, *partition) for partition in leaving],
    )


def _grant(connection: sqlite3.Connection, group: str, granted: Iterable[tuple[TopicPartition, str]]) -> None:
    connection.executemany(
        "INSERT INTO leases (group_name, topic, partition, member, epoch) VALUES (?, ?, ?, ?, 1) "
        "ON CONFLICT DO UPDATE SET member = excluded.member, epoch = epoch + 1, revoking = 0",
        [(group, *partition, member) for partition, member in granted],
    )
