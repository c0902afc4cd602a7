"""Every command and every snippet of the README runs, in its order, and does what the README says."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from streamer.testing.sound import NullSink
from tests.integration.shell import ROOT, Shell

README = (ROOT / "README.md").read_text(encoding="utf-8")
LIBRARY = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
COMMANDS = [line[2:] for block in BLOCKS for line in block.splitlines() if line.startswith("$ ")]
NEEDS_ESPEAK = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="no espeak-ng: apt-get install espeak-ng")
KAFKA = "--config configs/kafka.yaml"

ENDING = [
    "python -m streamer doctor",
    "python -m streamer transcribe hello.wav",
    "python -m streamer transcribe --json hello.wav",
    "python -m streamer monitor machine.csv",
    "cat events.jsonl | python -m streamer monitor -",
    "python -m streamer feed hello.wav",
    "python -m streamer record audio morning.rec",
    "python -m streamer replay morning.rec --to audio --speed max",
    "python -m streamer run --quiet --until-drained --set feeds=[]",
    "python -m streamer record transcripts before.rec",
    "python -m streamer replay --compare before.rec transcripts --tolerance 0.001",
    "python -m streamer replay morning.rec --to audio --speed max",
    "python -m streamer run --quiet --until-drained --set feeds=[] --config configs/shadow.yaml",
    "python -m streamer shadow --config configs/shadow.yaml",
    "python -m streamer rewind --stream hello.wav --compare --tolerance 0.001",
    "python -m streamer state export speech speech.state",
    "python -m streamer state import speech speech.state --replace",
    "python -m streamer check --config configs/both.yaml",
    "python -m streamer check --schema",
]
WITH_A_MICROPHONE = [
    "python -m streamer devices",
    "python -m streamer transcribe mic",
    "arecord -f S16_LE -r 16000 | python -m streamer transcribe -",
]
WITH_KAFKA = [
    "make kafka",  # the test's own broker is started by the same module
    f"python -m streamer topics {KAFKA}",
    f"python -m streamer run {KAFKA} --quiet",
    f"python -m streamer feed hello.wav {KAFKA}",
    f"python -m streamer tail transcripts --from-start {KAFKA}",
    "kcat -b localhost:9092 -t transcripts -C -e",
]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A folder with the files that the README speaks of."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copy(ROOT / "Makefile", tmp_path)
    write_machine(tmp_path / "machine.csv", tmp_path / "events.jsonl")
    if shutil.which("espeak-ng"):
        speak = ["espeak-ng", "-v", "en-us", "-s", "150", "-w", str(tmp_path / "hello.wav")]
        subprocess.run([*speak, "please open the window because the room is getting warm"], check=True)
    shell = Shell(tmp_path)
    yield shell
    shell.close()


def write_machine(table: Path, events: Path) -> None:
    """A machine that hums along for a day and a half, and then runs hot."""
    start = datetime.fromisoformat("2026-01-01T00:00:00")
    with table.open("w", newline="") as csv_file, events.open("w") as lines:
        writer = csv.writer(csv_file)
        writer.writerow(["timestamp", "value"])
        for n in range(450):
            value = 60 + 5 * math.sin(n / 20) + (40 if n >= 430 else 0) + 0.3 * math.sin(7.7 * n)
            time = (start + timedelta(minutes=5 * n)).isoformat()
            writer.writerow([time, round(value, 3)])
            lines.write(json.dumps({"timestamp": time, "value": round(value, 3)}) + "\n")


def test_no_command_of_the_readme_is_left_out_here() -> None:
    assert sorted(COMMANDS) == sorted([*ENDING, *WITH_A_MICROPHONE, *WITH_KAFKA])


@NEEDS_ESPEAK
def test_the_commands_that_end_by_themselves_do_what_they_say(shell: Shell) -> None:
    said = {command: shell.run(command) for command in ENDING}
    assert "window" in said["python -m streamer transcribe hello.wav"]
    final = json.loads(said["python -m streamer transcribe --json hello.wav"].splitlines()[0])
    assert final["stream"] == "hello.wav"
    assert [word["text"] for word in final["words"]] == final["text"].split()
    assert "ALERT" in said["python -m streamer monitor machine.csv"]
    assert "ALERT" in said["cat events.jsonl | python -m streamer monitor -"]
    assert json.loads(said["python -m streamer check --schema"])["title"] == "streamer"
    assert (shell.folder / "morning.rec").stat().st_size > 10_000
    assert said["python -m streamer replay --compare before.rec transcripts --tolerance 0.001"].endswith("equal\n")
    assert "100.0% of 1 identical" in said["python -m streamer shadow --config configs/shadow.yaml"]
    assert "matched, equal" in said["python -m streamer rewind --stream hello.wav --compare --tolerance 0.001"]
    assert "from speech.state" in said["python -m streamer state import speech speech.state --replace"]


@NEEDS_ESPEAK
def test_a_broker_serves_from_audio_to_transcripts(shell: Shell, kafka: str) -> None:
    shell.env["STREAMER_LOG__BOOTSTRAP_SERVERS"] = kafka
    shell.run(f"python -m streamer topics {KAFKA}")
    worker = shell.start(f"python -m streamer run {KAFKA} --quiet")
    shell.run(f"python -m streamer feed hello.wav {KAFKA}")
    follower = shell.start(f"python -m streamer tail transcripts --from-start {KAFKA}")
    shell.until(follower, "window")
    assert shell.interrupt(follower) == 0
    assert shell.interrupt(worker) == 0
    if shutil.which("kcat"):
        assert "window" in shell.run(f"kcat -b {kafka} -t transcripts -C -e")


@NEEDS_ESPEAK
@pytest.mark.parametrize("command", WITH_A_MICROPHONE[1:], ids=["microphone", "arecord"])
def test_what_is_played_to_the_microphone_is_transcribed(shell: Shell, microphone: NullSink, command: str) -> None:
    if command.startswith("arecord") and shutil.which("arecord") is None:
        pytest.skip("no arecord: apt-get install alsa-utils")
    shell.env.update(microphone.env)
    assert "pulse" in shell.run(WITH_A_MICROPHONE[0])
    listener = shell.start(command)
    shell.start("while :; do paplay hello.wav; done")
    shell.until(listener, "window")
    assert shell.interrupt(listener) == 0


@NEEDS_ESPEAK
@pytest.mark.parametrize("document", [README, LIBRARY], ids=["README", "library"])
def test_the_python_snippets_run_as_they_stand(shell: Shell, document: str) -> None:
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", document, re.DOTALL)):
        path = shell.folder / f"snippet{number}.py"
        path.write_text(code, encoding="utf-8")
        assert shell.run(f"{sys.executable} {path.name}").strip()
