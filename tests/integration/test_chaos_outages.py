"""Faults that are not kills of workers, in short runs: what was said is what would have been said (docs/chaos.md)."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos import poison
from tests.chaos.clocks import Shift
from tests.chaos.history import Fed, History, history
from tests.chaos.outside import Output

ROOT = Path(__file__).parents[2]
CLEAN = history("sensors", 1, generated=True)


@pytest.mark.kafka
@pytest.mark.usefixtures("kafka")  # for its being there; a run has brokers of its own
def test_a_short_run_with_all_faults_of_broker_network_clocks_and_records_is_clean(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--history", "sensors", "--generated", "--kills", "8"]
    command += ["--seed", "11", "--folder", str(tmp_path), "--scenario", "mixed", "--scenario", "poison"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"all clean: yes", done.stdout)
    for fault in ("the broker ", "connections cut", "clocks jump", "nobody can read", "SIGKILL", "a worker joins"):
        assert fault in done.stdout


def strewn(folder: Path, times: int = 40, seed: int = 1) -> tuple[History, Sequence[Fed]]:
    return poison.poisoned(CLEAN, times, random.Random(seed), folder)


@given(st.integers(0, 60), st.integers(0, 10**6))
def test_poison_is_strewn_among_the_records_without_moving_or_losing_one(times: int, seed: int) -> None:
    poisoned, bad = strewn(Path("nowhere"), times, seed)
    marks = {one.headers[-1] for one in bad}
    assert len(marks) == len(bad) == times
    assert [one for one in poisoned.records if not marks & set(one.headers)] == list(CLEAN.records)
    assert [one for one in poisoned.records if marks & set(one.headers)] == list(bad)


def letter(one: Fed) -> Output:
    """The dead letter of a record, as it is to be."""
    headers = (*one.headers, ("ce_type", b"streamer.deadletter.v1"), ("x-dead-reason", b"no number"))
    return Output("deadletters", one.partition, one.key, one.value, headers, one.timestamp_ms)


def answer(number: int, value: bytes = b'{"value": 1}') -> Output:
    headers = (("ce_id", b"in/0/%d/prediction/0" % number), ("ce_subject", b"s"), ("ce_type", b"p"), ("ce_time", b"t"))
    return Output("predictions", 0, b"s", value, headers, number)


BAD = strewn(Path("nowhere"), 12)[1][poison.MOST_TOO_LARGE :]
LETTERS = [letter(one) for one in BAD]


def test_letters_with_the_same_bytes_and_answers_under_other_offsets_are_as_they_should_be() -> None:
    assert poison.wrongs(BAD, [answer(0), answer(1)], [*LETTERS, answer(3), answer(7)]) == []


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (LETTERS[1:], "0 dead letters of one record"),
        ([*LETTERS, LETTERS[0]], "2 dead letters of one record"),
        ([LETTERS[0]._replace(value=b"other"), *LETTERS[1:]], "another value, key or headers"),
        ([LETTERS[0]._replace(key=b"other"), *LETTERS[1:]], "another value, key or headers"),
        ([LETTERS[0]._replace(headers=LETTERS[0].headers[1:]), *LETTERS[1:]], "dead letters|headers"),
        ([*LETTERS, letter(BAD[0]._replace(headers=()))], "1 more dead letters"),
    ],
    ids=["lost", "doubled", "value", "key", "headers", "invented"],
)
def test_a_dead_letter_that_is_not_as_it_should_be_is_found(found: Sequence[Output], wrong: str) -> None:
    assert re.search(wrong, "\n".join(poison.wrongs(BAD, [], found)))


@pytest.mark.parametrize(
    "found",
    [[answer(3)], [answer(3), answer(4), answer(5)], [answer(3), answer(4, b'{"value": 2}')]],
    ids=["lost", "doubled", "changed"],
)
def test_answers_that_poison_has_changed_are_found(found: Sequence[Output]) -> None:
    assert poison.wrongs(BAD, [answer(0), answer(1)], [*LETTERS, *found])


def test_a_process_reads_a_clock_that_another_one_sets(tmp_path: Path) -> None:
    shift = Shift(tmp_path / "clock", new=True)
    shift.to(36_000.0)
    code = f"""
import time
from pathlib import Path
from tests.chaos.clocks import follow
follow(Path({str(tmp_path / "clock")!r}))
print(time.time(), time.time_ns())
"""
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    seconds, nanoseconds = said.split()
    assert abs(float(seconds) - time.time() - 36_000) < 60
    assert abs(int(nanoseconds) / 1e9 - float(seconds)) < 1
