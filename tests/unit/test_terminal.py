"""Taps: what is shown of live streams, as a view on a terminal, as plain lines, and as files."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from rich.console import Console

from streamer.codecs.messages import (
    Alert,
    Body,
    DeadLetter,
    Encoder,
    Envelope,
    FinalTranscript,
    Output,
    PartialTranscript,
    Prediction,
    StreamEvent,
    Word,
    decode,
)
from streamer.errors import InputError
from streamer.records import Record
from streamer.taps.board import MAX_STREAMS_KEPT, Board, Point
from streamer.taps.files import JsonLines
from streamer.taps.lines import record_json, record_text, safe, text_of
from streamer.taps.terminal import Terminal, chart, render


@dataclass(frozen=True)
class Figures:
    streams: int = 3
    lag_records: int = 12
    records: int = 4_567
    step_ms_p50: float = 1.5
    step_ms_p99: float = 9.25


def envelope(body: Body) -> Envelope:
    return Envelope("audio/0/1/kind/0", "app/group/speech/live", "type", "key", "2024-01-01T00:00:00Z", "m-1@ab", body)


def partial(stream: str, segment: int, text: str) -> PartialTranscript:
    return PartialTranscript(stream, segment, 1, text, 0.0, 1.0)


def final(stream: str, segment: int, text: str) -> FinalTranscript:
    words = tuple(Word(w, 0.0, 1.0, 0.9) for w in text.split())
    return FinalTranscript(stream, segment, text, 0.0, 1.0, 0.9, words)


def reading(stream: str, value: float | None) -> Prediction:
    return Prediction(stream, "2024-01-01T00:00:00Z", value, 10.0, 9.0, 11.0, 0.1)


def alert(stream: str, status: Literal["firing", "resolved"]) -> Alert:
    return Alert("a1", stream, status, "major", "2024-01-01T00:00:00Z", 0.9, 50.0, 10.0, 9.0, 11.0, "above")


def board_of(*bodies: Body) -> Board:
    board = Board()
    for body in bodies:
        board.see(envelope(body))
    return board


def drawn(board: Board, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(render(board, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def given(bodies: Sequence[Body]) -> AsyncIterator[Envelope]:
    for body in bodies:
        yield envelope(body)


def test_a_partial_is_shown_until_its_final_takes_its_place() -> None:
    board = board_of(partial("a", 0, "hello wor"))
    assert "hello wor" in drawn(board)
    board.see(envelope(final("a", 0, "hello world")))
    assert "hello world" in drawn(board)
    assert board.speech["a"].partial == ""


def test_a_partial_that_comes_after_its_final_is_not_shown() -> None:
    board = board_of(final("a", 0, "done"), partial("a", 0, "don"))
    assert board.speech["a"].partial == ""


def test_a_final_that_comes_twice_is_shown_once() -> None:
    board = board_of(final("a", 0, "once"), final("a", 0, "once"))
    assert list(board.speech["a"].words) == ["once"]


def test_a_new_session_of_a_stream_begins_with_an_empty_line() -> None:
    started = StreamEvent("a", "started", "2024-01-01T00:00:00Z")
    board = board_of(final("a", 5, "old"), started, final("a", 0, "new"))
    assert list(board.speech["a"].words) == ["new"]


def test_a_sensor_is_shown_with_its_band_and_its_score() -> None:
    text = drawn(board_of(*(reading("pump", v) for v in (9.5, 10.0, None, 10.5))))
    assert "pump  10.5  expected 9 to 11  score 0.10" in text
    assert "•" in text
    assert "░" in text


def test_an_alert_is_shown_and_counted_once_however_often_it_grows() -> None:
    board = board_of(reading("pump", 50.0), alert("pump", "firing"), alert("pump", "firing"))
    assert board.sensors["pump"].firing
    assert len(board.alerts_fired) == 1
    assert "ALERT major" in drawn(board)
    board.see(envelope(alert("pump", "resolved")))
    assert not board.sensors["pump"].firing


def test_lag_and_step_times_of_every_pipeline_are_shown() -> None:
    board = Board()
    board.workers = {"speech": Figures()}
    text = drawn(board)
    assert all(figure in text for figure in ("speech", "4,567", "12", "1.5 ms", "9.2 ms"))


async def test_notes_stand_under_the_figures_of_the_workers() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    notes = ["shadow of speech: nothing to compare yet"]
    await Terminal(console, lambda: {"speech": Figures()}, notes=lambda: notes).follow(given([]))
    assert isinstance(console.file, io.StringIO)
    assert notes[0] in console.file.getvalue()


def test_what_befell_a_stream_is_shown() -> None:
    gap = StreamEvent("a", "gap", "2024-01-01T00:00:00Z", "overflow", 1600)
    letter = DeadLetter("audio", 2, 77, 0, "not audio")
    text = drawn(board_of(gap, letter))
    assert "gap of 1600 samples: overflow" in text
    assert "audio/2/77  dead letter: not audio" in text


def test_the_board_forgets_the_streams_that_were_silent_for_longest() -> None:
    board = board_of(*(final(f"s{i}", 0, "x") for i in range(MAX_STREAMS_KEPT + 5)))
    assert len(board.speech) == MAX_STREAMS_KEPT
    assert "s0" not in board.speech
    assert f"s{MAX_STREAMS_KEPT + 4}" in board.speech


def test_the_chart_puts_the_highest_value_on_top_and_the_lowest_at_the_bottom() -> None:
    points = [Point(v, None, None, False) for v in (0.0, 5.0, 10.0)]
    assert chart(points, width=10, rows=3).plain.split("\n") == ["  •", " • ", "•  "]


def test_the_chart_shows_the_newest_points_that_fit() -> None:
    points = [Point(float(i), None, None, False) for i in range(50)]
    rows = chart(points, width=4, rows=2).plain.split("\n")
    assert all(len(row) == 4 for row in rows)


def test_a_chart_without_numbers_is_empty() -> None:
    assert chart([Point(None, None, None, False)], width=5).plain == ""


async def test_without_a_terminal_finals_and_alerts_are_plain_lines() -> None:
    console = Console(file=io.StringIO(), width=40, force_terminal=False)
    bodies: list[Body] = [
        partial("a", 0, "hel"),
        final("a", 0, "hello [bold]there[/bold]"),
        reading("p", 1.0),
        alert("p", "firing"),
    ]
    await Terminal(console, dict).follow(given(bodies))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "a  [0.0-1.0 s]  hello [bold]there[/bold]"
    assert lines[1].startswith("p  2024-01-01T00:00:00Z  ALERT major  value 50, expected 9 to 11")
    assert len(lines) == 2


async def test_on_a_terminal_the_last_frame_shows_everything() -> None:
    console = Console(file=io.StringIO(), width=100, height=60, force_terminal=True, color_system=None)
    bodies: list[Body] = [final("a", 0, "hello"), reading("p", 10.0)]
    await Terminal(console, lambda: {"speech": Figures()}).follow(given(bodies))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "hello" in shown
    assert "4,567" in shown


def test_a_streams_name_cannot_move_the_cursor() -> None:
    assert "\x1b" not in text_of(final("evil\x1b[2J", 0, "x"))
    assert safe("a\nb") == "a�b"


def test_a_message_of_ours_is_shown_by_its_meaning() -> None:
    cause = Record("audio", 1, 5, 1_000, b"a", b"", ())
    new = Encoder("app/g/p/live", "m").encode(Output(final("a", 0, "hello"), b"a/0/0", "final", 0, 1_000, True), cause)
    record = Record("transcripts", 1, 9, 1_000, new.key, new.value, new.headers)
    assert decode(record).id == "audio/1/5/final/0"
    assert record_text(record) == "a  [0.0-1.0 s]  hello"
    assert record_json(record)["words"][0]["text"] == "hello"


@pytest.mark.parametrize(
    ("value", "text", "as_json"),
    [
        (b'{"value": 1}', '{"value": 1}', '{"value": 1}'),
        (b"\x00\x01", "2 bytes", {"base64": "AAE="}),
        (b"\xff\xfe", "2 bytes", {"base64": "//4="}),
        (None, "tombstone", None),
    ],
)
def test_a_record_of_somebody_else_is_shown_as_it_is(value: bytes | None, text: str, as_json: object) -> None:
    record = Record("other", 0, 3, 0, b"k", value, (("h", b"v"),))
    assert record_text(record) == f"other/0/3  1970-01-01T00:00:00.000Z  k  {text}"
    shown = record_json(record)
    assert (shown["value"], shown["key"], shown["headers"]) == (as_json, "k", [["h", "v"]])


async def test_messages_are_appended_to_one_file_for_each_kind(tmp_path: Path) -> None:
    for _ in range(2):
        with JsonLines(tmp_path) as files:
            await files.follow(given([final("a", 0, "hello"), alert("p", "firing")]))
    transcripts = [json.loads(line) for line in (tmp_path / "transcripts.jsonl").read_text().splitlines()]
    assert [t["text"] for t in transcripts] == ["hello", "hello"]
    assert len((tmp_path / "alerts.jsonl").read_text().splitlines()) == 2


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write messages there"):
        JsonLines(tmp_path / "file" / "folder")
