"""The chaos harness: its comparison catches what it is there for, and a short run of it is right (docs/chaos.md)."""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.errors import LogUnavailable
from streamer.log.base import Assigned, Commit, Committed, Consumer
from streamer.log.kafka_connection import KafkaOptions
from streamer.log.kafka_transactions import Transactions
from streamer.records import Append, NewRecord, TopicPartition
from streamer.worker.progress import FLOOR_KEY
from streamer.worker.topics import changelog_of
from tests.chaos import outside
from tests.chaos.compare import Repeated, count, differences
from tests.chaos.crew import Death
from tests.chaos.history import Fed, History, history
from tests.chaos.journal import Entry, Journal
from tests.chaos.outside import Output
from tests.chaos.phases import NAMES, Board, Phase, Watch
from tests.chaos.run import Undecided, check_decided
from tests.chaos.schedule import AFTERMATHS, STRIKES, cycle
from tests.chaos.steps import STEP_NAMES, Step
from tests.chaos.storm import Done
from tests.chaos.table import LEAST_A_PHASE, lacking
from tests.chaos.watched import WatchedLog

ROOT = Path(__file__).parents[2]


def output(stream: int, number: int, value: bytes = b"v") -> Output:
    """The answer to a stream's record of this number."""
    headers = (("ce_id", f"in/{stream}/{number}/prediction/0".encode()), ("ce_subject", str(stream).encode()))
    return Output("predictions", stream, b"k", value, headers, number)


RIGHT = [output(stream, number) for number in range(4) for stream in range(3)]
PLACES = st.integers(0, len(RIGHT) - 1)


@given(st.permutations(range(3)))
def test_outputs_of_several_streams_may_come_in_any_order_of_the_streams(order: Sequence[int]) -> None:
    found = [output(stream, number) for stream in order for number in range(4)]
    assert differences(RIGHT, found) == []


@given(PLACES)
def test_an_output_that_is_missing_is_lost(place: int) -> None:
    (found,) = differences(RIGHT, [*RIGHT[:place], *RIGHT[place + 1 :]])
    assert (found.what, found.expected) == ("lost", RIGHT[place])


@given(PLACES, PLACES)
def test_an_output_that_is_there_again_is_doubled_wherever_it_stands(place: int, again: int) -> None:
    found = differences(RIGHT, [*RIGHT[:again], RIGHT[place], *RIGHT[again:]])
    assert count(found)["doubled"] == 1
    assert {difference.id for difference in found if difference.what == "doubled"} == {RIGHT[place].header("ce_id")}


@pytest.mark.parametrize(
    "wrong",
    [
        output(0, 0)._replace(value=b"w"),
        output(0, 0)._replace(key=b"l"),
        output(0, 0)._replace(partition=1),
        output(0, 0)._replace(timestamp_ms=1),
        output(0, 0)._replace(headers=(*output(0, 0).headers, ("model", b"another"))),
    ],
    ids=["value", "key", "partition", "time", "header"],
)
def test_an_output_that_is_not_the_same_to_the_byte_is_changed(wrong: Output) -> None:
    (found,) = differences(RIGHT, [wrong, *RIGHT[1:]])
    assert (found.what, found.found) == ("changed", wrong)


def test_an_output_that_nobody_expected_is_invented() -> None:
    (found,) = differences(RIGHT, [*RIGHT, output(0, 9)])
    assert (found.what, found.id) == ("invented", "in/0/9/prediction/0")


def test_a_streams_outputs_in_another_order_are_found() -> None:
    (found,) = differences(RIGHT, [RIGHT[3], *RIGHT[1:3], RIGHT[0], *RIGHT[4:]])
    assert (found.what, found.stream) == ("out of order", "0")


def test_an_uninterrupted_run_that_repeats_itself_is_no_measure() -> None:
    with pytest.raises(Repeated):
        differences([*RIGHT, RIGHT[0]], RIGHT)


def test_a_history_in_which_a_stream_decides_nothing_is_refused() -> None:
    fed = [Fed("sensors", 0, b"quiet", b"", (), 0)]
    with pytest.raises(Undecided, match="quiet"):
        check_decided(History("sensors", {}, fed, {"sensors": "streamer.alert.v1"}, {}), RIGHT)


def test_input_that_is_settled_is_in_the_log_before_a_broker_may_be_lost(kafka: str) -> None:
    topic = f"input-{uuid.uuid4().hex}"
    records = [Fed(topic, number % 2, b"key", b"%d" % number, (), number) for number in range(100)]
    feeder = outside.Feeder(kafka, records)
    feeder.feed(0.5)
    feeder.settle()
    there = outside.ends(kafka, [topic])
    assert {place: there[place] for place in feeder.fed} == feeder.fed == {(topic, 0): 25, (topic, 1): 25}


@given(st.integers(0, 10**6), st.integers(0, 1000))
def test_a_seed_draws_the_same_faults_again(seed: int, number: int) -> None:
    assert cycle(seed, number) == cycle(seed, number)


def test_two_seeds_draw_different_faults() -> None:
    assert [cycle(1, n) for n in range(5)] != [cycle(2, n) for n in range(5)]


@given(st.integers(0, 10**6), st.integers(0, 10))
def test_in_every_deck_each_phase_and_each_step_of_a_commit_has_its_share(seed: int, deck: int) -> None:
    cycles = [cycle(seed, deck * len(STRIKES) + place) for place in range(len(STRIKES))]
    kills = [fault.strike for faults in cycles for fault in faults if fault.strike.kind.startswith("kill")]
    assert sum(3 if kill.kind == "kill three" else 1 for kill in kills) == 50
    assert Counter(kill.step for kill in kills if kill.step is not None) == dict.fromkeys(STEP_NAMES, 1)
    aims = Counter(kill.phase for kill in kills)
    assert min(aims[phase] for phase in Phase) >= 2
    assert {phase: aims[phase] for phase in AFTERMATHS if phase is not None} == {
        Phase.JOINING: 3,
        Phase.RESTORING: 5,
        Phase.RERUNNING: 5,
    }


def deaths(a_phase: int, published: float) -> list[Death]:
    """So many kills in each phase, of which this share hit workers that had just published."""
    return [Death(name, place < published * a_phase) for name in NAMES.values() for place in range(a_phase)]


def test_a_full_run_whose_kills_missed_a_phase_or_a_step_or_hit_idle_workers_is_not_clean() -> None:
    steps = dict.fromkeys(STEP_NAMES.values(), 1)
    assert lacking(deaths(LEAST_A_PHASE, 0.5), steps) == []
    assert len(lacking(deaths(LEAST_A_PHASE - 1, 0.5), steps)) == len(Phase)
    assert len(lacking(deaths(LEAST_A_PHASE, 0.5), {})) == len(steps)
    assert len(lacking(deaths(LEAST_A_PHASE, 0.4), steps)) == 1


def test_a_journal_whose_last_line_was_broken_off_goes_on_behind_the_line_before(tmp_path: Path) -> None:
    entry = Entry([Done("kill one", [Death("live", True)])], 1.5, [])
    Journal(tmp_path / "journal.jsonl").add(entry)
    with (tmp_path / "journal.jsonl").open("a", encoding="utf-8") as file:
        file.write('[[["kill')
    again = Journal(tmp_path / "journal.jsonl")
    again.add(entry)
    assert again.entries == Journal(tmp_path / "journal.jsonl").entries == [entry, entry]


def test_a_history_is_the_same_when_it_is_made_again() -> None:
    once, again = (history("sensors", 50, generated=True).records for _ in range(2))
    assert once == again


def test_outputs_are_read_back_from_a_file_as_they_were(tmp_path: Path) -> None:
    odd = output(0, 0)._replace(key=b"\xff\x00\n", value='"ä"'.encode())
    outside.write(tmp_path / "outputs.jsonl", [odd, *RIGHT])
    assert outside.read(tmp_path / "outputs.jsonl") == [odd, *RIGHT]


def test_a_board_tells_the_phase_of_a_worker_that_is_gone(tmp_path: Path) -> None:
    name = TopicPartition("in", 0)
    board = Board(tmp_path / "board", 1, new=True)
    watch = Watch(Board(tmp_path / "board", 1), 0, [])
    seen = [board.phase]
    watch.assigned(name)
    seen.append(board.phase)
    watch.begins_at(name, 0)
    seen.append(board.phase)
    watch.opened(name)
    seen.append(board.phase)
    watch.ending(name)
    watch.closed(name, known=False)
    seen.append(board.phase)
    watch.committed(Commit(name, 1))
    seen.append(board.phase)
    assert seen == [Phase.JOINING, Phase.RESTORING, Phase.LIVE, Phase.TRANSACTION, Phase.LOST, Phase.LIVE]


def test_a_partition_is_run_again_until_it_is_beyond_what_was_committed(tmp_path: Path) -> None:
    name = TopicPartition("in", 0)
    board = Board(tmp_path / "board", 1, new=True)
    watch = Watch(board, 0, [])
    watch.assigned(name)
    watch.read_committed(name, Committed(9, ""))
    watch.begins_at(name, 4)
    seen = [board.phase]
    for offset in (9, 10):
        watch.committed(Commit(name, offset))
        seen.append(board.phase)
    assert seen == [Phase.RERUNNING, Phase.RERUNNING, Phase.LIVE]


async def assigned(consumer: Consumer) -> None:
    """Wait for partitions."""
    while not any(isinstance(event, Assigned) for event in await consumer.read(timeout_s=0.2)):
        pass


@pytest.mark.kafka
async def test_what_stands_in_a_transaction_that_was_never_ended_is_seen_by_nobody(kafka: str, tmp_path: Path) -> None:
    source, target, group = (f"{name}-{uuid.uuid4().hex[:8]}" for name in ("in", "out", "group"))
    outside.create_topics(kafka, [source, target])
    losses = [False]
    watch = Watch(Board(tmp_path / "board", 1, new=True), 0, losses)
    options = KafkaOptions(bootstrap_servers=kafka, delivery="exactly_once")
    answer = Commit(TopicPartition(source, 0), 1, outputs=[Append(target, 0, [NewRecord(b"k", b"1")])])
    async with WatchedLog(options, lambda _: watch) as log:
        async with log.consumer(group, [source]) as broken_off:
            await assigned(broken_off)
            with pytest.raises(LogUnavailable):
                await broken_off.commit([answer])
        async with log.consumer(group, [source]) as next_owner:
            await assigned(next_owner)  # which has ended what was left open
            assert outside.ends(kafka, [target]) == outside.ends(kafka, [target], committed=True)
            assert outside.read_committed(kafka, [target]) == []
            await next_owner.commit([answer])
    assert [output.value for output in outside.read_committed(kafka, [target])] == [b"1"]


def commit_once(bootstrap: str, source: str, target: str, group: str, board: Path) -> None:
    """A worker's process: one commit of an output and a state, which it does not survive."""

    async def committed() -> None:
        changelog = changelog_of(group, source)
        answer = Commit(
            TopicPartition(source, 0),
            1,
            outputs=[Append(target, 0, [NewRecord(b"k", b"1")])],
            states=[Append(changelog, 0, [NewRecord(b"s", b"state")])],
            floor=[Append(changelog, 0, [NewRecord(FLOOR_KEY, b"1")])],
        )
        watch = Watch(Board(board, 1), 0, [])
        options = KafkaOptions(bootstrap_servers=bootstrap, delivery="exactly_once")
        async with WatchedLog(options, lambda _: watch) as log, log.consumer(group, [source]) as member:
            await assigned(member)
            await member.commit([answer])

    asyncio.run(committed())


@pytest.mark.kafka
@pytest.mark.parametrize("step", STEP_NAMES, ids=STEP_NAMES.get)
async def test_of_a_commit_that_died_at_a_step_all_is_seen_or_nothing(kafka: str, tmp_path: Path, step: Step) -> None:
    source, target, group = (f"{name}-{uuid.uuid4().hex[:8]}" for name in ("in", "out", "group"))
    outside.create_topics(kafka, [source, target, changelog_of(group, source)])
    board = Board(tmp_path / "board", 1, new=True)
    board.trap = step
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chaos.worker"])
    process = context.Process(target=commit_once, args=(kafka, source, target, group, tmp_path / "board"))
    process.start()
    await asyncio.to_thread(process.join)
    assert (process.exitcode, board.sprung) == (-signal.SIGKILL, step)
    next_owner = Transactions(KafkaOptions(bootstrap_servers=kafka), group)
    await next_owner.acquire([TopicPartition(source, 0)])  # which ends what was left open
    await next_owner.stop()
    outside.until_settled(kafka, [target, changelog_of(group, source)])
    seen = [len(outside.read_committed(kafka, [topic])) for topic in (target, changelog_of(group, source))]
    at = outside.committed(kafka, group, source)[0]
    assert (seen, max(0, at)) == (([1, 2], 1) if step is Step.AFTER_END else ([0, 0], 0))


def chaos(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.chaos", "--history", "sensors", "--generated", "--folder", str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *arguments], cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT, text=True)


RIGHT_RUN = ("--seed", "46", "--kills", "5", "--scenario", "kills", "--scenario", "kills-mixed")
PLANTED = ("offset-before-output", "state-ahead", "floor-too-high")


@pytest.mark.kafka
@pytest.mark.usefixtures("kafka")  # for its being there; a run has brokers of its own
def test_a_short_run_is_clean_although_the_harness_was_killed_and_planted_mistakes_are_found(tmp_path: Path) -> None:
    well = chaos(tmp_path, *RIGHT_RUN)
    ill = chaos(tmp_path, "--seed", "1312", *(word for name in PLANTED for word in ("--plant", name)))
    with well, ill:  # side by side: both wait most of the time
        assert well.stdout is not None
        while " of 5 kills" not in well.stdout.readline():
            pass
        well.kill()
        well.communicate()  # its workers and its broker have ended with it
        with chaos(tmp_path, "--resume", *RIGHT_RUN) as again:
            said, planted = again.communicate()[0], ill.communicate()[0]
    assert again.returncode == 0, said
    assert re.search(r"all clean: yes \(.*\)$", said.strip())
    assert ill.returncode == 0, planted
    for name in PLANTED:
        assert re.search(rf"planted: {name.replace('-', ' ')} .* found: .*\d+ (lost|changed)", planted)
        assert (tmp_path / "sensors-1312-500" / name / "differences.txt").read_text(encoding="utf-8").strip()
