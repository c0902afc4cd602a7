"""The bench: how figures are compared and shown, and that all of it runs; nothing here judges a speed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from models.contract import state_bytes
from streamer.bench import kafka_rivals, sensor_job, throughput
from streamer.bench import main as from_command_line
from streamer.bench.main import main
from streamer.bench.networks import FeatureLstm, ProjectedLstm
from streamer.bench.rows import Row, alternating, median_ratio, skipped, table
from streamer.log.memory import MemoryLog


def test_a_ratio_is_met_at_or_above_its_reach_and_a_cost_at_or_below() -> None:
    assert Row("a", 80.0, "x", "b", 100.0, 0.8).met is True
    assert Row("a", 79.0, "x", "b", 100.0, 0.8).met is False
    assert Row("a", 150.0, "x", "b", 100.0, 1.5, "lower").met is True
    assert Row("a", 301.0, "ms", reach=300.0, better="lower").met is False


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    row = skipped("W9", "x", "no such machine")
    assert (row.met, row.ratio) == (None, None)
    assert "no such machine" in table([row])


def test_a_row_is_one_object_on_one_line_with_the_names_of_the_issue() -> None:
    line = Row("a", 1.0, "x", "b", 2.0, 0.5).as_json()
    shown = json.loads(line)
    assert {"name", "value", "unit", "rival", "rival_value", "ratio", "reach", "met"} <= shown.keys()
    assert (shown["ratio"], shown["met"], "\n" in line) == (0.5, True, False)


def test_sides_take_turns_and_the_median_of_neighbours_counts() -> None:
    calls: list[str] = []
    speeds = iter([10.0, 5.0, 1.0, 1.0, 30.0, 10.0])

    def side(name: str) -> float:
        calls.append(name)
        return next(speeds)

    taken = alternating({"ours": lambda: side("ours"), "theirs": lambda: side("theirs")}, 3)
    assert calls == ["ours", "theirs"] * 3
    assert median_ratio(taken["ours"], taken["theirs"]) == 2.0


def test_the_reference_networks_have_the_states_that_the_design_names() -> None:
    assert state_bytes(FeatureLstm()) == 12 * 1024
    assert state_bytes(ProjectedLstm(layers=12)) == 72 * 1024


def test_w1_gives_throughput_live_streams_and_memory() -> None:
    size = throughput.Size(batches=(2,), rounds=1, repeats=1, live_s=0.2, device="cpu")
    rows = throughput.w1(size)
    assert [row.name.partition(": ")[2] for row in rows] == ["throughput", "live streams", "memory per stream"]
    assert rows[0].value is not None
    assert rows[0].value > 0
    assert rows[0].reach == 0.8


async def test_the_sensor_job_answers_every_event_once_on_any_log() -> None:
    async with MemoryLog() as log:
        events = sensor_job.events(2, 300)
        await sensor_job.fill(log, "w3", events)
        records_per_s = await sensor_job.run(log, "app", "w3", 2, 300)
        answers = await kafka_rivals.answers_of(log, "app.predictions", 2, 300)
    assert 90 < len(events[0][0].value or b"") < 130
    assert records_per_s > 0
    causes = [header for part in answers.values() for a in part for name, header in a.headers if name == "ce_id"]
    assert len(causes) == len(set(causes)) == 300


def test_an_unknown_workload_is_a_mistake_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["engin"])
    assert stopped.value.code == 2
    assert "engine" in capsys.readouterr().err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        from_command_line(["--help"])
    assert stopped.value.code == 0
    assert "--quick engine memory" in capsys.readouterr().out


def test_what_runs_on_a_gpu_machine_needs_torch_and_nothing_else_of_ours() -> None:
    program = "import sys, streamer.bench.gpu; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded
    assert not {"aiokafka", "pydantic", "pydantic_settings", "msgspec", "sounddevice"} & set(loaded)
