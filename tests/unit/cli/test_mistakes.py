"""Help, usage and a user's mistakes: messages, exit codes, guesses."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer.cli import passed_on
from streamer.cli.main import COMMANDS, main


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
