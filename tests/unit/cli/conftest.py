"""What commands are given: a model that babbles, a sound, a table, a log of their own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import save_file

from models import bundle


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
