"""`demo`: how it counts, and what it shows where no recordings are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from streamer.cli.demo import Heard, summed_up, word_errors
from streamer.cli.main import main
from streamer.cli.recordings import Talk, machines, span_s
from tests.unit.cli.shown import lines


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
