"""Several processes over one SQLite file that are killed, stopped, without room or not allowed to write."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamer.errors import LogFull
from streamer.log.base import TopicSpec
from streamer.log.sqlite import SqliteLog
from streamer.records import NewRecord, TopicPartition
from tests.chaos import one_file

NOBODY = 65_534
_HOLDER = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
file.execute("COMMIT")
"""


def test_processes_that_are_killed_while_they_feed_and_serve_lose_double_and_change_nothing(tmp_path: Path) -> None:
    result = one_file.kills(tmp_path, 15, random.Random(3))
    assert result.wrong == []
    assert result.outputs > result.records > 100


def test_who_finds_the_disk_full_says_so_and_ends_and_what_was_committed_goes_on(tmp_path: Path) -> None:
    result = one_file.full_disk(tmp_path, 2, random.Random(3))
    assert result.wrong == []
    assert result.outputs > result.records > 100


def test_a_file_with_another_answer_in_it_is_not_taken_for_right(tmp_path: Path) -> None:
    one_file.kills(tmp_path, 1, random.Random(3))
    assert one_file.judged(tmp_path / "log.db").wrong == []
    with sqlite3.connect(tmp_path / "log.db") as file:
        changed = file.execute(
            "UPDATE records SET value = CAST(CAST(value AS TEXT) || ' ' AS BLOB) WHERE id = (SELECT max(records.id) "
            "FROM records JOIN partitions ON records.id >> 40 = partitions.id WHERE topic = 'predictions')"
        )
        assert changed.rowcount == 1
    file.close()
    assert one_file.judged(tmp_path / "log.db").wrong


@contextmanager
def stopped_with_the_lock(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the write lock of the log, and is stopped."""
    command = [sys.executable, "-c", _HOLDER, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGSTOP)
    process.stdin.write("\n")  # to be read when it goes on
    process.stdin.flush()
    yield process
    process.kill()
    process.communicate()


async def with_topic(path: Path) -> None:
    async with SqliteLog(path) as log:
        await log.create_topics([TopicSpec("topic", 1)])


@pytest.mark.parametrize("how", [signal.SIGCONT, signal.SIGKILL])
async def test_a_process_stopped_with_the_lock_delays_the_others_until_it_goes_on_or_is_killed(
    tmp_path: Path, how: signal.Signals
) -> None:
    name = TopicPartition("topic", 0)
    async with SqliteLog(tmp_path / "log.db") as log:
        await log.create_topics([TopicSpec("topic", 1)])
        with stopped_with_the_lock(tmp_path / "log.db") as holder:
            appending = asyncio.create_task(log.append("topic", 0, [NewRecord(None, b"waits")]))
            await asyncio.wait({appending}, timeout=0.5)
            assert not appending.done()
            assert (await log.offsets([name]))[name].end == 0  # reads go on
            holder.send_signal(how)
            assert await appending == 0


def open_as_nobody(path: Path, said: Path) -> None:
    """In a process of its own: root may write everything."""
    if os.geteuid() == 0:
        os.setuid(NOBODY)
    try:
        asyncio.run(with_topic(path))
    except LogFull as error:
        with said.open("a", encoding="utf-8") as file:
            file.write(str(error))


def test_a_file_that_may_not_be_written_is_said_and_left_as_it_is() -> None:
    with tempfile.TemporaryDirectory(prefix="streamer-") as name:
        folder = Path(name)
        path, said = folder / "log.db", folder / "said"
        asyncio.run(with_topic(path))
        before = path.read_bytes()
        said.touch()
        said.chmod(0o666)
        path.chmod(0o444)
        folder.chmod(0o755)
        process = multiprocessing.get_context("fork").Process(target=open_as_nobody, args=(path, said))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert "cannot be written" in said.read_text(encoding="utf-8")
        assert path.read_bytes() == before
