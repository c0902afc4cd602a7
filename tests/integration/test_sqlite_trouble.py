"""What the SQLite log does when things go wrong: several processes, kill -9, a full disk, a slow reader, bad files."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from streamer.errors import Fenced, LogError, LogFull, TopicMissing
from streamer.log.base import Commit, Committed, TopicSpec
from streamer.log.sqlite import SqliteLog
from streamer.log.sqlite_file import WAL_LIMIT_BYTES, check_local
from streamer.log.sqlite_liveness import SilenceWatch, has_ended, this_process
from streamer.records import Append, NewRecord, TopicPartition
from tests.integration.log_conformance import PATIENCE_S, Member, everything, plain, turns

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """Another process with the same log. It says one JSON line per step and goes on at each line it is sent."""

    def __init__(self, script: str, path: Path) -> None:
        code = f"import asyncio, json, sys\nfrom pathlib import Path\nPATH = Path({str(path)!r})\n{_PRELUDE}\n{script}"
        command = [sys.executable, "-c", code]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def line(self) -> object:
        """The next thing it says; waits for it."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def go_on(self) -> None:
        """Let it take its next step."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self, how: signal.Signals) -> None:
        """Signal it and wait until it has ended."""
        self.process.send_signal(how)
        self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """End it if it has not ended, and close its pipes."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


_PRELUDE = """
import resource
from streamer.errors import LogFull
from streamer.log.base import Assigned, Commit, TopicSpec
from streamer.log.sqlite import SqliteLog
from streamer.records import NewRecord, TopicPartition

def say(what):
    print(json.dumps(what), flush=True)

async def told():
    await asyncio.to_thread(sys.stdin.readline)
"""

_OWNER = """
async def main():
    async with SqliteLog(PATH) as log, log.consumer("group", ["topic"]) as consumer:
        owned = set()
        while len(owned) < 2:
            for event in await consumer.read(timeout_s=30):
                if isinstance(event, Assigned):
                    owned |= event.partitions
        await consumer.commit([Commit(TopicPartition("topic", 0), 1, "by the child")])
        say(len(owned))
        await told()
        say("alive")
asyncio.run(main())
"""


async def test_two_processes_append_to_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    script = """
async def main():
    async with SqliteLog(PATH) as log:
        for i in range(100):
            await log.append("topic", 0, [NewRecord(b"child", b"%d" % i)])
        say("done")
asyncio.run(main())
"""
    async with SqliteLog(path) as log:
        await log.create_topics([TopicSpec("topic", 1)])
        child = Child(script, path)
        for i in range(100):
            await log.append("topic", 0, [NewRecord(b"parent", b"%d" % i)])
        assert await asyncio.to_thread(child.line) == "done"
        child.close()
        records = await everything(log, TopicPartition("topic", 0))
    for who in (b"child", b"parent"):
        assert [r.value for r in records if r.key == who] == [b"%d" % i for i in range(100)]


async def test_a_reader_is_woken_by_another_process(tmp_path: Path) -> None:
    script = """
async def main():
    async with SqliteLog(PATH) as log:
        say("ready")
        await told()
        await log.append("topic", 0, [NewRecord(None, b"news")])
asyncio.run(main())
"""
    path = tmp_path / "log.db"
    async with SqliteLog(path) as log:
        await log.create_topics([TopicSpec("topic", 1)])
        child = Child(script, path)
        assert await asyncio.to_thread(child.line) == "ready"
        async with log.reader({TopicPartition("topic", 0): 0}) as reader:
            assert await reader.read() == []
            child.go_on()
            (batch,) = await reader.read(timeout_s=PATIENCE_S)
        assert batch.records[0].value == b"news"
        child.close()


async def test_the_partitions_of_a_killed_process_move_with_what_it_committed(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with SqliteLog(path) as log:
        await log.create_topics([TopicSpec("topic", 2)])
        child = Child(_OWNER, path)
        assert await asyncio.to_thread(child.line) == 2
        child.end(signal.SIGKILL)
        child.close()
        async with log.consumer("group", ["topic"]) as consumer:
            heir = Member(consumer)
            await turns(heir, until=lambda: len(heir.owned) == 2)
            assert await consumer.committed(TopicPartition("topic", 0)) == Committed(1, "by the child")


async def test_the_partitions_of_a_stopped_process_move_after_the_lease_and_it_is_fenced(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    script = (
        _OWNER.replace(
            'say("alive")',
            """try:
            await consumer.commit([Commit(TopicPartition("topic", 0), 9, "stale")])
        except LogError as error:
            say(type(error).__name__)""",
        )
        .replace("asyncio.run", "from streamer.errors import LogError\nasyncio.run")
        .replace("SqliteLog(PATH)", "SqliteLog(PATH, lease_s=0.5)")
    )
    async with SqliteLog(path, lease_s=0.5) as log:
        await log.create_topics([TopicSpec("topic", 2)])
        child = Child(script, path)
        assert await asyncio.to_thread(child.line) == 2
        child.process.send_signal(signal.SIGSTOP)
        async with log.consumer("group", ["topic"]) as consumer:
            heir = Member(consumer)
            await turns(heir, until=lambda: len(heir.owned) == 2)
            child.go_on()
            child.process.send_signal(signal.SIGCONT)
            assert await asyncio.to_thread(child.line) == "Fenced"
            child.close()
            assert await consumer.committed(TopicPartition("topic", 0)) == Committed(1, "by the child")


async def test_a_full_disk_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    script = """
async def main():
    async with SqliteLog(PATH) as log:
        await log.append("topic", 0, [NewRecord(None, b"fits")])
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
        try:
            await log.append("topic", 0, [NewRecord(None, b"x" * 900_000)])
        except LogFull as error:
            say(str(error))
asyncio.run(main())
"""
    path = tmp_path / "log.db"
    async with SqliteLog(path) as log:
        await log.create_topics([TopicSpec("topic", 1)])
        child = Child(script, path)
        said = str(await asyncio.to_thread(child.line))
        child.close()
        assert str(path) in said
        assert "free some" in said
        assert [r.value for r in await everything(log, TopicPartition("topic", 0))] == [b"fits"]


async def test_a_commit_that_is_fenced_writes_nothing_at_all(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(SqliteLog(tmp_path / "log.db"))
        await log.create_topics([TopicSpec("topic", 1), TopicSpec("out", 1)])
        consumer = await stack.enter_async_context(log.consumer("group", ["topic"]))
        member = Member(consumer)
        await turns(member, until=lambda: bool(member.owned))
        with sqlite3.connect(tmp_path / "log.db") as other:
            other.execute("UPDATE leases SET epoch = epoch + 1")
        other.close()
        commit = Commit(TopicPartition("topic", 0), 1, outputs=[Append("out", 0, plain([b"stale"]))])
        with pytest.raises(Fenced):
            await consumer.commit([commit])
        assert await everything(log, TopicPartition("out", 0)) == []
        assert await consumer.committed(TopicPartition("topic", 0)) is None


async def test_the_write_ahead_log_stays_small_under_a_slow_reader(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    wal = path.with_name("log.db-wal")
    async with SqliteLog(path, synchronous="OFF") as log:
        await log.create_topics([TopicSpec("topic", 1)])
        largest_bytes = 0
        async with log.reader({TopicPartition("topic", 0): 0}) as reader:
            for _ in range(100):
                await log.append("topic", 0, plain([b"x" * 100_000] * 10))
                assert await reader.read(max_records=1)
                largest_bytes = max(largest_bytes, wal.stat().st_size)
    assert largest_bytes < WAL_LIMIT_BYTES
    assert path.stat().st_size > 2 * WAL_LIMIT_BYTES


async def test_appends_wait_for_the_disk_by_default(tmp_path: Path) -> None:
    async with SqliteLog(tmp_path / "log.db") as log:
        level = await log.read(lambda connection: connection.execute("PRAGMA synchronous").fetchone())
        mode = await log.read(lambda connection: connection.execute("PRAGMA journal_mode").fetchone())
    assert (level, mode) == ((2,), ("wal",))  # 2 is FULL


async def test_a_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE precious (x)")
    other.close()
    with pytest.raises(LogError, match="another program"):
        await open_and_close(path)


async def test_a_file_that_is_no_database_is_said_to_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(b"no database at all " * 1000)
    with pytest.raises(LogError, match="damaged"):
        await open_and_close(path)


async def test_a_log_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    await open_and_close(tmp_path / "log.db")
    with sqlite3.connect(tmp_path / "log.db") as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(LogError, match="format 99"):
        await open_and_close(tmp_path / "log.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
async def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await open_and_close(path)
    path.chmod(0o444)
    with pytest.raises(LogFull, match="cannot be written"):
        await open_and_close(path)


async def open_and_close(path: Path) -> None:
    """Open the log and close it again."""
    async with SqliteLog(path):
        pass


def test_a_network_file_system_is_refused() -> None:
    mounts = "/dev/sda1 / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\ntmpfs /home/me/fast tmpfs rw 0 0\n"
    with pytest.raises(LogError, match="nfs4 at /home"):
        check_local(Path("/home/me/log.db"), mounts)
    check_local(Path("/home/me/fast/log.db"), mounts)
    check_local(Path("/var/log.db"), mounts)


async def test_one_refused_append_harms_no_other_that_shares_its_transaction(tmp_path: Path) -> None:
    async with SqliteLog(tmp_path / "log.db") as log:
        await log.create_topics([TopicSpec("topic", 1)])
        appends = [log.append(name, 0, plain([b"a"])) for name in ("topic", "missing", "topic")]
        first, refused, last = await asyncio.gather(*appends, return_exceptions=True)
        assert (first, last) == (0, 1)
        assert isinstance(refused, TopicMissing)


async def test_a_record_that_is_not_bytes_fails_its_append_and_the_log_goes_on(tmp_path: Path) -> None:
    async with SqliteLog(tmp_path / "log.db") as log:
        await log.create_topics([TopicSpec("topic", 1)])
        with pytest.raises(OverflowError):
            await log.append("topic", 0, [NewRecord(None, b"a", (), 2**80)])
        assert await log.append("topic", 0, plain([b"b"])) == 0


def test_silence_is_counted_only_while_somebody_looks() -> None:
    now_s = 0.0
    watch = SilenceWatch(lambda: now_s, max_step_s=2.0)
    assert watch.look({"a": 1}) == {"a": 0.0}
    now_s = 1.0
    assert watch.look({"a": 1, "b": 1}) == {"a": 1.0, "b": 0.0}
    now_s = 1000.0  # this process was stopped, or the clock jumped
    assert watch.look({"a": 1, "b": 2}) == {"a": 3.0, "b": 0.0}


def test_a_process_that_ended_is_known_by_its_id_and_start_time() -> None:
    me = this_process()
    assert not has_ended(me)
    boot, namespace, pid, start = me.split()
    assert has_ended(f"{boot} {namespace} {pid} {int(start) + 1}")  # the id was given to another process
    assert has_ended(f"another-boot {namespace} {pid} {start}")
    assert not has_ended(f"{boot} pid:[1] {pid} {start}")  # another container: cannot be looked into
    assert not has_ended("")
