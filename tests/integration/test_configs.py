"""Every configuration in configs/ runs: with a log of the test's own, fed by the test, to the end of its input."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from models.bundle import load
from models.contract import ModelError
from tests.integration.shell import ROOT, Shell

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SENTENCE = "please open the window because the room is getting warm"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A folder with something to hear and something to read."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("no espeak-ng: apt-get install espeak-ng")
    subprocess.run(["espeak-ng", "-s", "150", "-w", str(tmp_path / "hello.wav"), SENTENCE], check=True)
    with (tmp_path / "machine.csv").open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["timestamp", "device", "value", "temperature", "pressure", "flow"])
        for n in range(50):
            writer.writerow([f"2026-01-01T00:{n:02d}:00", "pump", 20 + n % 7, 60, 3, 1])
    shell = Shell(tmp_path)
    yield shell
    shell.close()


def lacking(path: Path) -> str:
    """Why a configuration's models cannot be loaded here, or empty."""
    for pipeline in yaml.safe_load(path.read_text(encoding="utf-8"))["pipelines"].values():
        try:
            load(pipeline["model"])
        except ModelError as error:
            return str(error)
    return ""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_runs_to_the_end_of_its_input(shell: Shell, path: Path, request: pytest.FixtureRequest) -> None:
    if reason := lacking(path):
        pytest.skip(reason)
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    if settings["log"]["kind"] == "kafka":
        shell.env["STREAMER_LOG__BOOTSTRAP_SERVERS"] = request.getfixturevalue("kafka")
        shell.env["STREAMER_APPLICATION"] = f"configs-{os.getpid()}"
    config = f"--config {path} --set feeds=[]"
    shell.run(f"python -m streamer topics {config}")
    for name, pipeline in settings["pipelines"].items():
        if pipeline["input"]["topic"] == "voiced":
            continue  # written by the gate
        source = "hello.wav" if load(pipeline["model"]).model.signature.input == "audio" else "machine.csv --by device"
        shell.run(f"python -m streamer feed {source} --pipeline {name} {config}")
    shell.run(f"python -m streamer run --quiet --until-drained --files out {config}")
    assert any((shell.folder / "out").glob("*.jsonl"))
