"""Commands: what they print, what they return to the shell, and what they say of a user's mistake."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import save_file

from models import bundle
from streamer.cli import passed_on
from streamer.cli.demo import Heard, summed_up, word_errors
from streamer.cli.main import COMMANDS, main
from streamer.cli.recordings import Talk, machines, span_s
from streamer.cli.topics import access_needed, topics_needed
from streamer.settings import load_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def gibberish(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A speech model that was never trained but is never silent: every frame is some letter."""
    folder = tmp_path_factory.mktemp("gibberish")
    arguments = {"hidden": 16, "layers": 1, "bands": 80, "stack": 3}
    torch.manual_seed(3)
    module = bundle.build("speech.ctc_lstm", arguments)
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    weights["body.labels.weight"] *= 20
    save_file(weights, folder / "weights.safetensors")
    about = {"name": "gibberish", "version": "1", "architecture": "speech.ctc_lstm", "arguments": arguments}
    (folder / "model.yaml").write_text(yaml.safe_dump(about | {"task": "transcript", "decoder": {"kind": "greedy"}}))
    return folder


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Two seconds of noise that swells."""
    noise = np.random.default_rng(1).normal(size=32_000).astype(np.float32) * np.linspace(0.01, 0.3, 32_000)
    soundfile.write(tmp_path / "noise.wav", noise, 16_000, subtype="PCM_16")
    return tmp_path / "noise.wav"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A calm rhythm with one jump."""
    rows = [f"2024-01-01T{i // 60:02}:{i % 60:02}:00,{10 + math.sin(i / 10):.4f}" for i in range(760)]
    rows[700:715] = [row.rpartition(",")[0] + ",60" for row in rows[700:715]]
    path = tmp_path / "machine.csv"
    path.write_text("timestamp,value\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default configuration, with its log in a folder of this test."""
    monkeypatch.setenv("STREAMER_LOG__PATH", str(tmp_path / "log.db"))
    return tmp_path / "log.db"


def transcribed(gibberish: Path, *arguments: str) -> list[str]:
    return ["transcribe", "--model", str(gibberish), "--decoder", "greedy", *arguments]


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in passed_on.COMMANDS])
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"python -m streamer {name}" in capsys.readouterr().out.partition("example:")[2] or name in (
        "run",
        "devices",
    )


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_recipes_are_found_by_family(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"python -m streamer {name} speech" in capsys.readouterr().out
    assert main([name, "speach"]) == 2
    assert "did you mean 'speech'?" in capsys.readouterr().err


def test_a_mistyped_command_is_a_usage_error_with_a_guess(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["transcibe", "a.wav"])
    assert ended.value.code == 2
    assert "did you mean 'transcribe'?" in capsys.readouterr().err


def test_transcribe_prints_finals_with_word_times_as_json(
    gibberish: Path, sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(transcribed(gibberish, "--json", str(sound))) == 0
    finals = lines(capsys)
    assert finals
    for final in finals:
        words = final["words"]
        assert final["stream"] == "noise.wav"
        assert isinstance(words, list)
        assert " ".join(word["text"] for word in words) == final["text"]
        assert all(0 <= word["start_s"] <= word["end_s"] <= 2.1 for word in words)


def test_transcribe_names_the_speaker_where_there_are_several(
    gibberish: Path, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = tmp_path / "again.wav"
    second.write_bytes(sound.read_bytes())
    assert main(transcribed(gibberish, str(sound), str(second))) == 0
    said: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        name, _, text = line.partition(": ")
        said.setdefault(name, []).append(text)
    assert said["noise.wav"] == said["again.wav"]


def test_what_was_said_never_appears_in_the_logs(
    gibberish: Path, sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(transcribed(gibberish, "--json", "--log-level", "debug", str(sound))) == 0
    captured = capsys.readouterr()
    words = {w["text"] for line in captured.out.splitlines() for w in json.loads(line)["words"] if len(w["text"]) > 3}
    assert words
    assert not [word for word in words if word in captured.err]


def test_a_file_that_is_broken_fails_after_the_others_are_transcribed(
    gibberish: Path, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "notes.wav"
    broken.write_text("this is no sound")
    assert main(transcribed(gibberish, str(sound), str(broken))) == 1
    assert f"streamer: {broken} is no audio" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["transcribe", "nowhere.wav"], 1, "no such file or folder: nowhere.wav"),
        (["transcribe", "a.wav", "--device", "x"], 2, "--device chooses a microphone"),
        (["transcribe", "-", "-"], 2, "can be named once"),
        (["monitor", "nowhere.csv"], 1, "nowhere.csv"),
        (["monitor", "x.csv", "--fire-at", "7"], 2, "a score lies between 0 and 1"),
        (["models", "speech-em"], 2, "no model 'speech-em'"),
        (["check", "--set", "delivry=x"], 2, "did you mean 'delivery'?"),
        (["run", "--set", "pipelines.speech.model=nobody"], 2, "pipelines.speech.model: no model 'nobody'"),
        (["check", "--config", "nowhere.yaml"], 2, "nowhere.yaml: cannot be read"),
        (["feed", "a.wav", "--pipeline", "speach"], 2, "did you mean 'speech'?"),
        (["tail", "transcripts"], 1, "there is no topic 'transcripts'"),
        (["replay", "nothing", "--to", "x"], 1, "nothing is neither a recording nor a topic"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_a_users_mistake_is_a_message_and_an_exit_code(
    arguments: list[str], code: int, message: str, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [["replay"], ["replay", "a", "--to", "b", "--speed", "-1"], ["tail", "a", "b"]])
def test_wrong_arguments_are_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_monitor_fires_while_the_machine_misbehaves(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["monitor", str(machine), "--json"]) == 0
    fired = [a for a in lines(capsys) if a["status"] == "firing"]
    jump = [a for a in fired if "2024-01-01T11:40" <= str(a["time"]) <= "2024-01-01T11:55"]
    assert jump
    assert jump[0]["stream"] == "machine.csv"
    assert isinstance(jump[0]["value"], float)
    assert isinstance(jump[0]["expected_high"], float)
    assert jump[0]["value"] > jump[0]["expected_high"]


def test_every_column_of_numbers_is_monitored_and_named(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = machine.read_text(encoding="utf-8").splitlines()
    second = [f"{row},{row.rpartition(',')[2]}" for row in rows[1:]]
    machine.write_text("\n".join(["timestamp,left,right", *second]) + "\n", encoding="utf-8")
    assert main(["monitor", str(machine), "--json"]) == 0
    alerts = lines(capsys)
    assert {a["column"] for a in alerts} == {"left", "right"}
    assert [a["time"] for a in alerts if a["column"] == "left"] == [a["time"] for a in alerts if a["column"] == "right"]


def test_readings_with_their_expected_band_are_printed_on_request(
    machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["monitor", str(machine), "--json", "--predictions"]) == 0
    readings = [line for line in lines(capsys) if line.get("kind") == "prediction"]
    assert len(readings) == 760


def test_events_come_through_a_pipe(machine: Path) -> None:
    rows = [row.split(",") for row in machine.read_text(encoding="utf-8").splitlines()[1:]]
    events = "".join(json.dumps({"timestamp": time, "value": float(value)}) + "\n" for time, value in rows)
    command = [sys.executable, "-m", "streamer", "monitor", "-", "--time", "timestamp", "--json"]
    ran = subprocess.run(command, cwd=ROOT, input=events, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert any(json.loads(line)["time"].startswith("2024-01-01T11:4") for line in ran.stdout.splitlines())


def test_a_bare_first_run_feeds_records_and_replays_by_the_parts(
    log: Path, gibberish: Path, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--set", f"pipelines.speech.model={gibberish}", "--set", "pipelines.speech.transcript.decoder=greedy"]
    assert main(["topics", "--json"]) == 0
    assert {line["name"] for line in lines(capsys)} >= {"audio", "transcripts", "streamer.speech.live"}
    assert main(["feed", str(sound), "--json"]) == 0
    assert lines(capsys)[0]["records"] == 20
    assert main(["feed", str(sound), "--json"]) == 0
    assert lines(capsys)[0]["records"] == 0
    assert main(["run", "--quiet", "--until-drained", "--set", "feeds=[]", *model]) == 0
    assert main(["tail", "transcripts", "--until-end", "--json"]) == 0
    first = [line["text"] for line in lines(capsys) if line["type"] == "streamer.transcript.final.v1"]
    assert first

    recording = tmp_path / "audio.rec"
    assert main(["record", "audio", str(recording), "--json"]) == 0
    assert lines(capsys)[0]["records"] == 20
    assert main(["replay", str(recording), "--to", "audio", "--speed", "max", "--json"]) == 0
    assert lines(capsys)[0]["records"] == 20
    kept = tmp_path / "messages"
    assert main(["run", "--files", str(kept), "--json", "--until-drained", "--set", "feeds=[]", *model]) == 0
    printed = {line["id"] for line in lines(capsys)}
    written = {json.loads(line)["id"] for path in kept.iterdir() for line in path.read_text().splitlines()}
    assert printed == written
    assert main(["tail", "transcripts", "--until-end", "--json"]) == 0
    again = [line["text"] for line in lines(capsys) if line["type"] == "streamer.transcript.final.v1"]
    assert again == first + first


def test_a_stream_that_is_continued_by_another_process_ends_as_if_it_had_never_stopped(
    log: Path,
    gibberish: Path,
    sound: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = ["--set", f"pipelines.speech.model={gibberish}", "--set", "pipelines.speech.transcript.decoder=greedy"]
    run = ["run", "--quiet", "--until-drained", "--set", "feeds=[]", *model]

    def finals() -> list[object]:
        capsys.readouterr()
        assert main(["tail", "transcripts", "--until-end", "--json"]) == 0
        return [line["words"] for line in lines(capsys) if line["type"] == "streamer.transcript.final.v1"]

    assert main(["feed", str(sound)]) == 0
    assert main(["record", "audio", str(tmp_path / "first.rec"), "--until", "9"]) == 0
    assert main(["record", "audio", str(tmp_path / "second.rec"), "--from", "9"]) == 0
    assert main(run) == 0
    whole = finals()
    assert whole

    monkeypatch.setenv("STREAMER_LOG__PATH", str(tmp_path / "second.db"))
    for part in ("first.rec", "second.rec"):
        replayed = ["replay", str(tmp_path / part), "--to", "audio", "--speed", "max", "--same-sessions"]
        assert main(replayed) == 0
        assert main(run) == 0
    assert finals() == whole


def test_a_tap_that_cannot_write_ends_the_run(
    log: Path, gibberish: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    model = ["--set", f"pipelines.speech.model={gibberish}", "--set", "pipelines.speech.transcript.decoder=greedy"]
    assert main(["run", "--quiet", "--files", str(tmp_path / "file" / "x"), "--set", "feeds=[]", *model]) == 1
    assert "cannot write messages there" in capsys.readouterr().err


def test_tail_shows_records_of_others_raw(log: Path, sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["feed", str(sound)]) == 0
    capsys.readouterr()
    assert main(["tail", "audio", "--until-end"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 20
    assert shown[0].endswith("noise.wav  3200 bytes")


def test_topics_for_an_administrator_are_kafkas_own_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topics", "--print", "--config", str(ROOT / "configs" / "kafka.yaml"), "--principal", "User:me"]) == 0
    text = capsys.readouterr().out
    changelog = "streamer.speech.live.audio.changelog"
    assert f"--topic {changelog} --partitions 4 --config cleanup.policy=compact" in text
    assert "kafka-acls.sh --bootstrap-server localhost:9092 --add --allow-principal User:me" in text


def test_every_topic_that_is_needed_may_be_used() -> None:
    settings = load_settings(ROOT / "configs" / "both.yaml")
    topics = {spec.name for spec in topics_needed(settings)}
    rules = access_needed(settings)
    assert topics == {rule.name for rule in rules if rule.resource == "topic"}
    assert {rule.name for rule in rules if rule.resource == "group"} == {
        "streamer.speech.live",
        "streamer.machines.live",
    }


def test_check_prints_the_resolved_configuration_and_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    config = str(ROOT / "configs" / "sensors.yaml")
    assert main(["check", "--config", config, "--set", "pipelines.machines.engine.max_batch=7"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["pipelines"]["machines"]["engine"]["max_batch"] == 7
    assert main(["check", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "streamer"


def test_doctor_finds_the_processor_and_says_how_to_get_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = {line["name"]: line for line in lines(capsys)}
    assert {"python", "processor", "gpu", "microphone", "kafka", "local broker", "espeak-ng"} <= found.keys()
    assert found["python"]["ok"] is True
    assert all(line["remedy"] for name, line in found.items() if not line["ok"] and name not in ("gpu", "microphone"))


def test_devices_always_names_the_processor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    assert {"kind": "compute", "name": "cpu", "detail": f"{os.cpu_count()} cores"} in lines(capsys)


def test_models_lists_the_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    assert {line["name"] for line in lines(capsys)} >= {"machine-forecaster"}


def test_the_demo_counts_word_errors_as_they_are_defined() -> None:
    assert word_errors("The cat sat.", "the cat sat") == (0, 3)
    assert word_errors("the cat sat", "the bat sat down") == (2, 3)
    assert word_errors("the cat sat", "") == (3, 3)


def test_the_demo_sums_up_all_speakers() -> None:
    heard = Heard()
    heard.texts["a.wav"] += ["one two", "three"]
    summary = summed_up([Talk(Path("a.wav"), "one two tree"), Talk(Path("b.wav"), "four")], heard, {}, 1.0, 0)
    assert (summary.total.words, summary.total.errors) == (4, 2)
    assert summary.total.word_error_rate == 0.5


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_without_recordings_the_demo_synthesises_people_and_ends_by_itself(
    gibberish: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAMER_DATA", str(tmp_path / "nothing"))
    assert main(["demo", "--seconds", "4", "--model", str(gibberish), "--decoder", "greedy", "--json"]) == 0
    (summary,) = lines(capsys)
    speakers = summary["speakers"]
    assert isinstance(speakers, dict)
    assert {"unheard-voice", "anna", "ben"} == speakers.keys()
    assert all(score["words"] > 0 for score in speakers.values())
    assert isinstance(summary["alerts"], dict)
    assert summary["alerts"]["pump.csv"] >= 2


def test_without_recordings_a_machine_is_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_DATA", str(tmp_path / "nothing"))
    (path,) = machines(tmp_path)
    assert span_s(path) > 10 * 86_400


class Running:
    """A process of ours, with what it says on standard error."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | (environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def until(self, text: str) -> None:
        """Read standard error up to a line with `text`; fails at its end."""
        assert self.process.stderr is not None
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            if text in line:
                return
        pytest.fail(f"never said {text!r}, but: {''.join(seen)}")


ENDLESS = """
import asyncio, sys
from streamer.cli.interrupt import run_until_interrupted
async def main(stop):
    print("ready", file=sys.stderr, flush=True)
    await asyncio.Event().wait()
    return 0
sys.exit(run_until_interrupted(main))
"""


def test_a_second_interrupt_ends_the_process_at_once() -> None:
    with Running(["-c", ENDLESS]) as running:
        running.until("ready")
        running.interrupt()
        running.until("stopping")
        running.interrupt()
        assert running.process.wait(timeout=60) == 130


def test_what_cannot_drain_in_time_is_left_to_the_next_run() -> None:
    with Running(["-c", ENDLESS]) as running:
        running.until("ready")
        running.interrupt()
        assert running.process.wait(timeout=60) == 0


def test_an_interrupt_drains_commits_and_ends_well(gibberish: Path, tmp_path: Path) -> None:
    arguments = ["-m", "streamer", "run", "--set", f"pipelines.speech.model={gibberish}", "--set", "feeds=[]"]
    decoder = ["--set", "pipelines.speech.transcript.decoder=greedy", "--log-level", "info"]
    with Running([*arguments, *decoder], {"STREAMER_LOG__PATH": str(tmp_path / "log.db")}) as running:
        running.until("running")
        running.interrupt()
        assert running.process.wait(timeout=60) == 0


def test_a_reader_that_leaves_early_is_no_failure(log: Path, sound: Path) -> None:
    assert main(["feed", str(sound)]) == 0
    command = f"{sys.executable} -m streamer tail audio --until-end | head -1; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(ran.stdout.splitlines()) == 1
