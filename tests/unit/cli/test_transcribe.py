"""`transcribe`: what is printed of sound files, and what never is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamer.cli.main import main
from tests.unit.cli.shown import lines, transcribed


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
