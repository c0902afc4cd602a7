"""The file under the SQLite log: opening, schema, the log's own threads, and sqlite's errors in our words.

Each connection lives on one thread of its own, so that neither the event loop waits for the disk nor a read for the
`fsync` of a commit. The file is in WAL mode; several processes may have it open at once, on one machine only.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

from streamer.errors import LogError, LogFull, LogUnavailable

Synchronous = Literal["OFF", "NORMAL", "FULL", "EXTRA"]
T = TypeVar("T")

APPLICATION_ID = 0x53_54_52_4D  # "STRM"; see https://www.sqlite.org/pragma.html#pragma_application_id
FORMAT_VERSION = 1
WAL_LIMIT_BYTES = 32 * 1024 * 1024
_CHECKPOINT_PAGES = 1000
_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "glusterfs", "gpfs", "beegfs"}
    | {"ocfs2", "gfs2", "ncpfs", "davfs", "fuse.sshfs", "fuse.glusterfs", "fuse.cephfs", "fuse.davfs2"}
    | {"fuse.s3fs", "fuse.rclone", "fuse.gcsfuse"}
)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS topics (
    name TEXT PRIMARY KEY,
    partitions INTEGER NOT NULL,
    compact INTEGER NOT NULL,
    retention_ms INTEGER,
    max_record_bytes INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS partitions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    begin_offset INTEGER NOT NULL DEFAULT 0,
    next_offset INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, partition)
);
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY,  -- partition id << 40 | offset
    timestamp_ms INTEGER NOT NULL,
    appended_ms INTEGER NOT NULL,
    key BLOB,
    headers BLOB,  -- msgpack, NULL for none
    value BLOB
);
CREATE INDEX IF NOT EXISTS tombstones ON records (id, appended_ms) WHERE value IS NULL;
CREATE TABLE IF NOT EXISTS latest (  -- compact topics: where each key's only kept record is
    partition_id INTEGER NOT NULL,
    key BLOB NOT NULL,
    record_id INTEGER NOT NULL,
    PRIMARY KEY (partition_id, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS groups (
    name TEXT PRIMARY KEY,
    generation INTEGER NOT NULL DEFAULT 0,
    version INTEGER NOT NULL DEFAULT 0  -- rises with every change its members must notice
);
CREATE TABLE IF NOT EXISTS members (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- joining order
    group_name TEXT NOT NULL,
    member TEXT NOT NULL UNIQUE,
    process TEXT NOT NULL,
    topics TEXT NOT NULL,
    heartbeat INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS leases (
    group_name TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    member TEXT,
    epoch INTEGER NOT NULL DEFAULT 0,
    revoking INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (group_name, topic, partition)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS offsets (
    group_name TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    PRIMARY KEY (group_name, topic, partition)
) WITHOUT ROWID;
"""


class SqliteThread:
    """One connection on one thread. Every call runs there, in order."""

    def __init__(self, path: Path, synchronous: Synchronous, busy_timeout_s: float, name: str) -> None:
        self.path = path
        self._synchronous = synchronous
        self._busy_timeout_s = busy_timeout_s
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"sqlite-log-{name}")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open the file, creating it and its tables where it is new. Raises LogError, LogFull, LogUnavailable."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._open)

    async def close(self) -> None:
        """Close the connection and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._close)
        self._executor.shutdown(wait=False)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work(connection)` on this thread. Raises what it raises, sqlite's errors as LogError and its kin."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, work)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            raise LogUnavailable(f"{self.path} is not open: use the log as an async context manager")
        try:
            return work(self._connection)
        except sqlite3.Error as error:
            raise translated(error, self.path) from error

    def _open(self) -> None:
        try:
            self._connection = open_file(self.path, self._synchronous, self._busy_timeout_s)
        except sqlite3.Error as error:
            raise translated(error, self.path) from error

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def open_file(path: Path, synchronous: Synchronous, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection in autocommit mode to a file that is ours. Raises LogError and sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, cached_statements=256)
    try:
        _check_ours(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        with transaction(connection):
            if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    except (sqlite3.Error, LogError):
        connection.close()
        raise
    return connection


class transaction:
    """`BEGIN IMMEDIATE` ... `COMMIT`, or `ROLLBACK` on any exception.

    immediate=False: a read transaction, one snapshot for several statements.
    """

    def __init__(self, connection: sqlite3.Connection, *, immediate: bool = True) -> None:
        self._connection = connection
        self._begin = "BEGIN IMMEDIATE" if immediate else "BEGIN"

    def __enter__(self) -> None:
        self._connection.execute(self._begin)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            try:
                self._connection.execute("COMMIT")
            except sqlite3.Error:
                self._roll_back()
                raise
        else:
            self._roll_back()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # a full disk has already rolled back
            self._connection.execute("ROLLBACK")


def keep_wal_small(connection: sqlite3.Connection, path: Path) -> None:
    """Truncate the write-ahead log when readers kept the automatic checkpoints from resetting it.

    Readers hold no snapshot between calls, so this waits for one read at the most.
    """
    wal = path.with_name(path.name + "-wal")
    if wal.exists() and wal.stat().st_size > WAL_LIMIT_BYTES:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def check_local(path: Path, mounts: str) -> None:
    """Raises LogError when `path` lies on a network file system, where WAL corrupts.

    mounts: the text of /proc/mounts. Source: https://www.sqlite.org/wal.html ("not over a network filesystem").
    """
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split()
        point = fields[1].encode("latin-1", "backslashreplace").decode("unicode_escape")  # spaces are written \040
        if len(point) >= len(best) and path.is_relative_to(point):
            best, kind = point, fields[2]
    if kind in _NETWORK_FILE_SYSTEMS:
        raise LogError(
            f"{path} is on a network file system ({kind} at {best}), which cannot hold a log shared by processes: "
            "use a local disk, or Kafka between machines"
        )


def translated(error: sqlite3.Error, path: Path) -> LogError:
    """sqlite's error as one of ours, saying where and how to mend it."""
    name = str(getattr(error, "sqlite_errorname", "") or type(error).__name__)
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE")):
        return LogFull(
            f"no space for {path} ({error}): free some, or move the log to a larger disk; nothing was written"
        )
    if name.startswith("SQLITE_READONLY"):
        return LogFull(f"{path} cannot be written ({error}): check its owner and mode, and those of its folder")
    if name.startswith("SQLITE_CANTOPEN"):
        return LogUnavailable(f"{path} cannot be opened ({error}): check that its folder exists and may be written")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return LogUnavailable(
            f"{path} is locked by another process ({error}): end or continue that process, then retry"
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return LogError(
            f"{path} is damaged or no streamer log ({error}): move it away and restore a copy, or start anew"
        )
    return LogError(f"{path}: {name}: {error}")


def _check_ours(connection: sqlite3.Connection, path: Path) -> None:
    """Raises LogError for a file of another program or of a newer format."""
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if application_id != APPLICATION_ID and not (application_id == 0 and empty):
        raise LogError(f"{path} is a SQLite database of another program: choose another path for the log")
    if application_id == APPLICATION_ID and version != FORMAT_VERSION:
        raise LogError(
            f"{path} has log format {version}, this version reads {FORMAT_VERSION}: use the version that wrote it"
        )
