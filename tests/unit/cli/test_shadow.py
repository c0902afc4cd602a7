"""`run` with a shadow, `run --only` and `shadow`: how far a candidate agrees with the live model."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer.cli.main import main
from streamer.cli.topics import access_needed, topics_needed
from streamer.settings import load_settings
from tests.unit.cli.shown import lines

RUN = ["run", "--until-drained", "--set", "feeds=[]"]


@pytest.fixture
def shadowed(log: Path, gibberish: Path) -> list[str]:
    """A pipeline whose candidate is the live model itself: it agrees in everything."""
    changes = {
        "model": gibberish,
        "transcript.decoder": "greedy",
        "shadow.model": gibberish,
    }
    return [part for name, value in changes.items() for part in ("--set", f"pipelines.speech.{name}={value}")]


def test_a_candidate_that_is_the_live_model_agrees_in_every_word(
    shadowed: list[str], sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["feed", str(sound)])
    assert main([*RUN, *shadowed]) == 0
    assert "shadow of speech: finals: 100.0% of" in capsys.readouterr().err
    assert main(["shadow", "--json", *shadowed]) == 0
    (report,) = lines(capsys)
    assert (report["pipeline"], report["word_error_rate"]) == ("speech", 0.0)
    assert isinstance(report["finals"], dict)
    assert report["finals"]["identical"] == 1.0
    assert main(["shadow", "--pipeline", "speech", *shadowed]) == 0
    assert "identical, 0.0% of" in capsys.readouterr().out


def test_the_live_model_and_its_shadow_may_run_apart(
    shadowed: list[str], sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["feed", str(sound)])
    assert main([*RUN, "--only", "shadow", "--quiet", *shadowed]) == 0
    assert main([*RUN, "--only", "live", "--quiet", *shadowed]) == 0
    capsys.readouterr()
    assert main(["shadow", "--json", *shadowed]) == 0
    (report,) = lines(capsys)
    assert report["word_error_rate"] == 0.0


def test_the_topics_and_rights_of_a_shadow_are_asked_for_too() -> None:
    settings = load_settings(overrides=["pipelines.speech.shadow.model=speech-en"])
    names = {spec.name: spec for spec in topics_needed(settings)}
    assert {"shadow.transcripts", "shadow.deadletters", "streamer.speech.shadow.audio.changelog"} <= set(names)
    assert names["streamer.speech.shadow.audio.changelog"].compact
    assert ("group", "streamer.speech.shadow") in {(rule.resource, rule.name) for rule in access_needed(settings)}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["shadow"], 2, "no pipeline has a shadow: give one `shadow: {model: ...}`"),
        (["run", "--only", "shadow"], 2, "no pipeline has a shadow"),
        (["shadow", "--pipeline", "speech"], 2, "pipeline 'speech' has no shadow; those that have: none"),
        (["check", "--set", "pipelines.speech.shadow.model=speech-em"], 2, "did you mean 'speech-en'?"),
        (["shadow", "--set", "pipelines.speech.shadow.model=speech-en"], 1, "has not run with its shadow yet"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_a_users_mistake_is_a_message_and_an_exit_code(
    arguments: list[str], code: int, message: str, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    assert message in capsys.readouterr().err
