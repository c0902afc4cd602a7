"""The terminal view: live words, sensors and their predicted bands, alerts, lag, step times. Plain lines elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from streamer.codecs.messages import Alert, Envelope, PartialTranscript, Prediction, StreamEvent
from streamer.taps.board import Board, Point, Sensor, Speech, Status
from streamer.taps.lines import safe, text_of

FRAMES_PER_S = 8
CHART_ROWS = 5
SPEECH_ROWS = 8
SENSOR_ROWS = 3

T = TypeVar("T")
Statuses = Callable[[], Mapping[str, Status]]
Notes = Callable[[], Sequence[str]]


class Terminal:
    """Shows messages on a console: a live view where it is a terminal, else one line for what is final."""

    def __init__(
        self, console: Console, statuses: Statuses, board: Board | None = None, notes: Notes = lambda: ()
    ) -> None:
        """statuses, notes: asked for the workers' figures, and for lines to stand under them, at every frame."""
        self._console = console
        self._statuses = statuses
        self._notes = notes
        self.board = board or Board()

    async def follow(self, outputs: AsyncIterator[Envelope]) -> None:
        """Show everything that `outputs` gives, until it ends or this task is cancelled."""
        if not self._console.is_terminal:
            await self._print_lines(outputs)
            return
        with Live(console=self._console, auto_refresh=False, transient=False) as live:
            drawing = asyncio.create_task(self._draw(live))
            try:
                async for envelope in outputs:
                    self.board.see(envelope)
            finally:
                drawing.cancel()
                await asyncio.gather(drawing, return_exceptions=True)
                self._refresh(live)

    async def _draw(self, live: Live) -> None:
        while True:
            self._refresh(live)
            await asyncio.sleep(1 / FRAMES_PER_S)

    def _refresh(self, live: Live) -> None:
        self.board.workers, self.board.notes = self._statuses(), self._notes()
        live.update(render(self.board, self._console.width), refresh=True)

    async def _print_lines(self, outputs: AsyncIterator[Envelope]) -> None:
        async for envelope in outputs:
            self.board.see(envelope)
            body = envelope.body
            routine = isinstance(body, StreamEvent) and body.event in ("started", "ended")
            if not routine and not isinstance(body, PartialTranscript | Prediction):
                self._console.print(text_of(body), markup=False, highlight=False, soft_wrap=True)


def render(board: Board, width: int) -> RenderableType:
    """The whole view, `width` characters wide; parts without content are left out."""
    parts: list[RenderableType] = [_workers(board), *(Text(safe(note), style="magenta") for note in board.notes)]
    if board.speech:
        parts.append(Panel(_speech(board.speech), title="speech", title_align="left", border_style="cyan"))
    if board.sensors:
        shown = _newest(board.sensors, SENSOR_ROWS)
        parts.append(
            Panel(
                Group(*(_sensor(name, sensor, width - 6) for name, sensor in shown)),
                title="sensors",
                title_align="left",
                border_style="green",
            )
        )
    if board.alerts:
        lines = [_alert(alert) for alert in board.alerts]
        parts.append(Panel(Group(*lines), title="alerts", title_align="left", border_style="red"))
    if board.events:
        parts.append(
            Group(*(Text(text_of(e), style="yellow", overflow="ellipsis", no_wrap=True) for e in board.events))
        )
    return Group(*parts)


def chart(points: Sequence[Point], width: int, rows: int = CHART_ROWS) -> Text:
    """Readings as dots over their predicted band (shaded), one column each; red where an alert was firing."""
    points = list(points)[-width:]
    numbers = [n for p in points for n in (p.value, p.low, p.high) if n is not None]
    if not numbers:
        return Text("")
    bottom, top = min(numbers), max(numbers)
    scale = (rows - 1) / (top - bottom) if top > bottom else 0.0

    def row_of(number: float) -> int:
        return round((number - bottom) * scale)

    text = Text()
    for row in reversed(range(rows)):
        for point in points:
            if point.value is not None and row_of(point.value) == row:
                outside = (
                    point.low is not None and point.high is not None and not point.low <= point.value <= point.high
                )
                style = "bold red" if point.firing else "yellow" if outside else "bold green"
                text.append("•", style)
            elif point.low is not None and point.high is not None and row_of(point.low) <= row <= row_of(point.high):
                text.append("░", "red" if point.firing else "bright_black")
            else:
                text.append(" ")
        if row:
            text.append("\n")
    return text


def _workers(board: Board) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("pipeline", "streams", "records", "lag", "step p50", "step p99"):
        table.add_column(title, justify="left" if title == "pipeline" else "right", min_width=8)
    for name, status in board.workers.items():
        times = (f"{status.step_ms_p50:.1f} ms", f"{status.step_ms_p99:.1f} ms")
        table.add_row(name, f"{status.streams:,}", f"{status.records:,}", f"{status.lag_records:,}", *times)
    return table


def _speech(streams: Mapping[str, Speech]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, expand=True)
    table.add_column(style="cyan", no_wrap=True, max_width=24, overflow="ellipsis")
    table.add_column(ratio=1)
    for name, speech in _newest(streams, SPEECH_ROWS):
        text = Text(safe(" ".join(list(speech.words)[-24:])), style="dim" if speech.ended else "")
        if speech.partial:
            text.append((" " if speech.words else "") + safe(speech.partial), "italic yellow")
        table.add_row(Text(safe(name)), text)
    return table


def _sensor(name: str, sensor: Sensor, width: int) -> RenderableType:
    title = Text(safe(name), style="bold red" if sensor.firing else "green")
    if sensor.points:
        last = sensor.points[-1]
        title.append(f"  {last.value:.5g}" if last.value is not None else "  missing", "bold")
        if last.low is not None and last.high is not None:
            title.append(f"  expected {last.low:.5g} to {last.high:.5g}", "dim")
    if sensor.score is not None:
        title.append(f"  score {sensor.score:.2f}", "dim")
    return Group(title, chart(sensor.points, max(width, 10)))


def _alert(alert: Alert) -> Text:
    style = "bold red" if alert.status == "firing" else "dim"
    return Text(text_of(alert), style=style, overflow="ellipsis", no_wrap=True)


def _newest(streams: Mapping[str, T], count: int) -> list[tuple[str, T]]:
    """The streams that spoke last, in the order of their names, so that lines do not jump."""
    return sorted(list(streams.items())[-count:], key=lambda item: item[0])
