"""Two runs' outputs side by side: what only one of them said, what they said differently, what came in another order.

Messages are matched by `ce_id`, which depends on the input alone. Within a run the first message of an id counts:
at-least-once delivery may double it. `ce_source` and `model` may differ between pipelines and between versions of a
model: they are not compared, and the report says what they were. Pure; both runs are held in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from streamer.codecs.messages import Alert, Body, Envelope, FinalTranscript, StreamEvent
from streamer.errors import InputError

_TEXT_ATTRIBUTES = ("type", "subject", "time")
_DECIDED_EVENTS = frozenset({"reset", "model_changed", "ended"})


class FieldDifference(NamedTuple):
    """A field of a message with two values, as `words[2].start_s`. None where one run has no such field.

    by: b - a where both are numbers.
    """

    field: str
    a: Any
    b: Any
    by: float | None = None


@dataclass(frozen=True, slots=True)
class OnlyIn:
    """A message that one run has and the other has not. run: `a` or `b`."""

    run: str
    message: Envelope


@dataclass(frozen=True, slots=True)
class Changed:
    """A message of both runs that does not say the same."""

    message: Envelope
    fields: tuple[FieldDifference, ...]


@dataclass(frozen=True, slots=True)
class Reordered:
    """A stream whose decisions that both runs have come in another order; `place` counts them from 0.

    a, b: the ids that stand at the first place where the runs differ.
    """

    stream: str
    place: int
    a: str
    b: str


Difference = OnlyIn | Changed | Reordered


@dataclass(slots=True)
class Run:
    """What a run said. messages: by id, in order; repeated: how many came again under an id that was there."""

    messages: dict[str, Envelope] = field(default_factory=dict)
    repeated: int = 0

    @property
    def sources(self) -> list[str]:
        """Every `ce_source`, in the order of first use."""
        return list(dict.fromkeys(message.source for message in self.messages.values()))

    @property
    def models(self) -> list[str]:
        """Every `model`, in the order of first use."""
        return list(dict.fromkeys(message.model for message in self.messages.values()))


@dataclass(slots=True)
class Report:
    """Two runs and how they differ."""

    a: Run
    b: Run
    differences: list[Difference]

    @property
    def equal(self) -> bool:
        return not self.differences

    @property
    def matched(self) -> int:
        """Messages that both runs have."""
        return len(self.a.messages.keys() & self.b.messages.keys())

    @property
    def ignored(self) -> list[str]:
        """What differs and is not compared, said for people."""
        pairs = (
            ("ce_source", self.a.sources, self.b.sources),
            ("model", self.a.models, self.b.models),
        )
        return [
            f"{name} ({', '.join(a)} in a; {', '.join(b)} in b)" for name, a, b in pairs if a and b and set(a) != set(b)
        ]


def compare(a: Iterable[Envelope], b: Iterable[Envelope], tolerance: float = 0.0) -> Report:
    """How two runs differ; measures that differ by at most `tolerance` are the same, counts are compared exactly.

    Raises InputError for a run in which two pipelines said something under one id: ids are unique within one source.
    """
    first, second = run_of(a), run_of(b)
    differences: list[Difference] = [*_bodies(first.messages, second.messages, tolerance)]
    differences += _orders(first.messages, second.messages)
    return Report(first, second, differences)


def run_of(messages: Iterable[Envelope]) -> Run:
    """The messages of a run by their ids. Raises InputError as `compare` does."""
    run = Run()
    for message in messages:
        if (known := run.messages.get(message.id)) is None:
            run.messages[message.id] = message
            continue
        if known.source != message.source:
            raise InputError(
                f"{known.source} and {message.source} both say {message.id}: compare topics that one pipeline writes"
            )
        run.repeated += 1
    return run


def is_decision(body: Body) -> bool:
    """Finals, alert changes, ends and resets: what is decided once and never said anew (DESIGN.md rule 4)."""
    if isinstance(body, StreamEvent):
        return body.event in _DECIDED_EVENTS
    return isinstance(body, FinalTranscript | Alert)


def _bodies(a: Mapping[str, Envelope], b: Mapping[str, Envelope], tolerance: float) -> Iterator[OnlyIn | Changed]:
    for name, message in a.items():
        if (other := b.get(name)) is None:
            yield OnlyIn("a", message)
        elif fields := tuple(_fields(message, other, tolerance)):
            yield Changed(message, fields)
    for name, message in b.items():
        if name not in a:
            yield OnlyIn("b", message)


def _orders(a: Mapping[str, Envelope], b: Mapping[str, Envelope]) -> Iterator[Reordered]:
    """The streams whose common decisions stand in another order; a stream is what run `a` calls it."""
    common = {name for name in a.keys() & b.keys() if is_decision(a[name].body) and is_decision(b[name].body)}
    stream_of = {name: _stream(a[name]) for name in common}
    before, after = _by_stream(a, stream_of), _by_stream(b, stream_of)
    for stream, ids in before.items():
        for place, (one, other) in enumerate(zip(ids, after[stream], strict=True)):
            if one != other:
                yield Reordered(stream.subject, place, one, other)
                break


class _Stream(NamedTuple):
    """A stream: the same key in two partitions of the input is two of them, in no order to each other."""

    partition: tuple[str, ...]
    subject: str


def _stream(message: Envelope) -> _Stream:
    """Whose message it is, by the first parts of its id: the input's topic and partition."""
    return _Stream(tuple(message.id.split("/", 2)[:2]), message.subject)


def _by_stream(ordered: Iterable[str], stream_of: Mapping[str, _Stream]) -> dict[_Stream, list[str]]:
    found: dict[_Stream, list[str]] = {}
    for name in ordered:
        if (stream := stream_of.get(name)) is not None:
            found.setdefault(stream, []).append(name)
    return found


def _fields(a: Envelope, b: Envelope, tolerance: float) -> Iterator[FieldDifference]:
    for name in _TEXT_ATTRIBUTES:
        if (one := getattr(a, name)) != (other := getattr(b, name)):
            yield FieldDifference(f"ce_{name}", one, other)
    yield from _values("", a.body, b.body, tolerance)


def _values(path: str, a: Any, b: Any, tolerance: float) -> Iterator[FieldDifference]:
    """The leaves at which two values differ; a field that was left out has its default."""
    a, b = (msgspec.structs.asdict(value) if isinstance(value, msgspec.Struct) else value for value in (a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        for name in dict.fromkeys((*a, *b)):
            yield from _values(f"{path}.{name}" if path else name, a.get(name), b.get(name), tolerance)
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        for i in range(max(len(a), len(b))):
            one, other = (whole[i] if i < len(whole) else None for whole in (a, b))
            yield from _values(f"{path}[{i}]", one, other, tolerance)
    elif isinstance(a, int | float) and isinstance(b, int | float):
        measured = isinstance(a, float) or isinstance(b, float)
        if not abs(b - a) <= (tolerance if measured else 0):
            yield FieldDifference(path, a, b, b - a)
    elif a != b:
        yield FieldDifference(path, a, b)
