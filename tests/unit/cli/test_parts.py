"""The parts - `feed`, `run`, `tail`, `record`, `replay`, `topics` - over a log of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.cli.main import main
from streamer.cli.topics import access_needed, topics_needed
from streamer.settings import load_settings
from tests.unit.cli.shown import ROOT, lines


def test_a_bare_first_run_feeds_records_and_replays_by_the_parts(
    log: Path, gibberish: Path, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--set", f"pipelines.speech.model={gibberish}", "--set", "pipelines.speech.transcript.decoder=greedy"]
    assert main(["topics", "--json"]) == 0
    assert {line["name"] for line in lines(capsys)} >= {"audio", "transcripts", "streamer.speech.live"}
    assert main(["feed", str(sound), "--json"]) == 0
    assert lines(capsys)[0]["records"] == 20
    assert main(["feed", str(sound), "--json"]) == 0
    assert lines(capsys)[0]["records"] == 0
    assert main(["run", "--quiet", "--until-drained", "--set", "feeds=[]", *model]) == 0
    assert main(["tail", "transcripts", "--until-end", "--json"]) == 0
    first = [line["text"] for line in lines(capsys) if line["type"] == "streamer.transcript.final.v1"]
    assert first

    recording = tmp_path / "audio.rec"
    assert main(["record", "audio", str(recording), "--json"]) == 0
    assert lines(capsys)[0]["records"] == 20
    assert main(["replay", str(recording), "--to", "audio", "--speed", "max", "--json"]) == 0
    assert lines(capsys)[0]["records"] == 20
    kept = tmp_path / "messages"
    assert main(["run", "--files", str(kept), "--json", "--until-drained", "--set", "feeds=[]", *model]) == 0
    printed = {line["id"] for line in lines(capsys)}
    written = {json.loads(line)["id"] for path in kept.iterdir() for line in path.read_text().splitlines()}
    assert printed == written
    assert main(["tail", "transcripts", "--until-end", "--json"]) == 0
    again = [line["text"] for line in lines(capsys) if line["type"] == "streamer.transcript.final.v1"]
    assert again == first + first


def test_a_stream_that_is_continued_by_another_process_ends_as_if_it_had_never_stopped(
    log: Path,
    gibberish: Path,
    sound: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = ["--set", f"pipelines.speech.model={gibberish}", "--set", "pipelines.speech.transcript.decoder=greedy"]
    run = ["run", "--quiet", "--until-drained", "--set", "feeds=[]", *model]

    def finals() -> list[object]:
        capsys.readouterr()
        assert main(["tail", "transcripts", "--until-end", "--json"]) == 0
        return [line["words"] for line in lines(capsys) if line["type"] == "streamer.transcript.final.v1"]

    assert main(["feed", str(sound)]) == 0
    assert main(["record", "audio", str(tmp_path / "first.rec"), "--until", "9"]) == 0
    assert main(["record", "audio", str(tmp_path / "second.rec"), "--from", "9"]) == 0
    assert main(run) == 0
    whole = finals()
    assert whole

    monkeypatch.setenv("STREAMER_LOG__PATH", str(tmp_path / "second.db"))
    for part in ("first.rec", "second.rec"):
        replayed = ["replay", str(tmp_path / part), "--to", "audio", "--speed", "max", "--same-sessions"]
        assert main(replayed) == 0
        assert main(run) == 0
    assert finals() == whole


def test_a_tap_that_cannot_write_ends_the_run(
    log: Path, gibberish: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    model = ["--set", f"pipelines.speech.model={gibberish}", "--set", "pipelines.speech.transcript.decoder=greedy"]
    assert main(["run", "--quiet", "--files", str(tmp_path / "file" / "x"), "--set", "feeds=[]", *model]) == 1
    assert "cannot write messages there" in capsys.readouterr().err


def test_tail_shows_records_of_others_raw(log: Path, sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["feed", str(sound)]) == 0
    capsys.readouterr()
    assert main(["tail", "audio", "--until-end"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 20
    assert shown[0].endswith("noise.wav  3200 bytes")


def test_a_reader_that_leaves_early_is_no_failure(log: Path, sound: Path) -> None:
    assert main(["feed", str(sound)]) == 0
    command = f"{sys.executable} -m streamer tail audio --until-end | head -1; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(ran.stdout.splitlines()) == 1


def test_topics_for_an_administrator_are_kafkas_own_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topics", "--print", "--config", str(ROOT / "configs" / "kafka.yaml"), "--principal", "User:me"]) == 0
    text = capsys.readouterr().out
    changelog = "streamer.speech.live.audio.changelog"
    assert f"--topic {changelog} --partitions 4 --config cleanup.policy=compact" in text
    assert "--config max.message.bytes=8004096 --config delete.retention.ms=86400000" in text
    assert "--topic audio --partitions 4 --config cleanup.policy=delete --config retention.ms=-1" in text
    assert "--transactional-id" not in text
    assert "kafka-acls.sh --bootstrap-server localhost:9092 --add --allow-principal User:me" in text


def test_who_commits_in_transactions_may_do_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMER_LOG__DELIVERY", "exactly_once")
    assert main(["topics", "--print", "--config", str(ROOT / "configs" / "kafka.yaml")]) == 0
    wanted = "--operation Describe --operation Write --transactional-id streamer.speech.live."
    assert f"{wanted} --resource-pattern-type prefixed" in capsys.readouterr().out


def test_every_topic_that_is_needed_may_be_used() -> None:
    settings = load_settings(ROOT / "configs" / "both.yaml")
    topics = {spec.name for spec in topics_needed(settings)}
    rules = access_needed(settings)
    assert topics == {rule.name for rule in rules if rule.resource == "topic"}
    assert {rule.name for rule in rules if rule.resource == "group"} == {
        "streamer.speech.live",
        "streamer.machines.live",
    }
