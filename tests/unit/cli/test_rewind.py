"""`rewind`: streams run again beside the live pipeline, compared with it, or in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer.cli.main import main
from tests.unit.cli.shown import lines

RUN = ["run", "--quiet", "--until-drained", "--set", "feeds=[]"]


@pytest.fixture
def model(gibberish: Path) -> list[str]:
    return ["--set", f"pipelines.speech.model={gibberish}", "--set", "pipelines.speech.transcript.decoder=greedy"]


@pytest.fixture
def answered(log: Path, model: list[str], sound: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """A stream `noise.wav` that was answered; the arguments that name it."""
    assert main(["feed", str(sound)]) == 0
    assert main([*RUN, *model]) == 0
    capsys.readouterr()
    return ["rewind", "--stream", "noise.wav", *model]


def finals(topic: str, capsys: pytest.CaptureFixture[str]) -> list[object]:
    capsys.readouterr()
    assert main(["tail", topic, "--until-end", "--json"]) == 0
    return [line["id"] for line in lines(capsys) if line["type"] == "streamer.transcript.final.v1"]


def test_a_run_again_is_equal_to_what_was_said(answered: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*answered, "--compare", "--tolerance", "0.001"]) == 0
    assert "messages matched, equal" in capsys.readouterr().out
    assert main([*answered, "--compare", "--to", "5", "--json"]) == 0
    (summary,) = lines(capsys)
    assert (summary["base"], summary["begin"], summary["target"], summary["equal"]) == ("start", 0, 5, True)


def test_another_model_differs_and_the_exit_code_says_so(
    answered: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    silent = ["--set", "pipelines.speech.transcript.partial_every_ms=0"]
    assert main([*answered, "--compare", *silent]) == 1
    assert "only in a" in capsys.readouterr().out


def test_what_is_said_again_lies_in_topics_of_its_own(answered: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*answered, "--as", "second", "--json"]) == 0
    (report,) = lines(capsys)
    assert isinstance(report["topics"], list)
    assert {"rewind-second.transcripts", "rewind-second.streams"} == set(report["topics"])
    assert finals("rewind-second.transcripts", capsys) == finals("transcripts", capsys)
    assert main([*answered, "--until", "3"]) == 0
    assert "from 0 to 3, brought there from its beginning at 0" in capsys.readouterr().out


def test_in_place_the_stopped_pipeline_has_said_it_twice_and_goes_on(
    answered: list[str], model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    once = finals("transcripts", capsys)
    assert main([*answered, "--live"]) == 0
    assert "messages said anew; the pipeline goes on from there" in capsys.readouterr().out
    assert main([*RUN, *model]) == 0
    assert sorted(map(str, finals("transcripts", capsys))) == sorted(map(str, [*once, *once]))


def test_a_kept_snapshot_takes_the_place_of_a_beginning(
    log: Path, model: list[str], sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keeping = ["--set", "pipelines.speech.commit.keep_snapshots_s=3600", "--set", "pipelines.speech.input.topic=part"]
    assert main(["feed", str(sound)]) == 0
    for part in (["--until", "10"], ["--from", "10"]):
        assert main(["replay", "audio", "--to", "part", "--speed", "max", "--same-sessions", *part]) == 0
        assert main([*RUN, *keeping, *model]) == 0
    capsys.readouterr()
    assert main(["rewind", "--stream", "noise.wav", "--to", "19", "--compare", "--json", *keeping, *model]) == 0
    (summary,) = lines(capsys)
    assert (summary["base"], summary["equal"]) == ("snapshot", True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--stream", "x"], 1, "there is no topic 'audio', the pipeline's input"),
        (["--stream", "x", "--pipeline", "speach"], 2, "did you mean 'speech'?"),
    ],
)
def test_a_users_mistake_is_a_message_and_an_exit_code(
    arguments: list[str], code: int, message: str, log: Path, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rewind", *arguments, *model]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--stream", "x", "--live", "--compare"],
        ["--stream", "x", "--live", "--until", "3"],
        ["--stream", "x", "--tolerance", "1"],
        ["--stream", "x", "--wait", "3"],
        ["--stream", "x", "--as", "no spaces"],
        ["--stream", "x", "--to", "yesterday"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["rewind", *arguments])
    assert ended.value.code == 2
