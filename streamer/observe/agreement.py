"""How far a candidate in the shadow agrees with the live model, counted as both speak.

Messages are matched by `ce_id`, which depends on the input alone. One is missing on the other side only when both sides
have answered its record; until then it waits. Words are compared between the places where both sides end a segment or a
stream at the same record, so that segments that are cut elsewhere cost nothing. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from streamer.codecs.messages import Alert, Body, Envelope, FinalTranscript, Prediction, StreamEvent
from streamer.records import TopicPartition

Side = Literal["live", "shadow"]
LIVE: Side = "live"
SHADOW: Side = "shadow"
MOST_WORDS = 400
"""Words of one stream that wait for a common place; beyond it they are compared as they are."""


class Place(NamedTuple):
    """The input record that a message answers."""

    partition: TopicPartition
    offset: int


def place_of(message: Envelope) -> Place:
    """The first parts of a message's id. Raises ValueError for an id that no worker gave."""
    topic, partition, offset, _ = message.id.split("/", 3)
    return Place(TopicPartition(topic, int(partition)), int(offset))


def is_compared(message: Envelope) -> bool:
    """Whether a message is a model's answer, or says that a stream begins or ends; not what a worker says of itself."""
    body = message.body
    if isinstance(body, Alert):
        return message.id.split("/", 3)[3] != "retention/0"
    if isinstance(body, StreamEvent):
        return body.event in ("started", "ended")
    return isinstance(body, FinalTranscript | Prediction)


@dataclass(slots=True)
class Counts:
    """Messages of one kind: the same on both sides, different under one id, or said by one side only."""

    same: int = 0
    different: int = 0
    only_live: int = 0
    only_shadow: int = 0

    @property
    def live(self) -> int:
        """How many the live model said."""
        return self.same + self.different + self.only_live

    @property
    def share_same(self) -> float | None:
        """Of what the live model said, the part that the candidate said too; None before the first."""
        return self.same / self.live if self.live else None


@dataclass(slots=True)
class Gap:
    """Absolute differences of one predicted number."""

    count: int = 0
    total: float = 0.0
    maximum: float = 0.0

    def add(self, difference: float) -> None:
        self.count += 1
        self.total += difference
        self.maximum = max(self.maximum, difference)

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0


@dataclass(slots=True)
class Figures:
    """What was counted so far.

    words: of the live model's finals; wrong_words: insertions, deletions and substitutions that lead from them to the
    candidate's. gaps: by field. predictions, alerts: an alert is the same when it fires (or resolves) at the same
    record. joined_late: streams that had begun when the shadow first heard them; what it says of them differs for that
    alone. given_up: messages that waited too long for the other side's and were not compared.
    """

    finals: Counts = field(default_factory=Counts)
    words: int = 0
    wrong_words: int = 0
    predictions: Counts = field(default_factory=Counts)
    gaps: dict[str, Gap] = field(default_factory=dict)
    alerts: Counts = field(default_factory=Counts)
    joined_late: int = 0
    given_up: int = 0

    @property
    def word_error_rate(self) -> float | None:
        """Of the candidate against the live model; None before the first word."""
        return self.wrong_words / self.words if self.words else None


class _Waiting(NamedTuple):
    place: Place
    message: Envelope


class Agreement:
    """Counts two sides against each other. begin: records below are not compared, by partition of the input.

    figures: what was counted before, to be added to.
    """

    def __init__(self, begin: Mapping[TopicPartition, int] | None = None, figures: Figures | None = None) -> None:
        self.figures = figures or Figures()
        self._settled: dict[TopicPartition, int] = dict(begin or {})
        self._waiting: dict[Side, dict[str, _Waiting]] = {LIVE: {}, SHADOW: {}}
        self._matched: dict[str, Place] = {}
        self._speech: dict[tuple[TopicPartition, str], _Speech] = {}

    def waiting(self, side: Side) -> int:
        """Messages of a side whose counterpart was not seen yet."""
        return len(self._waiting[side])

    def see(self, side: Side, message: Envelope) -> None:
        """Take in a message; one that was seen before is passed over."""
        if not is_compared(message):
            return
        body, place = message.body, place_of(message)
        mine, others = self._waiting[side], self._waiting[SHADOW if side == LIVE else LIVE]
        if place.offset < self._settled.get(place.partition, 0) or message.id in self._matched or message.id in mine:
            return
        if isinstance(body, FinalTranscript):
            self._speech_of(place.partition, message.subject).hear(side, place.offset, body.text.split())
        other = others.pop(message.id, None)
        if other is None:
            mine[message.id] = _Waiting(place, message)
            return
        self._matched[message.id] = place
        live, shadow = (body, other.message.body) if side == LIVE else (other.message.body, body)
        self._match(place, message.subject, live, shadow)

    def settle(self, answered: Mapping[TopicPartition, int]) -> None:
        """All that both sides say of records below these offsets was seen: what still waits there stays alone."""
        for partition, offset in answered.items():
            self._settled[partition] = max(offset, self._settled.get(partition, 0))
        for side in (LIVE, SHADOW):
            alone = [name for name, (place, _) in self._waiting[side].items() if self._is_settled(place)]
            for name in alone:
                self._alone(side, self._waiting[side].pop(name).message.body)
        self._matched = {name: place for name, place in self._matched.items() if not self._is_settled(place)}
        for (partition, _), speech in self._speech.items():
            for live, shadow in speech.due(self._settled.get(partition, 0)):
                self._compare_words(live, shadow)
        self._speech = {key: speech for key, speech in self._speech.items() if speech}

    def finish(self) -> None:
        """Nothing more will come: words that wait for a common place are compared as they are."""
        for (partition, _), speech in self._speech.items():
            self._compare_words(*speech.rest(self._settled.get(partition, 0)))

    def give_up(self) -> None:
        """Forget the older half of what waits, so that one side's silence does not fill the memory."""
        for waiting in self._waiting.values():
            for name in list(waiting)[: (len(waiting) + 1) // 2]:
                del waiting[name]
                self.figures.given_up += 1
        self._speech.clear()

    def _is_settled(self, place: Place) -> bool:
        return place.offset < self._settled.get(place.partition, 0)

    def _speech_of(self, partition: TopicPartition, stream: str) -> _Speech:
        return self._speech.setdefault((partition, stream), _Speech())

    def _match(self, place: Place, stream: str, live: Body, shadow: Body) -> None:
        figures = self.figures
        match live, shadow:
            case FinalTranscript(), FinalTranscript():
                same = live.text == shadow.text
                figures.finals.same += same
                figures.finals.different += not same
                self._speech_of(place.partition, stream).common.append(place.offset)
            case Prediction(), Prediction():
                figures.predictions.same += 1
                for name, difference in _differences(live, shadow):
                    figures.gaps.setdefault(name, Gap()).add(difference)
            case Alert(), Alert():
                same = live.status == shadow.status
                figures.alerts.same += same
                figures.alerts.different += not same
            case StreamEvent(), StreamEvent():
                if live.event == "ended":
                    self._speech_of(place.partition, stream).common.append(place.offset)

    def _alone(self, side: Side, body: Body) -> None:
        if isinstance(body, StreamEvent):
            self.figures.joined_late += side == SHADOW and body.event == "started"
            return
        counts = self._counts(body)
        if side == LIVE:
            counts.only_live += 1
        else:
            counts.only_shadow += 1

    def _counts(self, body: Body) -> Counts:
        if isinstance(body, FinalTranscript):
            return self.figures.finals
        return self.figures.alerts if isinstance(body, Alert) else self.figures.predictions

    def _compare_words(self, live: list[str], shadow: list[str]) -> None:
        from torchaudio.functional import edit_distance  # a second to import: only where words are compared

        self.figures.words += len(live)
        self.figures.wrong_words += edit_distance(live, shadow)


Heard = deque[tuple[int, list[str]]]
"""Offsets of finals, rising, with their words."""


@dataclass(slots=True)
class _Speech:
    """The words of one stream that are not compared yet. common: offsets where both sides end a segment."""

    live: Heard = field(default_factory=deque)
    shadow: Heard = field(default_factory=deque)
    common: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.live or self.shadow or self.common)

    def hear(self, side: Side, offset: int, words: list[str]) -> None:
        (self.live if side == LIVE else self.shadow).append((offset, words))

    def due(self, below: int) -> Iterator[tuple[list[str], list[str]]]:
        """What lies between common places below an offset; without one, what has become too much to keep."""
        for offset in sorted(place for place in self.common if place < below):
            yield _taken(self.live, offset + 1), _taken(self.shadow, offset + 1)
        self.common = [place for place in self.common if place >= below]
        if max(_words(self.live, below), _words(self.shadow, below)) > MOST_WORDS:
            yield self.rest(below)

    def rest(self, below: int) -> tuple[list[str], list[str]]:
        return _taken(self.live, below), _taken(self.shadow, below)


def _taken(heard: Heard, below: int) -> list[str]:
    words: list[str] = []
    while heard and heard[0][0] < below:
        words += heard.popleft()[1]
    return words


def _words(heard: Iterable[tuple[int, list[str]]], below: int) -> int:
    return sum(len(words) for offset, words in heard if offset < below)


def _differences(live: Prediction, shadow: Prediction) -> Iterator[tuple[str, float]]:
    """How far apart two predictions lie, number by number; what was observed is no prediction."""
    for name in ("expected", "low", "high", "score"):
        one, other = getattr(live, name), getattr(shadow, name)
        if one is not None and other is not None:
            yield name, abs(other - one)
    for name, numbers in (live.outputs or {}).items():
        for one, other in zip(numbers, (shadow.outputs or {}).get(name, ()), strict=False):
            yield f"outputs.{name}", abs(other - one)
