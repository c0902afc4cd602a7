"""What a worker must say of a partition's records, in plain Python: sums, alerts, and what befalls streams.

The rules are those of docs/guarantees.md and DESIGN.md rules 4 to 6, written down a second time and without anything
that the worker has to mind: no batch, no commit, no snapshot, no crash. Values are eighths: their sums are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from streamer.codecs.messages import Alert, DeadLetter, Envelope, Prediction, StreamEvent
from streamer.records import NewRecord
from streamer.testing.broken_log import MARKER
from streamer.testing.faults import BAD
from streamer.testing.serving import INPUT

TTL_MS = 1000
FIRE_AT, RESOLVE_AT = 5 / 8, 2 / 8
GARBAGE, HOLE = b"garbage", b"hole"

Meaning = tuple[object, ...]
"""What a message says, but for its times and reasons."""


class Sent(NamedTuple):
    """A record as its source means it. plain: instead of an event `GARBAGE`, `HOLE` (never delivered), or nothing: a
    bare end."""

    stream: str
    value: float = 0.0
    seq: int | None = None
    session: str | None = None
    time_ms: int = 0
    eos: bool = False
    plain: bytes | None = None

    @property
    def bare_end(self) -> bool:
        return self.plain == b""

    def record(self) -> NewRecord:
        """As it is appended."""
        if self.plain == HOLE:
            return NewRecord(MARKER, b"")
        headers = [("x-seq", b"%d" % self.seq)] if self.seq is not None else []
        headers += [("x-session", self.session.encode())] if self.session is not None else []
        headers += [("x-eos", b"1")] if self.eos else []
        value = b'{"value": %s}' % repr(self.value).encode()
        return NewRecord(self.stream.encode(), value if self.plain is None else self.plain, headers, self.time_ms)


class Live:
    """A stream as its next record finds it. fired: the offset at which its open alert fired."""

    def __init__(self, sent: Sent, replaced: Sequence[str]) -> None:
        self.total = self.held = 0.0
        self.session = sent.session
        self.replaced = [session for session in replaced if session != sent.session]
        self.expected: int | None = None
        self.holes: list[tuple[int, int]] = []
        self.last_ms = sent.time_ms
        self.last_offset = -1
        self.fired: int | None = None

    def follow(self, offset: int, sent: Sent, gap: int) -> None:
        """Expect what comes behind `sent`."""
        self.last_offset = offset
        if not sent.bare_end:
            self.last_ms = max(self.last_ms, sent.time_ms)
        if sent.seq is not None:
            if gap and self.expected is not None:
                self.holes.append((self.expected, sent.seq))
            self.expected = max(sent.seq + 1, self.expected or 0)


class Reference:
    """One partition. alerts: predictions are scores that raise alerts; fills: so many lost records are made up for.

    said: what must be said, by id; live: the streams behind the last record.
    """

    def __init__(self, partition: int, *, alerts: bool, fills: int) -> None:
        self.said: dict[str, Meaning] = {}
        self.live: dict[str, Live] = {}
        self._partition, self._alerts, self._fills = partition, alerts, fills
        self._over: dict[str, list[str]] = {}

    def take(self, offset: int, sent: Sent) -> None:
        """The next record."""
        if sent.plain == HOLE:
            return
        if sent.plain == GARBAGE:
            self._say(offset, "deadletter")
            return
        stream = self.live.get(sent.stream)
        if stream is not None and (why := self._refused(stream, sent)) is not None:
            if why:
                self._say(offset, "deadletter")
            return
        if stream is not None and self._ended(stream, sent):
            self._end(sent.stream)
            stream = self._open(offset, sent)
        elif stream is None:
            if sent.bare_end:
                return
            stream = self._open(offset, sent)
        self._step(offset, sent, stream)

    def _refused(self, stream: Live, sent: Sent) -> str | None:
        """Why a record is not taken in, empty for a duplicate; None if it is."""
        if sent.session is not None and sent.session != stream.session:
            return "replaced" if sent.session in stream.replaced else None
        if sent.bare_end or sent.time_ms - stream.last_ms > TTL_MS:
            return None
        if sent.seq is not None and stream.expected is not None:
            if sent.seq >= stream.expected:
                return None
            return "late" if any(begin <= sent.seq < end for begin, end in stream.holes) else ""
        return "late" if sent.time_ms < stream.last_ms else None

    def _ended(self, stream: Live, sent: Sent) -> bool:
        if sent.session is not None and sent.session != stream.session:
            return True
        return not sent.bare_end and sent.time_ms - stream.last_ms > TTL_MS

    def _open(self, offset: int, sent: Sent) -> Live:
        stream = self.live[sent.stream] = Live(sent, self._over.pop(sent.stream, ()))
        self._say(offset, "started", sent.stream)
        return stream

    def _step(self, offset: int, sent: Sent, stream: Live) -> None:
        gap = 0
        if not sent.bare_end and sent.seq is not None and stream.expected is not None:
            gap = sent.seq - stream.expected
        filled = gap if gap <= self._fills else 0
        if gap:
            self._say(offset, "gap", sent.stream, gap)
        if gap > self._fills:
            self._reset(offset, sent.stream, stream, "reset")
        stream.follow(offset, sent, gap)
        if not sent.bare_end:
            self._add(offset, sent, stream, filled)
        if sent.eos:
            self._end(sent.stream)

    def _add(self, offset: int, sent: Sent, stream: Live, filled: int) -> None:
        if sent.value == BAD:
            self._say(offset, "deadletter")
            self._reset(offset, sent.stream, stream, "failure")
            return
        stream.total += filled * stream.held
        stream.held = sent.value
        stream.total += stream.held
        self._say(offset, "prediction", sent.stream, stream.total)
        if not self._alerts:
            return
        if stream.fired is None and stream.total >= FIRE_AT:
            stream.fired = offset
            self._say(offset, "alert", "firing", f"{sent.stream}/{offset}")
        elif stream.fired is not None and stream.total < RESOLVE_AT:
            self._say(offset, "alert", "resolved", f"{sent.stream}/{stream.fired}")
            stream.fired = None

    def _reset(self, offset: int, name: str, stream: Live, why: str) -> None:
        self._resolve(offset, name, stream, why)
        self._say(offset, "reset", name, n=int(why == "failure"))
        stream.total = stream.held = 0.0

    def _end(self, name: str) -> None:
        stream = self.live.pop(name)
        self._resolve(stream.last_offset, name, stream, "end")
        self._say(stream.last_offset, "ended", name)
        self._over[name] = [*stream.replaced, *([] if stream.session is None else [stream.session])]

    def _resolve(self, offset: int, name: str, stream: Live, why: str) -> None:
        if stream.fired is not None:
            self._say(offset, f"alert-at-{why}", "resolved", f"{name}/{stream.fired}")
            stream.fired = None

    def _say(self, offset: int, kind: str, *what: object, n: int = 0) -> None:
        self.said[f"{INPUT}/{self._partition}/{offset}/{kind}/{n}"] = (kind.partition("-")[0], *what)


def meaning(message: Envelope) -> Meaning:
    """What a worker's message says, in the reference's words."""
    body = message.body
    if isinstance(body, Prediction):
        (total,) = [body.score] if body.outputs is None else body.outputs["y"]
        return "prediction", body.stream, total
    if isinstance(body, Alert):
        return "alert", body.status, body.id
    if isinstance(body, StreamEvent):
        return (body.event, body.stream, body.samples) if body.event == "gap" else (body.event, body.stream)
    assert isinstance(body, DeadLetter)
    return ("deadletter",)
