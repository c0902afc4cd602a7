"""What there is to see now: live words, sensors and alerts of all streams. Pure state, bounded, without a screen."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from streamer.codecs.messages import (
    Alert,
    DeadLetter,
    Envelope,
    FinalTranscript,
    PartialTranscript,
    Prediction,
    StreamEvent,
)

MAX_STREAMS_KEPT = 64
POINTS_KEPT = 240
WORDS_KEPT = 60

T = TypeVar("T")


class Status(Protocol):
    """The part of a worker's status that is shown."""

    @property
    def streams(self) -> int: ...
    @property
    def lag_records(self) -> int: ...
    @property
    def records(self) -> int: ...
    @property
    def step_ms_p50(self) -> float: ...
    @property
    def step_ms_p99(self) -> float: ...


class Point(NamedTuple):
    """One reading: its value, the band that was predicted for it, and whether an alert was firing."""

    value: float | None
    low: float | None
    high: float | None
    firing: bool


class Speech:
    """The words of one stream: what is final, and what is heard right now."""

    def __init__(self) -> None:
        self.words: deque[str] = deque(maxlen=WORDS_KEPT)
        self.partial = ""
        self.ended = False
        self._segment = -1

    def hear(self, body: PartialTranscript | FinalTranscript) -> None:
        """A final supersedes every partial of its segment, whenever they come."""
        if isinstance(body, FinalTranscript):
            if body.segment > self._segment:
                self._segment, self.partial = body.segment, ""
                self.words.extend(body.text.split())
        elif body.segment > self._segment:
            self.partial = body.text


class Sensor:
    """The last readings of one stream."""

    def __init__(self) -> None:
        self.points: deque[Point] = deque(maxlen=POINTS_KEPT)
        self.score: float | None = None
        self.firing = False

    def read(self, body: Prediction) -> None:
        self.points.append(Point(body.value, body.low, body.high, self.firing))
        self.score = body.score


class Board:
    """Everything shown, updated by each message and each look at the workers."""

    def __init__(self) -> None:
        self.speech: OrderedDict[str, Speech] = OrderedDict()
        self.sensors: OrderedDict[str, Sensor] = OrderedDict()
        self.alerts: deque[Alert] = deque(maxlen=8)
        self.events: deque[StreamEvent | DeadLetter] = deque(maxlen=4)
        self.alerts_fired: set[str] = set()
        self.finals = 0
        self.deadletters = 0
        self.workers: Mapping[str, Status] = {}
        self.notes: Sequence[str] = ()

    def see(self, envelope: Envelope) -> None:
        """Take one message in."""
        body = envelope.body
        match body:
            case PartialTranscript() | FinalTranscript():
                self.finals += isinstance(body, FinalTranscript)
                _recent(self.speech, body.stream, Speech).hear(body)
            case Prediction():
                _recent(self.sensors, body.stream, Sensor).read(body)
            case Alert():
                self.alerts.append(body)
                self.alerts_fired.add(body.id)
                _recent(self.sensors, body.stream, Sensor).firing = body.status == "firing"
            case StreamEvent():
                if body.event == "ended" and body.stream in self.speech:
                    self.speech[body.stream].ended = True
                elif body.event == "started" and body.stream in self.speech:
                    # A new session of a stream counts its segments from the beginning.
                    self.speech[body.stream] = Speech()
                elif body.event not in ("started", "ended"):
                    self.events.append(body)
            case DeadLetter():
                self.deadletters += 1
                self.events.append(body)


def _recent(known: OrderedDict[str, T], stream: str, make: type[T]) -> T:
    """The entry of a stream, made when it is new; the one silent for longest makes room."""
    if stream not in known:
        if len(known) >= MAX_STREAMS_KEPT:
            known.popitem(last=False)
        known[stream] = make()
    known.move_to_end(stream)
    return known[stream]
