"""One live stream on the host, and the judgement of its next record. Pure: no I/O, no device, no clock of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from streamer.codecs.base import Decoded
from streamer.options import StreamOptions
from streamer.worker.slots import HostState

if TYPE_CHECKING:
    from streamer.worker.version import Version

REMEMBERED_SESSIONS = 8
REMEMBERED_HOLES = 8
SOON_MS = 1000
"""No default time to live is this short: within it a stream without one of its own has not ended."""
CLOCK_JITTER_MS = 200
"""Audio records that carry no index may arrive this much off their time before it counts as a gap."""


@dataclass(slots=True)
class Stream:
    """The host's part of a stream's state; the recurrent part lies in `slot` on the device, or in `spilled`.

    position: every record of this stream with a lower offset is contained. first_offset, last_offset: the first and
    last record stepped since the stream started. clock_samples: model-rate samples since the start, gaps included.
    expected_seq, expected_sample: what the next record should say. holes: ranges of `seq` that never came.
    resampler: state of the rate conversion, None at the model's own rate. held: last value of each column, (C,) float32
    as bytes (an array would keep alive the batch that it is a part of, a copy of one costs three times as much).
    begun: some pieces of the record before `position` are still to be stepped, so that the state is true for no offset.
    task: the task's own state. version: what steps it. With `slot` and `spilled` both None the recurrent state is
    fresh.
    """

    id: str
    key: bytes | None
    partition: int
    first_offset: int
    started_ms: int
    task: Any
    position: int = 0
    last_offset: int = -1
    last_ms: int = 0
    session: str | None = None
    replaced: tuple[str, ...] = ()
    expected_seq: int | None = None
    expected_sample: int | None = None
    holes: tuple[tuple[int, int], ...] = ()
    rate_hz: int = 0
    clock_samples: int = 0
    resampler: Any = None
    held: bytes | None = None
    begun: bool = field(default=False, compare=False)
    slot: int | None = field(default=None, compare=False)
    spilled: HostState | None = field(default=None, compare=False)
    version: Version = field(default=cast("Version", None), compare=False)  # the table gives every stream one


class Verdict(NamedTuple):
    """What to do with a record.

    refused: the reason it goes to the dead letters. dropped: the reason it is passed over (a duplicate). ends: why the
    stream so far ends before it. resets: why the state starts afresh before it. gap: lost samples (events: records)
    before it; filled: how many of them are stepped as silence or missing values.
    """

    refused: str = ""
    dropped: str = ""
    ends: str = ""
    resets: str = ""
    gap: int = 0
    filled: int = 0


STEP = Verdict()
"""The ordinary case: the record is the stream's next one."""


def judge(stream: Stream, record: Decoded, options: StreamOptions) -> Verdict:
    """How `record` stands to what `stream` has seen (DESIGN.md rules 5 and 6)."""
    if record.session is not None and record.session != stream.session:
        if record.session in stream.replaced:
            return Verdict(refused=f"session {record.session!r} was already replaced by {stream.session!r}")
        return Verdict(ends="a new session began")
    if record.eos and not len(record.samples):
        return STEP
    ttl_s = options.ttl_of(stream.rate_hz)
    if record.time_ms - stream.last_ms > ttl_s * 1000:
        return Verdict(ends=f"nothing came for over {ttl_s:g} s of event time")
    if record.rate_hz != stream.rate_hz:
        reason = f"sample rate changed from {stream.rate_hz} to {record.rate_hz} Hz"
        return Verdict(refused=reason) if options.rate_change == "dead_letter" else Verdict(resets=reason)
    return _judge_order(stream, record, options)


def _judge_order(stream: Stream, record: Decoded, options: StreamOptions) -> Verdict:
    if record.sample_index is not None and stream.expected_sample is not None:
        missing = record.sample_index - stream.expected_sample
        if missing < 0:
            return _behind(stream, record, options, -missing >= len(record.samples))
        return STEP if missing == 0 else _gap(missing, record, options)
    if record.seq is not None and stream.expected_seq is not None:
        missing = record.seq - stream.expected_seq
        if missing < 0:
            return _behind(stream, record, options, not _in_hole(stream, record.seq))
        return STEP if missing == 0 else _gap(missing * max(1, len(record.samples)), record, options)
    return _judge_time(stream, record, options)


def _judge_time(stream: Stream, record: Decoded, options: StreamOptions) -> Verdict:
    """Without numbers only time tells: events may not go back, audio may not jump."""
    ahead_ms = record.time_ms - stream.last_ms
    if not record.rate_hz:
        return STEP if ahead_ms >= 0 else _behind(stream, record, options, False)
    if ahead_ms > CLOCK_JITTER_MS:
        return _gap(ahead_ms * record.rate_hz // 1000, record, options)
    return STEP if ahead_ms >= -CLOCK_JITTER_MS else _behind(stream, record, options, False)


def _in_hole(stream: Stream, seq: int) -> bool:
    return any(first <= seq < end for first, end in stream.holes)


def _behind(stream: Stream, record: Decoded, options: StreamOptions, duplicate: bool) -> Verdict:
    """A record from before the expected one: seen already, or late."""
    if duplicate:
        return Verdict(dropped="duplicate")
    if options.late == "accept" and not record.rate_hz:
        return STEP
    where = f"seq {record.seq}" if record.seq is not None else f"time {record.time_ms}"
    return Verdict(refused=f"late: {where} comes after the stream went on (position {stream.position})")


def _gap(missing: int, record: Decoded, options: StreamOptions) -> Verdict:
    unit = "samples" if record.rate_hz else "records"
    reason = f"{missing} {unit} are missing"
    if options.gap == "dead_letter":
        return Verdict(refused=f"{reason} before this record", gap=missing)
    limit = options.zero_fill_limit_s * record.rate_hz if record.rate_hz else options.zero_fill_limit_records
    if options.gap == "reset" or missing > limit:
        return Verdict(resets=reason, gap=missing)
    return Verdict(gap=missing, filled=missing)


def follow(stream: Stream, record: Decoded, offset: int, gap: int) -> None:
    """Move the stream's expectations behind `record`. gap: what `judge` found missing before it."""
    stream.position = offset + 1
    stream.last_offset = offset
    count = len(record.samples)
    duration_ms = count * 1000 // record.rate_hz if record.rate_hz else 0
    if count:
        stream.last_ms = max(stream.last_ms, record.time_ms + duration_ms)
    if record.seq is not None:
        if gap and stream.expected_seq is not None and record.seq > stream.expected_seq:
            stream.holes = (*stream.holes, (stream.expected_seq, record.seq))[-REMEMBERED_HOLES:]
        stream.expected_seq = max(record.seq + 1, stream.expected_seq or 0)
    if record.sample_index is not None:
        stream.expected_sample = max(record.sample_index + count, stream.expected_sample or 0)


def follow_if_next(stream: Stream, record: Decoded, offset: int, soon_ms: int) -> bool:
    """`judge` and `follow` in one for the ordinary case, told by a few comparisons; false: it needs care.

    soon_ms: within it no stream has ended (`soon`). When this is true, `judge` would have said STEP.
    """
    seq, time_ms, rate_hz, index = record.seq, record.time_ms, record.rate_hz, record.sample_index
    if (
        seq != stream.expected_seq
        or record.session != stream.session
        or rate_hz != stream.rate_hz
        or offset < stream.position
        or not 0 <= time_ms - stream.last_ms <= soon_ms
    ):
        return False
    if index is not None:
        if index != stream.expected_sample:
            return False
        stream.expected_sample = index + len(record.samples)
    if seq is not None:
        stream.expected_seq = seq + 1
    elif index is None and rate_hz:  # only its time tells where audio without numbers stands
        return False
    stream.position, stream.last_offset = offset + 1, offset
    if len(record.samples):
        stream.last_ms = time_ms + len(record.samples) * 1000 // rate_hz if rate_hz else time_ms
    return True


class Place(NamedTuple):
    """Where a stream stands among its records: what stepping a run of events moves."""

    position: int
    last_offset: int
    last_ms: int
    expected_seq: int | None


def place_of(stream: Stream) -> Place:
    """Where the stream stands now."""
    return Place(stream.position, stream.last_offset, stream.last_ms, stream.expected_seq)


def put(stream: Stream, place: Place) -> None:
    """Let the stream stand elsewhere: behind a run, or before it again because it could not be stepped as one."""
    stream.position, stream.last_offset, stream.last_ms, stream.expected_seq = place


def behind(offset: int, time_ms: int, seq: int | None) -> Place:
    """Behind the last event of a run."""
    return Place(offset + 1, offset, time_ms, None if seq is None else seq + 1)


def continues(before: Decoded, after: Decoded, soon_ms: int) -> bool:
    """Whether an event is plainly the next one of its stream, told from the two alone: they can be stepped as a run."""
    return (
        (after.seq is None if before.seq is None else after.seq == before.seq + 1)
        and 0 <= after.time_ms - before.time_ms <= soon_ms
        and after.session == before.session
        and not (before.eos or after.eos or before.lacking or after.lacking)
        and before.sample_index is None is after.sample_index
        and len(before.samples) == 1 == len(after.samples)
    )


def soon(options: StreamOptions) -> int:
    """How long after a stream's last sample its next one is in time whatever else holds, milliseconds."""
    return SOON_MS if options.ttl_s is None else min(SOON_MS, int(options.ttl_s * 1000))


def open_stream(record: Decoded, key: bytes | None, partition: int, offset: int, task: Any) -> Stream:
    """A stream that begins with `record`."""
    return Stream(
        id=record.stream,
        key=key,
        partition=partition,
        first_offset=offset,
        started_ms=record.time_ms,
        last_ms=record.time_ms,
        task=task,
        position=offset,
        session=record.session,
        rate_hz=record.rate_hz,
    )


def ended_sessions(stream: Stream) -> tuple[str, ...]:
    """The sessions under this id that are over once `stream` has ended, the latest last."""
    if stream.session is None:
        return stream.replaced
    return (*stream.replaced, stream.session)[-REMEMBERED_SESSIONS:]
