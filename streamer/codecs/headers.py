"""The record headers that carry a stream's bookkeeping: session, sequence, position, end and gaps. Knows no payload.

| header | meaning |
|---|---|
| `x-session` | one run of a source; a new session ends the old stream |
| `x-seq` | rises by one a record in its session |
| `x-sample-index` | index in its session of the record's first sample; keeps counting over gaps |
| `x-eos` | `1`: the stream ends with this record, which may be empty |
| `x-gap` | `<samples>;reason=<word>`: samples lost just before this record |
"""

from __future__ import annotations

from typing import NamedTuple

from streamer.errors import Malformed
from streamer.records import Headers

CONTENT_TYPE = "content-type"
SESSION = "x-session"
SEQ = "x-seq"
SAMPLE_INDEX = "x-sample-index"
EOS = "x-eos"
GAP = "x-gap"

MAX_DIGITS = 18
MAX_SESSION_BYTES = 256

_EOS_VALUES = {b"1": True, b"true": True, b"": True, b"0": False, b"false": False}


class StreamHeaders(NamedTuple):
    """What a record's headers say of its place in its stream; None where they say nothing."""

    content_type: bytes | None = None
    session: str | None = None
    seq: int | None = None
    sample_index: int | None = None
    eos: bool = False


NO_HEADERS = StreamHeaders()


def parse_headers(headers: Headers) -> StreamHeaders:
    """The bookkeeping in `headers`; of a repeated header the last counts, as Kafka defines it. Raises Malformed."""
    if not headers:
        return NO_HEADERS
    content_type: bytes | None = None
    session: str | None = None
    seq: int | None = None
    sample_index: int | None = None
    eos = False
    for name, value in headers:
        if name == SEQ:
            seq = count(SEQ, value)
        elif name == SAMPLE_INDEX:
            sample_index = count(SAMPLE_INDEX, value)
        elif name == SESSION:
            session = _session(value)
        elif name == CONTENT_TYPE:
            content_type = value
        elif name == EOS:
            eos = _eos(value)
    return StreamHeaders(content_type, session, seq, sample_index, eos)


def count(name: str, value: bytes) -> int:
    """A header's decimal count, 0 <= n < 10**18. Raises Malformed."""
    if not value.isdigit() or len(value) > MAX_DIGITS:
        raise Malformed(f"header {name} is {shown(value)}, not a count of at most {MAX_DIGITS} digits")
    return int(value)


def shown(value: bytes) -> str:
    """A header's value as it is quoted in a message: printable and short."""
    text = value[:40].decode("utf-8", "backslashreplace")
    return repr(text) + ("..." if len(value) > 40 else "")


def gap_header(samples: int, reason: str) -> tuple[str, bytes]:
    """The mark of `samples` lost just before a record."""
    return GAP, f"{samples};reason={reason}".encode()


def parse_gap(value: bytes) -> tuple[int, str]:
    """Samples lost and why. Raises Malformed."""
    number, _, rest = value.partition(b";reason=")
    return count(GAP, number), rest.decode("utf-8", "backslashreplace")


def _session(value: bytes) -> str:
    if not value or len(value) > MAX_SESSION_BYTES:
        raise Malformed(f"header {SESSION} has {len(value)} bytes, not 1 to {MAX_SESSION_BYTES}")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Malformed(f"header {SESSION} is {shown(value)}, which is not UTF-8") from None


def _eos(value: bytes) -> bool:
    try:
        return _EOS_VALUES[value]
    except KeyError:
        raise Malformed(f"header {EOS} is {shown(value)}, not 0 or 1") from None
