"""Records that nobody can read, strewn among those of a history: in the same partitions, under the same keys."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from streamer.options import PipelineOptions
from tests.chaos.history import Fed, History
from tests.chaos.outside import Output

TOO_LARGE_BYTES = 1_000_500
"""It fits the input's topic, and not the dead letters' beside our headers."""
MOST_TOO_LARGE = 8
_AUDIO = b"audio/L16;rate=16000;channels=1"
_EVENTS: Sequence[tuple[bytes, tuple[tuple[str, bytes], ...]]] = (
    (b'{"value": 1', ()),
    (b'{"value": 1}}', ()),
    (b'{"value": NaN}', ()),
    (b'{"value": 1e400}', ()),
    (b'{"value": ' + b"9" * 5_000 + b"}", ()),
    (b'{"value": "hot"}', ()),
    (b'{"value": [1, 2]}', ()),
    (b'{"value": true}', ()),
    (b'{"value": null}', ()),
    (b'{"valve": 1}', ()),
    (b"[]", ()),
    (b"null", ()),
    (b"", ()),
    (b"[" * 50_000, ()),
    (b"\xff\xfe\x00\x00", ()),
    (b'{"value": 1}', (("content-type", _AUDIO),)),
    (b'{"value": 1}', (("content-type", b"\xff"),)),
    (b'{"value": 1}', (("x-seq", b"first"),)),
    (b'{"value": 1}', (("x-session", b"\xff\xff"),)),
)
_SOUNDS: Sequence[tuple[bytes, tuple[tuple[str, bytes], ...]]] = (
    (b"\x00" * 3_201, (("content-type", _AUDIO),)),
    (b"\x00" * 3_200, (("content-type", b"audio/L16;rate=1;channels=1"),)),
    (b"\x00" * 3_200, (("content-type", b"audio/L16;rate=16000;channels=900"),)),
    (b"\x00" * 3_200, (("content-type", b"audio/flac"),)),
    (b"fLaC" + b"\x01" * 500, (("content-type", b"audio/flac"),)),
    (b"\x00\x00\xc0\x7f" * 800, (("content-type", b"audio/x-f32le;rate=16000;channels=1"),)),
    (b"\xff\xff\x7f\x7f" * 800, (("content-type", b"audio/x-f32le;rate=16000;channels=1"),)),
    (b'{"value": 1}', (("content-type", b"application/json"),)),
    (b"", (("content-type", _AUDIO),)),
    (b"\x00" * 3_200, (("content-type", _AUDIO), ("x-seq", b"-"))),
)


def poisoned(history: History, times: int, draw: random.Random, spill: Path) -> tuple[History, Sequence[Fed]]:
    """The history with so many poisoned records in it, and these alone. spill: where the too large are to be kept."""
    poison = [_one(draw, history.records[draw.randrange(len(history.records))], number) for number in range(times)]
    places = sorted(draw.randrange(len(history.records)) for _ in poison)
    records: list[Fed] = []
    for number, good in enumerate(history.records):
        while len(records) - number < len(poison) and places[len(records) - number] <= number:
            records.append(poison[len(records) - number])
        records.append(good)
    records += poison[len(records) - len(history.records) :]
    pipelines = {name: _strict(options, spill) for name, options in history.pipelines.items()}
    return history._replace(records=records, pipelines=pipelines), poison


def _strict(options: PipelineOptions, spill: Path) -> PipelineOptions:
    return replace(
        options,
        input=replace(options.input, missing="reject"),
        outputs=replace(options.outputs, spill_folder=str(spill)),
    )


def _one(draw: random.Random, beside: Fed, number: int) -> Fed:
    """A poisoned record in the place of another, told from all others by a header of its own."""
    value, headers = draw.choice(_EVENTS if beside.topic == "sensors" else _SOUNDS)
    key = draw.choice([beside.key, beside.key, beside.key + b"\xff", b"k" * 5_000])
    if number < MOST_TOO_LARGE:
        key, value, headers = beside.key, draw.randbytes(TOO_LARGE_BYTES), (("content-type", b"application/json"),)
    elif draw.random() < 0.2:
        value, headers = draw.randbytes(draw.randrange(1, 400)) + b"\xff", (("content-type", b"application/json"),)
    mark = ("poison", str(number).encode())
    return beside._replace(key=key, value=value, headers=(*headers, mark))


def wrongs(poison: Sequence[Fed], clean: Sequence[Output], found: Sequence[Output]) -> list[str]:
    """What is not as it should be, in words. poison: what was strewn. clean: what was said without it."""
    letters: dict[tuple[str, bytes], list[Output]] = defaultdict(list)
    for output in found:
        if output.topic == "deadletters":
            letters[output.header("ce_type"), _mark(output.headers)].append(output)
    by_mark = {mark: given for (_, mark), given in letters.items()}
    said = [
        f"{problem}: {one.value[:60]!r} {one.headers}"
        for one in poison
        if (problem := _problem(one, by_mark.get(_mark(one.headers), [])))
    ]
    if others := sum(map(len, by_mark.values())) - len(poison):
        said.append(f"{others} more dead letters than poisoned records")
    return said + _answers(clean, found)


def _mark(headers: Sequence[tuple[str, bytes]]) -> bytes:
    return next((value for name, value in headers if name == "poison"), b"")


def _problem(one: Fed, letters: Sequence[Output]) -> str:
    if len(letters) != 1:
        return f"{len(letters)} dead letters of one record"
    (letter,) = letters
    if spilled := letter.header("x-dead-spill"):
        path = Path(spilled)
        kept = path.exists() and path.read_bytes() == one.value and letter.key == one.key
        return "" if kept else "not the bytes or the key that were spilled"
    if (letter.value, letter.key, letter.headers[: len(one.headers)]) != (one.value, one.key, one.headers):
        return "another value, key or headers"
    return "" if letter.header("x-dead-reason") else "no reason"


def _answers(clean: Sequence[Output], found: Sequence[Output]) -> list[str]:
    """Whether every stream was told the same in the same order; ids name offsets, which poison has moved."""
    wanted, given = _told(clean), _told(found)
    return [
        f"{len(given.get(place, []))} {place[1]} of {place[0]} for {len(answers)}, or not the same ones"
        for place, answers in wanted.items()
        if given.get(place) != answers
    ] + [f"nobody asked for {kind} of {stream}" for stream, kind in given.keys() - wanted.keys()]


def _told(outputs: Sequence[Output]) -> Mapping[tuple[str, str], list[Any]]:
    told: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for output in outputs:
        if output.topic != "deadletters":
            body = {name: value for name, value in json.loads(output.value).items() if name not in ("id", "revision")}
            told[output.header("ce_subject"), output.header("ce_type")].append((output.header("ce_time"), body))
    return told
