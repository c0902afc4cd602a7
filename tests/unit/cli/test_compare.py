"""`replay --compare`: what two runs said, beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.cli.main import main
from streamer.codecs.messages import (
    Alert,
    Body,
    Encoder,
    Envelope,
    FinalTranscript,
    Output,
    Prediction,
    StreamEvent,
    Word,
)
from streamer.errors import InputError
from streamer.feeds.recording import Origin, RecordingWriter
from streamer.observe.comparison import Changed, FieldDifference, OnlyIn, Reordered, compare, is_decision
from streamer.records import Record
from tests.unit.cli.shown import ROOT, lines


def said(name: str, body: Body, *, source: str = "app/sums/live", model: str = "m-1@0", stream: str = "s") -> Envelope:
    return Envelope(name, source, type(body).__name__, stream, "2024-01-01T00:00:00.000Z", model, body)


def prediction(name: str, score: float, **about: str) -> Envelope:
    return said(name, Prediction("s", "t", value=1.0, score=score), **about)


def final(name: str, *words: str, start_s: float = 0.0) -> Envelope:
    spoken = tuple(Word(word, start_s + i, start_s + i + 0.5, 0.9) for i, word in enumerate(words))
    return said(name, FinalTranscript("s", 0, " ".join(words), start_s, start_s + len(words), 0.9, spoken))


def ended(name: str, stream: str = "s") -> Envelope:
    return said(name, StreamEvent(stream, "ended", "t"), stream=stream)


numbers = st.floats(-1e6, 1e6)
runs = st.dictionaries(st.text("ab/1", min_size=1), numbers).map(lambda d: [prediction(k, v) for k, v in d.items()])


@given(runs)
def test_a_run_is_equal_to_itself(run: list[Envelope]) -> None:
    assert compare(run, run).equal


@given(runs, runs)
def test_exchanging_the_runs_exchanges_the_report(a: list[Envelope], b: list[Envelope]) -> None:
    one, other = compare(a, b), compare(b, a)
    assert one.matched == other.matched
    assert {d.message.id for d in one.differences if isinstance(d, OnlyIn) and d.run == "a"} == {
        d.message.id for d in other.differences if isinstance(d, OnlyIn) and d.run == "b"
    }
    by = {d.message.id: d.fields[0].by for d in one.differences if isinstance(d, Changed)}
    back = {d.message.id: d.fields[0].by for d in other.differences if isinstance(d, Changed)}
    assert by == {name: -moved for name, moved in back.items() if moved is not None}


@given(numbers, numbers, st.floats(0, 1e6))
def test_measures_are_the_same_exactly_when_they_are_within_the_tolerance(a: float, b: float, tolerance: float) -> None:
    report = compare([prediction("x", a)], [prediction("x", b)], tolerance)
    assert report.equal == (abs(a - b) <= tolerance)


def test_messages_that_one_run_lacks_are_named() -> None:
    a, b, c = prediction("a", 1), prediction("b", 1), prediction("c", 1)
    assert compare([a, b], [b, c]).differences == [OnlyIn("a", a), OnlyIn("b", c)]


def test_fields_that_differ_are_named_with_their_path_and_by_how_much() -> None:
    a, b = final("x", "open", "window"), final("x", "open", "widow", start_s=0.5)
    (changed,) = compare([a], [b]).differences
    assert isinstance(changed, Changed)
    assert FieldDifference("words[1].text", "window", "widow") in changed.fields
    assert FieldDifference("words[1].start_s", 1.0, 1.5, 0.5) in changed.fields
    (changed,) = compare([a], [b], tolerance=0.5).differences
    assert isinstance(changed, Changed)
    assert [f.field for f in changed.fields] == ["text", "words[1].text"]


def test_a_word_more_is_a_difference_whatever_the_tolerance() -> None:
    (changed,) = compare([final("x", "open")], [final("x", "open", "it")], tolerance=100.0).differences
    assert isinstance(changed, Changed)
    assert [f.field for f in changed.fields] == ["text", "words[1]"]
    assert changed.fields[1].a is None


def test_counts_are_compared_exactly_whatever_the_tolerance() -> None:
    gaps = [said("x", StreamEvent("s", "gap", "t", samples=n)) for n in (0, 1)]
    (changed,) = compare(gaps[:1], gaps[1:], tolerance=5.0).differences
    assert changed == Changed(gaps[0], (FieldDifference("samples", 0, 1, 1),))


def test_the_type_the_stream_and_the_time_of_a_message_are_compared() -> None:
    a = prediction("x", 1)
    (changed,) = compare([a], [a._replace(type="other", subject="t", time="later")]).differences
    assert isinstance(changed, Changed)
    assert [f.field for f in changed.fields] == ["ce_type", "ce_subject", "ce_time"]


def test_source_and_model_may_differ_and_the_report_says_so() -> None:
    report = compare([prediction("x", 1)], [prediction("x", 1, source="app/again/live", model="m-2@1")])
    assert report.equal
    assert report.ignored == [
        "ce_source (app/sums/live in a; app/again/live in b)",
        "model (m-1@0 in a; m-2@1 in b)",
    ]
    assert compare([prediction("x", 1)], [prediction("x", 1)]).ignored == []


def test_the_order_of_decisions_is_compared_within_a_stream_only() -> None:
    a, b, other = final("in/0/1", "one"), ended("in/0/2"), ended("in/0/3", "other")
    assert compare([a, b, other], [other, a, b]).equal
    assert compare([a, b, other], [b, other, a]).differences == [Reordered("s", 0, "in/0/1", "in/0/2")]


def test_a_key_in_two_partitions_is_two_streams() -> None:
    a, b = ended("in/0/1"), ended("in/1/1")
    assert compare([a, b], [b, a]).equal


def test_a_decision_that_one_run_lacks_puts_the_others_in_no_other_order() -> None:
    a, b, c = final("in/0/1", "one"), final("in/0/2", "two"), ended("in/0/3")
    assert compare([a, b, c], [b, c]).differences == [OnlyIn("a", a)]


def test_the_order_of_what_is_no_decision_is_free() -> None:
    a, b = prediction("in/0/1", 1), prediction("in/0/2", 2)
    started = said("in/0/3", StreamEvent("s", "started", "t"))
    assert compare([a, b, started], [started, b, a]).equal


@pytest.mark.parametrize("event", ["reset", "model_changed", "ended"])
def test_resets_and_alerts_are_decisions(event: Literal["reset", "model_changed", "ended"]) -> None:
    happened = said("in/0/1", StreamEvent("s", event, "t"))
    alert = said("in/0/2", Alert("id", "s", "firing", "major", "t", 0.9))
    assert compare([happened, alert], [alert, happened]).differences == [Reordered("s", 0, "in/0/1", "in/0/2")]


def test_messages_that_came_again_are_counted_and_change_nothing() -> None:
    a, b = prediction("a", 1), prediction("b", 1)
    report = compare([a, b, a], [a, b])
    assert report.equal
    assert (report.a.repeated, report.b.repeated, report.matched) == (1, 0, 2)


def test_an_id_of_two_pipelines_is_refused() -> None:
    with pytest.raises(InputError, match="app/sums/live and app/other/live both say a: compare topics"):
        compare([prediction("a", 1), prediction("a", 1, source="app/other/live")], [])


SENSORS = str(ROOT / "configs" / "sensors.yaml")


def recorded(path: Path, *messages: Envelope) -> str:
    """A recording of messages as a pipeline publishes them, one a record."""
    records = []
    for offset, message in enumerate(messages):
        cause = Record("in", 0, offset, 0, message.subject.encode(), None, ())
        output = Output(message.body, b"key", "said", 0, 0, is_decision(message.body))
        new = Encoder(message.source, message.model).encode(output, cause)
        records.append(Record("out", 0, offset, 0, new.key, new.value, tuple(new.headers)))
    with RecordingWriter(path, Origin("out", 1, 0)) as writer:
        writer.write(records)
    return str(path)


def test_the_command_tells_equal_runs_and_ends_with_0(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = recorded(tmp_path / "a.rec", prediction("", 1), final("", "open"))
    b = recorded(tmp_path / "b.rec", prediction("", 1.25, source="app/again/live"), final("", "open"))
    assert main(["replay", "--compare", a, b, "--tolerance", "0.25"]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("equal\n")
    assert "not compared: ce_source (app/sums/live in a; app/again/live, app/sums/live in b)" in shown


def test_the_command_tells_what_differs_and_ends_with_1(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = recorded(tmp_path / "a.rec", prediction("", 1), final("", "open"))
    b = recorded(tmp_path / "b.rec", prediction("", 1.25))
    assert main(["replay", "--compare", a, b]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "changed  in/0/0/said/0  streamer.prediction.v1  s",
        "    score: 1.0 in a, 1.25 in b  by +0.25",
        "only in a  in/0/1/said/0  streamer.transcript.final.v1  s",
        f"a: {a}, 2 messages",
        f"b: {b}, 1 messages",
        "different: 1 only in a, 1 changed",
    ]


def test_the_command_gives_one_object_a_difference_and_a_summary(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = recorded(tmp_path / "a.rec", prediction("", 1))
    b = recorded(tmp_path / "b.rec", prediction("", 1.25), final("", "open"))
    assert main(["replay", "--compare", a, b, "--json"]) == 1
    changed, only, summary = lines(capsys)
    assert changed["fields"] == [{"field": "score", "a": 1.0, "b": 1.25, "by": 0.25}]
    assert (only["kind"], only["id"], only["stream"]) == ("only_in_b", "in/0/1/said/0", "s")
    assert {name: summary[name] for name in ("kind", "equal", "matched", "differences", "ignored")} == {
        "kind": "summary",
        "equal": False,
        "matched": 1,
        "differences": 2,
        "ignored": [],
    }


def test_a_table_that_is_watched_twice_gives_the_same_run_as_topic_and_as_recording(
    machine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (["--config", SENSORS, "--set", f"log.path={tmp_path / name}"] for name in ("a.db", "b.db"))
    for where in (first, second):
        assert main(["feed", str(machine), *where]) == 0
        assert main(["run", "--quiet", "--until-drained", *where]) == 0
    recording = str(tmp_path / "first.rec")
    assert main(["record", "predictions", recording, *first]) == 0
    capsys.readouterr()
    assert main(["replay", "--compare", recording, "predictions", "--json", *second]) == 0
    (summary,) = lines(capsys)
    assert summary["matched"] == 760


def test_a_topic_without_messages_cannot_be_compared(
    log: Path, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["feed", str(sound)]) == 0
    assert main(["replay", "--compare", "audio", recorded(tmp_path / "a.rec", prediction("", 1))]) == 1
    assert "audio holds 20 records and no message that a pipeline published" in capsys.readouterr().err


def test_a_recording_that_was_cut_off_is_said_to_be_so(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = recorded(tmp_path / "a.rec", prediction("", 1), prediction("", 2))
    cut = tmp_path / "cut.rec"
    cut.write_bytes(Path(whole).read_bytes()[:-20])
    assert main(["replay", "--compare", str(cut), whole]) == 1
    assert "cut.rec was cut off: what was whole is compared" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["a", "--compare", "b", "c"],
        ["--compare", "b", "c", "--to", "x"],
        ["--compare", "b"],
        ["--compare", "b", "c", "--tolerance", "-1"],
        ["a", "--to", "x", "--tolerance", "1"],
        ["a"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended_with:
        main(["replay", *arguments])
    assert ended_with.value.code == 2
