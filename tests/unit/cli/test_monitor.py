"""`monitor`: alerts and readings of tables and pipes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.cli.main import main
from tests.unit.cli.shown import ROOT, lines


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
