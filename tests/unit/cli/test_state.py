"""`state export` and `state import`: a pipeline goes on where its export was taken, or is told why not."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamer.cli.main import main
from streamer.codecs.messages import FinalTranscript, Prediction, decode
from streamer.errors import Fenced, InputError, StateMismatch, TopicMismatch, TopicMissing
from streamer.feeds.recording import Recording
from streamer.log.base import Log
from streamer.log.kafka import KafkaLog
from streamer.log.kafka_connection import Delivery, KafkaOptions
from streamer.log.memory import MemoryLog
from streamer.log.sqlite import SqliteLog
from streamer.observe.comparison import Report, compare
from streamer.options import CommitOptions, OutputOptions
from streamer.records import TopicPartition
from streamer.state.file import MAGIC, BackupWriter, Origin, PartitionStates, read_backup
from streamer.state.transfer import Pipeline, export_states, import_states
from streamer.testing.models import RunningSum
from streamer.testing.serving import APPLICATION, INPUT, LOOK_S, PIPELINE, QUICK, Serving, event, options_of
from streamer.worker.worker import Worker
from tests.unit.cli.shown import lines

PARTITIONS = 2
LAYOUT = {"sum": ("float32", (1,))}
RARELY_SAVED = CommitOptions(commit_interval_ms=1, snapshot_interval_ms=3_600_000)
Fed = tuple[int, str, int]
"""Partition, stream, value; a stream ends with a zero."""
FED: list[Fed] = [
    (0, "a", 1),
    (1, "b", 2),
    (0, "a", 4),
    (0, "c", 3),
    (0, "c", 0),
    (1, "b", 5),
    (0, "a", 8),
    (0, "c", 6),
]


def serving(log: Log, *, commit: CommitOptions = QUICK, partitions: int = PARTITIONS, prefix: str = "") -> Serving:
    """A pipeline of running sums whose topics all begin with `prefix`."""
    outputs = OutputOptions(
        transcripts=f"{prefix}transcripts",
        predictions=f"{prefix}predictions",
        alerts=f"{prefix}alerts",
        streams=f"{prefix}streams",
        deadletters=f"{prefix}deadletters",
    )
    options = options_of(partitions, commit=commit, outputs=outputs)
    return Serving(log, RunningSum, replace(options, input=replace(options.input, topic=prefix + INPUT)))


def pipeline(bench: Serving, *, version: str = "1") -> Pipeline:
    """What `bench` serves, with its model as if it were of another version."""
    model = bench.worker().status().model.replace("-1@", f"-{version}@")
    return Pipeline(APPLICATION, PIPELINE, bench.options.input.topic, model, LAYOUT)


async def feed(bench: Serving, fed: Sequence[Fed]) -> None:
    for partition, stream, value in fed:
        await bench.feed([event(stream, value, x_eos="0" if value else "1")], partition)


async def answer(bench: Serving, fed: Sequence[Fed], *, killed: bool = False) -> Serving:
    """Feed and answer, then stop, or be killed with states that are not saved."""
    await feed(bench, fed)
    if killed:
        await bench.serve()
        return bench
    async with bench.running() as worker:
        await drained(bench, worker)
    return bench


async def drained(bench: Serving, worker: Worker) -> None:
    """Wait until all input is answered, looking again whenever a prediction was published."""
    names = [TopicPartition(bench.options.outputs.predictions, n) for n in range(bench.options.input.partitions)]
    async with bench.log.reader(dict.fromkeys(names, 0)) as published:
        while not await worker.drained():
            await published.read(timeout_s=LOOK_S)


async def created(bench: Serving) -> Serving:
    await bench.create_topics()
    return bench


async def moved(
    old: Serving, new: Serving, fed: Sequence[Fed], cut: int, path: Path, *, killed: bool = False
) -> Report:
    """What is said by a pipeline that moves after `cut` records, beside what one says that nobody interrupts."""
    await answer(await created(old), fed[:cut], killed=killed)
    await export_states(old.log, pipeline(old), path)
    await feed(await created(new), fed[:cut])
    await import_states(new.log, pipeline(new), path)
    await answer(new, fed[cut:])
    prefix = old.options.input.topic.removesuffix(INPUT)
    whole = await answer(await created(serving(MemoryLog(), prefix=prefix)), fed)
    return compare([*await old.said(), *await new.said()], await whole.said())


@given(
    st.lists(st.tuples(st.integers(0, PARTITIONS - 1), st.sampled_from("ab"), st.integers(0, 9)), min_size=1),
    st.data(),
    st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_a_moved_pipeline_says_what_it_would_have_said_without_moving(
    fed: list[Fed], data: st.DataObject, killed: bool
) -> None:
    cut = data.draw(st.integers(1, len(fed)))
    old = serving(MemoryLog(), commit=RARELY_SAVED if killed else QUICK)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sums.state"
        report = asyncio.run(moved(old, serving(MemoryLog()), fed, cut, path, killed=killed))
    assert report.differences == []
    assert report.a.repeated == 0


async def test_a_pipeline_moves_from_one_sqlite_file_to_another(tmp_path: Path) -> None:
    async with SqliteLog(tmp_path / "old.db") as old, SqliteLog(tmp_path / "new.db") as new:
        report = await moved(serving(old), serving(new), FED, 5, tmp_path / "sums.state")
    assert report.differences == []


@pytest.mark.kafka
@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
async def test_a_pipeline_moves_to_kafka_and_can_be_exported_from_there(
    kafka: str, delivery: Delivery, tmp_path: Path
) -> None:
    prefix = f"{uuid.uuid4().hex}-"
    async with KafkaLog(KafkaOptions(bootstrap_servers=kafka, delivery=delivery)) as log:
        old, new = serving(MemoryLog(), prefix=prefix), serving(log, prefix=prefix)
        report = await moved(old, new, FED, 5, tmp_path / "sums.state")
        exported = await export_states(log, pipeline(new), tmp_path / "again.state")
    assert report.differences == []
    assert (exported.partitions, exported.states) == (PARTITIONS, 3)


@pytest.fixture
async def exported(tmp_path: Path) -> Path:
    """The backup of a pipeline that has answered FED."""
    bench = await answer(await created(serving(MemoryLog())), FED)
    await export_states(bench.log, pipeline(bench), tmp_path / "sums.state")
    return tmp_path / "sums.state"


async def fed_bench(partitions: int = PARTITIONS) -> Serving:
    """A pipeline that has FED before it and was never served."""
    bench = await created(serving(MemoryLog(), partitions=partitions))
    await feed(bench, FED)
    return bench


async def test_an_import_that_is_exported_again_is_the_same_backup(exported: Path, tmp_path: Path) -> None:
    bench = await fed_bench()
    assert (await import_states(bench.log, pipeline(bench), exported)).states == 3
    await export_states(bench.log, pipeline(bench), tmp_path / "again.state")
    again, first = read_backup(tmp_path / "again.state"), read_backup(exported)
    assert again.parts == first.parts
    assert [part.committed for part in first.parts] == [6, 2]


@given(st.data())
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_backup_with_any_byte_changed_or_cut_off_is_refused(exported: Path, data: st.DataObject) -> None:
    whole = exported.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    path = exported.with_name("damaged.state")
    for damaged in (changed, whole[:place]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"damaged\.state is"):
            read_backup(path)


async def test_a_file_whose_hash_fits_is_still_checked_for_what_it_holds(tmp_path: Path) -> None:
    origin = Origin("test", "sums", INPUT, "model-1@0", 2, 0)
    with BackupWriter(tmp_path / "short.state", origin) as writer:
        writer.write(PartitionStates(1, 5, None, ()))
    with pytest.raises(InputError, match="does not hold each of its 2 partitions"):
        read_backup(tmp_path / "short.state")
    body = MAGIC + b"\x01\x00\x00\x00\x00\x00\x00\x00\xc0"
    (tmp_path / "odd.state").write_bytes(body + hashlib.blake2b(body, digest_size=32).digest())
    with pytest.raises(InputError, match="no backup that this version reads"):
        read_backup(tmp_path / "odd.state")


async def test_a_state_under_another_streams_key_is_refused(exported: Path, tmp_path: Path) -> None:
    backup = read_backup(exported)
    with BackupWriter(tmp_path / "mixed.state", backup.origin) as writer:
        for part in backup.parts:
            states = tuple((b"x" + key, state) for key, state in part.states)
            writer.write(PartitionStates(part.partition, part.committed, part.floor, states))
    bench = await fed_bench()
    with pytest.raises(StateMismatch, match="state of 'xa' in partition 0 is that of 'a'"):
        await import_states(bench.log, pipeline(bench), tmp_path / "mixed.state")


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def nothing_saved(bench: Serving) -> bool:
    there = await bench.log.topics()
    return bench.changelog not in there or await bench.records(bench.changelog) == []


async def test_the_states_of_another_model_are_refused(exported: Path) -> None:
    bench = await fed_bench()
    with pytest.raises(StateMismatch, match="import it with the model that wrote it"):
        await import_states(bench.log, pipeline(bench, version="2"), exported)
    other_shape = replace(pipeline(bench), layout={"sum": ("float32", (2,))})
    with pytest.raises(StateMismatch, match="the model wants"):
        await import_states(bench.log, other_shape, exported)
    assert await nothing_saved(bench)


async def test_another_number_of_partitions_is_refused(exported: Path) -> None:
    bench = await fed_bench(partitions=3)
    with pytest.raises(TopicMismatch, match="is of 2 partitions, 'input' has 3"):
        await import_states(bench.log, pipeline(bench), exported)
    assert await nothing_saved(bench)


async def test_an_input_without_the_records_that_the_states_contain_is_refused(exported: Path) -> None:
    bench = serving(MemoryLog())
    with pytest.raises(TopicMissing, match="the pipeline's input"):
        await import_states(bench.log, pipeline(bench), exported)
    await feed(await created(bench), FED[:5])
    with pytest.raises(TopicMismatch, match="input/0 holds offsets 0 to 4, the backup goes on from 6"):
        await import_states(bench.log, pipeline(bench), exported)
    with pytest.raises(TopicMismatch, match="the pipeline reads 'elsewhere'"):
        await import_states(bench.log, replace(pipeline(bench), topic="elsewhere"), exported)
    assert await nothing_saved(bench)


async def test_what_is_saved_already_is_only_given_up_when_told_so(exported: Path, tmp_path: Path) -> None:
    bench = await answer(await created(serving(MemoryLog())), [*FED, (0, "other", 5)])
    with pytest.raises(TopicMismatch, match="--replace"):
        await import_states(bench.log, pipeline(bench), exported)
    await import_states(bench.log, pipeline(bench), exported, replace=True)
    await export_states(bench.log, pipeline(bench), tmp_path / "again.state")
    assert read_backup(tmp_path / "again.state").parts == read_backup(exported).parts


async def test_a_live_worker_keeps_both_away_and_goes_on(exported: Path, tmp_path: Path) -> None:
    bench = await created(serving(MemoryLog()))
    async with bench.running() as worker:
        await feed(bench, FED)
        await drained(bench, worker)
        with pytest.raises(Fenced, match="is live: stop it first"):
            await export_states(bench.log, pipeline(bench), tmp_path / "live.state", wait_s=0.1)
        with pytest.raises(Fenced, match="is live: stop it first"):
            await import_states(bench.log, pipeline(bench), exported, replace=True, wait_s=0.1)
        await feed(bench, [(0, "a", 16)])
        await bench.until(worker, lambda: worker.status().records == len(FED) + 1)
    assert [path.name for path in files_in(tmp_path)] == ["sums.state"]
    said = [m.body.outputs["y"][0] for m in await bench.said() if isinstance(m.body, Prediction) and m.body.outputs]
    assert 29.0 in said


async def test_an_export_of_nothing_leaves_no_file(tmp_path: Path) -> None:
    bench = serving(MemoryLog())
    with pytest.raises(TopicMissing, match="the pipeline's input"):
        await export_states(bench.log, pipeline(bench), tmp_path / "none.state")
    await created(bench)
    with pytest.raises(InputError, match="there is nothing to export"):
        await export_states(bench.log, pipeline(bench), tmp_path / "none.state")
    assert files_in(tmp_path) == []


async def test_states_of_another_model_are_refused_or_left_out_of_an_export_as_declared(tmp_path: Path) -> None:
    bench = await answer(await created(serving(MemoryLog())), FED)
    newer = pipeline(bench, version="2")
    with pytest.raises(StateMismatch, match="this is"):
        await export_states(bench.log, newer, tmp_path / "sums.state")
    report = await export_states(bench.log, newer, tmp_path / "sums.state", leave_out_mismatches=True)
    assert (report.states, report.left_out) == (0, 3)


def test_the_command_moves_a_speech_pipeline_to_another_log(
    log: Path, gibberish: Path, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recording is cut in the middle of a stream; its second half is spoken on another log."""
    model = ["--set", f"pipelines.speech.model={gibberish}", "--set", "pipelines.speech.transcript.decoder=greedy"]
    run = ["run", "--quiet", "--until-drained", "--set", "feeds=[]", *model]
    elsewhere = ["--set", f"log.path={tmp_path / 'second.db'}"]
    backup = str(tmp_path / "speech.state")

    def play(part: str, where: Sequence[str]) -> None:
        again = ["replay", str(tmp_path / part), "--to", "audio", "--speed", "max", "--same-sessions"]
        assert main([*again, *where]) == 0

    assert main(["feed", str(sound)]) == 0
    assert main(["record", "audio", str(tmp_path / "first.rec"), "--until", "9"]) == 0
    assert main(["record", "audio", str(tmp_path / "second.rec"), "--from", "9"]) == 0
    third = ["--set", f"log.path={tmp_path / 'third.db'}"]
    play("first.rec", third)
    assert main([*run, *third]) == 0
    assert main(["state", "export", "speech", backup, *third, *model]) == 0
    assert "1 states of" in capsys.readouterr().out
    play("first.rec", elsewhere)
    capsys.readouterr()
    assert main(["state", "import", "speech", backup, "--json", *elsewhere, *model]) == 0
    assert lines(capsys)[0]["states"] == 1
    play("second.rec", elsewhere)
    assert main([*run, *elsewhere]) == 0
    assert main(run) == 0
    assert main(["record", "transcripts", str(tmp_path / "whole.rec")]) == 0
    assert main(["record", "transcripts", str(tmp_path / "end.rec"), *elsewhere]) == 0
    assert main(["record", "transcripts", str(tmp_path / "begin.rec"), *third]) == 0
    said = [finals(tmp_path / f"{part}.rec") for part in ("begin", "end", "whole")]
    assert said[1]
    assert [*said[0], *said[1]] == said[2]


def finals(path: Path) -> list[FinalTranscript]:
    messages = [decode(record).body for record in Recording(path).records()]
    return [body for body in messages if isinstance(body, FinalTranscript)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["export", "speach", "x.state"], 2, "did you mean 'speech'?"),
        (["export", "speech", "x.state", "--replace"], 2, "--replace is for import"),
        (["export", "speech", "x.state"], 1, "there is no topic 'audio', the pipeline's input"),
        (["import", "speech", "nowhere.state"], 1, "cannot read nowhere.state"),
        (["import", "speech", __file__], 1, "is no backup of states"),
    ],
    ids=lambda v: " ".join(v[:2]) if isinstance(v, list) else None,
)
def test_a_users_mistake_is_a_message_and_an_exit_code(
    arguments: list[str], code: int, message: str, log: Path, gibberish: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--set", f"pipelines.speech.model={gibberish}", "--set", "pipelines.speech.transcript.decoder=greedy"]
    assert main(["state", *arguments, *model]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["state"], ["state", "move", "a", "b"], ["state", "export", "a", "b", "--wait", "-1"]]
)
def test_wrong_arguments_are_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
