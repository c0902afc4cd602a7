"""What every state record says of itself in front: readable without decoding its body.

Layout 3, little-endian:

    0   4   magic C1 53 54 41: no MessagePack value begins with C1, so that no layout 2 record is taken for one
    4   1   layout, 3
    5   1   kind: 0 a stream's state, 1 the mark of a stream without one
    6   2   flags: 1 the body is compressed; no others are defined
    8   8   position: every record of the stream with a lower offset is contained
    16  8   last_ms: time of the stream's last record, signed; 0 in a mark
    24  2   bytes of the model tag, `name-version@fingerprint`, which follows the fixed part
    26  2   bytes of the numerics, which follow the model tag

then the body and a seal, the BLAKE2b hash of 16 bytes over all before. Magic, layout number and seal stay where they
are in all later layouts. Layout 2 has no magic and no header: its body tells.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from contextlib import suppress
from itertools import compress
from typing import Literal, NamedTuple

import msgspec

from streamer.errors import StateMismatch
from streamer.records import Record

LAYOUT = 3
OLDER = 2
"""The one layout before, which is read and never written."""
SEAL_BYTES = 16
COMPRESSED = 1

Kind = Literal["state", "mark"]

_MAGIC = b"\xc1STA"
_FIXED = struct.Struct("<4sBBHQqHH")
_LAST_MS = struct.Struct("<q")
_LENGTHS = 24
_KINDS: tuple[Kind, Kind] = ("state", "mark")
_TEXT_BYTES = 0xFFFF


class LaterLayout(StateMismatch):
    """A record that a later version of streamer wrote: whole, and not for this one to judge."""


class Header(NamedTuple):
    """What a record says of itself; true only once its seal is known to fit.

    model: `name-version@fingerprint`; numerics: what the bits depend on besides, empty in layout 2.
    """

    layout: int
    kind: Kind
    model: str
    numerics: str
    position: int
    last_ms: int


class Opened(NamedTuple):
    """A record's parts. body: where it begins; compressed: whether it must be unpacked first."""

    header: Header
    body: int
    compressed: bool


def peek(data: bytes) -> Header:
    """The header of a record of this layout or the one before. Raises StateMismatch for foreign bytes.

    Nothing is checked against the seal: whoever relies on it loads the record.
    """
    return open_record(data).header


class Known:
    """What the headers of all states that one worker writes have in common, told by slices: thousands are looked at."""

    def __init__(self) -> None:
        self._begin = bytes(9)  # longer than what it is compared with
        self._names = b""
        self._end = _FIXED.size

    def has(self, data: bytes) -> bool:
        """Whether the record's header is like the last one that was learnt, but for position and time."""
        return data[:8] == self._begin and data[_LENGTHS : self._end] == self._names

    def sort_out(self, records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
        """The records whose headers are known, and the others, each in their order."""
        begin, names, end = self._begin, self._names, self._end
        values = [record.value or b"" for record in records]
        fit = [data[:8] == begin and data[_LENGTHS:end] == names for data in values]
        if all(fit):
            return list(records), []
        return list(compress(records, fit)), [record for record, known in zip(records, fit, strict=True) if not known]

    def learn(self, data: bytes) -> None:
        """From now on headers like this record's are known; of layout 2 none is."""
        if data[:4] == _MAGIC:
            self._begin, self._end = data[:8], open_record(data).body
            self._names = data[_LENGTHS : self._end]


def last_ms_of(data: bytes) -> int:
    """The time of the stream's last record that a header tells. Raises StateMismatch for foreign bytes."""
    if data[:4] == _MAGIC and len(data) >= _FIXED.size:
        return int(_LAST_MS.unpack_from(data, 16)[0])
    return peek(data).last_ms


def writers(records: Sequence[Record]) -> set[str]:
    """The model tags of these records, foreign bytes passed over."""
    known, tags = Known(), set[str]()
    if records:
        with suppress(StateMismatch):
            known.learn(records[0].value or b"")
    for record in (*records[:1], *known.sort_out(records[1:])[1]):
        data = record.value or b""
        with suppress(StateMismatch):
            tags.add(peek(data).model)
    return tags


def open_record(data: bytes) -> Opened:
    """The header and where the body is. Raises StateMismatch for foreign bytes."""
    if data[:4] != _MAGIC:
        return Opened(_older(data), 0, False)
    if len(data) < _FIXED.size + SEAL_BYTES:
        raise StateMismatch(f"saved state of {len(data)} bytes is cut off")
    _, layout, kind, flags, position, last_ms, model, numerics = _FIXED.unpack_from(data)
    if layout > LAYOUT and is_sealed(data):
        raise LaterLayout(f"{_other_layout(layout)}: a later version of streamer wrote it, which must serve it")
    if layout != LAYOUT:
        raise StateMismatch(_other_layout(layout))
    body = _FIXED.size + model + numerics
    if kind >= len(_KINDS) or flags > COMPRESSED or body + SEAL_BYTES > len(data):
        raise StateMismatch(f"saved state of {len(data)} bytes is damaged: its header does not fit")
    try:
        name = data[_FIXED.size : _FIXED.size + model].decode()
        bits = data[_FIXED.size + model : body].decode()
    except UnicodeDecodeError as error:
        raise StateMismatch(f"saved state of {len(data)} bytes is damaged: {error}") from error
    return Opened(Header(layout, _KINDS[kind], name, bits, position, last_ms), body, flags == COMPRESSED)


def seal_of(record: bytes | memoryview) -> bytes:
    """What follows a record's header and body."""
    return hashlib.blake2b(record, digest_size=SEAL_BYTES).digest()


def is_sealed(data: bytes) -> bool:
    """Whether the bytes are as they were written."""
    return seal_of(memoryview(data)[:-SEAL_BYTES]) == data[-SEAL_BYTES:]


def pack(header: Header, *, compressed: bool) -> bytes:
    """The bytes in front of a body. Raises ValueError for what the layout cannot hold."""
    model, numerics = header.model.encode(), header.numerics.encode()
    if max(len(model), len(numerics)) > _TEXT_BYTES:
        raise ValueError(f"a state's model tag and numerics may have {_TEXT_BYTES} bytes each")
    kind = _KINDS.index(header.kind)
    flags = COMPRESSED if compressed else 0
    fixed = _FIXED.pack(_MAGIC, LAYOUT, kind, flags, header.position, header.last_ms, len(model), len(numerics))
    return fixed + model + numerics


class _OlderHost(msgspec.Struct):
    last_ms: int


class _Older(msgspec.Struct):
    layout: int
    model: str
    position: int
    host: _OlderHost | None


_OLDER = msgspec.msgpack.Decoder(_Older)


def _older(data: bytes) -> Header:
    """The header that a layout 2 record would have; the rest of its map is passed over undecoded."""
    try:
        found = _OLDER.decode(memoryview(data)[:-SEAL_BYTES])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StateMismatch(f"{len(data)} bytes are no saved state: {error}") from error
    if found.layout != OLDER:
        raise StateMismatch(_other_layout(found.layout))
    if found.position < 0:
        raise StateMismatch(f"saved state has position {found.position}")
    if found.host is None:
        return Header(OLDER, "mark", found.model, "", found.position, 0)
    return Header(OLDER, "state", found.model, "", found.position, found.host.last_ms)


def _other_layout(layout: int) -> str:
    return f"saved state has layout {layout}, this version reads {OLDER} and {LAYOUT}"
