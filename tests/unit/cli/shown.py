"""What commands are called with and what they show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def transcribed(gibberish: Path, *arguments: str) -> list[str]:
    return ["transcribe", "--model", str(gibberish), "--decoder", "greedy", *arguments]


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]
