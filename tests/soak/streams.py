"""What is fed: streams without end, that end and begin under one name, and that end for good while others come.

Speech is read from recordings where the data folder has them, else spoken by a synthesiser, machines are NAB's or
generated: what they said or measured is played again and again, each source from another place of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Literal, NamedTuple

import numpy as np

from streamer.bench.speech import recordings
from streamer.records import NewRecord
from tests.chaos.history import machines

Life = Literal["endless", "eos", "session", "visitor"]
LIVES: Sequence[Life] = ("endless", "eos", "session", "visitor")
"""endless: one stream for ever. eos: its source says when it ends, and begins again. session: it is ended by the next
session. visitor: it ends, and the next one has another name."""
CHUNK_SAMPLES, CHUNK_MS, EVENT_MS = 1_600, 100, 300_000
SENTENCES = 30
AUDIO_LIFE, EVENT_LIFE = 300, 500
"""Records of a stream that ends, about."""
_PAUSE = np.zeros(12 * CHUNK_SAMPLES, np.float32)
_START_MS = 1_700_000_000_000
_STRIDE = 97


class Tape(NamedTuple):
    """What is played. values: of one record each; name: what the streams are called; what: where they come from."""

    name: str
    audio: bool
    values: Sequence[bytes]
    what: str


class Told:
    """How many streams began and ended in what was fed."""

    def __init__(self) -> None:
        self.begun = self.ended = 0


def speech() -> Tape:
    """Sentences with pauses between them, in chunks of 100 ms."""
    sentences, what = recordings(SENTENCES)
    sound = np.concatenate([part for said in sentences for part in (said, _PAUSE)])
    pcm = (np.clip(sound, -1.0, 32_767 / 32_768) * 32_768).astype("<i2").tobytes()
    size = 2 * CHUNK_SAMPLES
    return Tape("speaker", True, [pcm[i : i + size] for i in range(0, len(pcm) - size + 1, size)], what)


def sensors(number: int, *, generated: bool = False) -> Tape:
    """One machine's measurements."""
    signals, what = machines(generated)
    values = signals[number % len(signals)].value
    return Tape("machine", False, [json.dumps({"value": float(value)}).encode() for value in values], what)


def source(number: int, tape: Tape, told: Told, times: float = 1.0) -> Iterator[NewRecord]:
    """The records of one stream after the other, each of the kind of life that `number` stands for.

    times: so long are lives that end, as a share of how long they usually are.
    """
    life = LIVES[number % len(LIVES)]
    length = max(1, int(times * ((AUDIO_LIFE if tape.audio else EVENT_LIFE) + number % _STRIDE)))
    values, at, time_ms = tape.values, number * _STRIDE, _START_MS
    for session in count():
        told.begun += 1
        told.ended += life == "session" and session > 0
        key = f"{tape.name}-{number}-{life}" + (f"-{session}" if life == "visitor" else "")
        for seq in count() if life == "endless" else range(length):
            last = life in ("eos", "visitor") and seq == length - 1
            told.ended += last
            headers = [("x-session", b"%d" % session), ("x-seq", b"%d" % seq), *([("x-eos", b"1")] if last else [])]
            if tape.audio:
                headers.append(("x-sample-index", b"%d" % (seq * CHUNK_SAMPLES)))
            yield NewRecord(key.encode(), values[at % len(values)], headers, time_ms)
            at += 1
            time_ms += CHUNK_MS if tape.audio else EVENT_MS
