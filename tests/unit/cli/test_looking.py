"""`check`, `doctor`, `devices` and `models`: what is there, and what is missing."""

from __future__ import annotations

import json
import os

import pytest
import yaml

from streamer.cli.main import main
from tests.unit.cli.shown import ROOT, lines


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
