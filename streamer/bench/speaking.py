"""People who speak at once at real-time pace, and who listens to what is said of them.

Over Kafka they are a process of their own, as microphones and subscribers are: the interpreter that is measured is not
shared with who measures it. `python -m streamer.bench.speaking` reads an errand a line and answers each with a line.
"""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import numpy as np

from streamer.bench.speech import CHUNK_S, CHUNK_SAMPLES, Audio, recordings
from streamer.codecs.headers import CONTENT_TYPE, EOS, SAMPLE_INDEX, SEQ, SESSION
from streamer.codecs.messages import FinalTranscript, PartialTranscript, decode
from streamer.log.base import Log
from streamer.log.kafka import KafkaLog, KafkaOptions
from streamer.log.partitioner import partition_of
from streamer.observe.process import tune_for_serving
from streamer.records import NewRecord, TopicPartition

PARTITIONS = 4
TICK_S = 0.01
ANSWER_TIMEOUT_S = 120.0

Due = dict[tuple[int, int], float]
"""By partition and offset of a chunk: the moment when its last sample had been spoken, `time.perf_counter()`."""


class Heard(msgspec.Struct):
    """What came out. finals: stream id to its words, segment by segment; late_s: of each partial, or of each echo."""

    finals: dict[str, list[str]] = msgspec.field(default_factory=dict)
    late_s: list[float] = msgspec.field(default_factory=list)
    ended: set[str] = msgspec.field(default_factory=set)


class Errand(msgspec.Struct):
    """Speak into a topic at real-time pace and listen to others. echo: to be listened to in place of a worker."""

    source: str
    transcripts: str = ""
    streams: str = ""
    echo: str = ""


class Crowd:
    """The process of those who speak and listen."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def speak(self, errand: Errand) -> Heard:
        """Raises RuntimeError when the process has ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(errand) + b"\n")
        return msgspec.json.decode(await self.line(), type=Heard)

    async def line(self) -> bytes:
        """The next line that it says."""
        assert self._process.stdout is not None
        if not (line := await self._process.stdout.readline()):
            raise RuntimeError("the speakers of the bench ended early: see above")
        return line


@asynccontextmanager
async def crowd(bootstrap: str, speakers: int, longest_s: float) -> AsyncIterator[Crowd]:
    """So many speakers, ready to speak over the Kafka at `bootstrap`."""
    command = [sys.executable, "-m", "streamer.bench.speaking", bootstrap, str(speakers), str(longest_s)]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=1 << 26)
    try:
        people = Crowd(process)
        await people.line()
        yield people
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def voices(speakers: int, longest_s: float) -> tuple[dict[str, Audio], str]:
    """What each of so many speakers says, at least `longest_s`, and what it is."""
    signals, what = recordings(speakers)
    spoken = _at_length(signals, int(longest_s * 16_000))
    return {f"speaker-{i}": signal for i, signal in enumerate(spoken)}, what


def _at_length(signals: Sequence[Audio], samples: int) -> list[Audio]:
    """Every speaker reads on, the next one's recording behind their own, to the end of one that is long enough."""
    doubled = [*signals, *signals]
    joined = []
    for first in range(len(signals)):
        spoken: list[Audio] = []
        while sum(map(len, spoken)) < samples:
            spoken.append(doubled[first + len(spoken) % len(signals)])
        joined.append(np.concatenate(spoken))
    return joined


# ---------------------------------------------------------------------- speaking


async def _feed(log: Log, topic: str, signals: dict[str, Audio], due_s: Due, *, paced: bool) -> None:
    """Append every chunk when its last sample has been spoken; speakers begin staggered over one chunk."""
    plan = sorted(
        (number * CHUNK_S / len(signals) + (index + 1) * CHUNK_S, number, index)
        for number, signal in enumerate(signals.values())
        for index in range(-(-len(signal) // CHUNK_SAMPLES))
    )
    names = list(signals)
    begin = time.perf_counter()
    position = 0
    while position < len(plan):
        now = time.perf_counter() - begin
        until = position
        while until < len(plan) and (not paced or plan[until][0] <= now):
            until += 1
        batches: dict[int, list[tuple[float, NewRecord]]] = {}
        for at_s, number, index in plan[position:until]:
            name = names[number]
            record = _record(name, signals[name], index)
            batches.setdefault(partition_of(name.encode(), PARTITIONS), []).append((begin + at_s, record))
        await asyncio.gather(*(_append(log, topic, p, batch, due_s) for p, batch in batches.items()))
        position = until
        await asyncio.sleep(TICK_S if paced else 0)


async def _append(log: Log, topic: str, partition: int, batch: list[tuple[float, NewRecord]], due_s: Due) -> None:
    first = await log.append(topic, partition, [record for _, record in batch])
    due_s.update({(partition, first + i): at_s for i, (at_s, _) in enumerate(batch)})


def _record(name: str, signal: Audio, index: int) -> NewRecord:
    start = index * CHUNK_SAMPLES
    samples = signal[start : start + CHUNK_SAMPLES]
    pcm = (np.clip(samples, -1.0, 32_767 / 32_768) * 32_768).astype("<i2").tobytes()
    headers = [
        (CONTENT_TYPE, b"audio/L16;rate=16000;channels=1"),
        (SESSION, b"1"),
        (SEQ, str(index).encode()),
        (SAMPLE_INDEX, str(start).encode()),
    ]
    if start + CHUNK_SAMPLES >= len(signal):
        headers.append((EOS, b"1"))
    return NewRecord(name.encode(), pcm, headers, index * 100)


# ---------------------------------------------------------------------- listening


async def _listen(log: Log, transcripts: str, streams: str, heard: Heard, due_s: Due, wanted: set[str]) -> None:
    """Note when each partial can be read, and every final, until all streams have ended."""
    start = {TopicPartition(topic, p): 0 for topic in (transcripts, streams) for p in range(PARTITIONS)}
    async with log.reader(start) as reader:
        while heard.ended != wanted:
            batches = await reader.read(timeout_s=0.2)
            now = time.perf_counter()
            for record in (r for batch in batches for r in batch.records):
                message = decode(record)
                body = message.body
                if isinstance(body, PartialTranscript):
                    _, partition, offset, _, _ = message.id.rsplit("/", 4)
                    heard.late_s.append(now - due_s.get((int(partition), int(offset)), now))
                elif isinstance(body, FinalTranscript):
                    heard.finals.setdefault(body.stream, []).append(body.text)
                elif getattr(body, "event", "") == "ended":
                    heard.ended.add(message.subject)


async def _listen_to_echo(log: Log, target: str, heard: Heard, due_s: Due, chunks: int) -> None:
    async with log.reader({TopicPartition(target, p): 0 for p in range(PARTITIONS)}) as reader:
        while len(heard.late_s) < chunks:
            batches = await reader.read(timeout_s=0.2)
            now = time.perf_counter()
            for record in (r for batch in batches for r in batch.records):
                offset = int(next(value for name, value in record.headers if name == "ce_id"))
                heard.late_s.append(now - due_s.get((record.partition, offset), now))


async def speak_and_listen(log: Log, errand: Errand, signals: dict[str, Audio], *, paced: bool) -> Heard:
    """Speak, and listen until all is answered, or for `ANSWER_TIMEOUT_S` after the last word."""
    heard, due_s = Heard(), Due()
    if errand.echo:
        chunks = sum(-(-len(signal) // CHUNK_SAMPLES) for signal in signals.values())
        hearing = _listen_to_echo(log, errand.echo, heard, due_s, chunks)
    else:
        hearing = _listen(log, errand.transcripts, errand.streams, heard, due_s, set(signals))
    listening = asyncio.create_task(hearing)
    await _feed(log, errand.source, signals, due_s, paced=paced)
    await asyncio.wait({listening}, timeout=ANSWER_TIMEOUT_S)
    if listening.done():
        listening.result()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    return heard


async def _run(bootstrap: str, signals: dict[str, Audio]) -> None:
    # Who listens waits for the end of transactions, in either delivery (KIP-98).
    async with KafkaLog(KafkaOptions(bootstrap_servers=bootstrap)) as log:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            heard = await speak_and_listen(log, msgspec.json.decode(line, type=Errand), signals, paced=True)
            print(msgspec.json.encode(heard).decode(), flush=True)


def main() -> None:
    """Arguments: bootstrap servers, how many speakers, how many seconds each speaks at least."""
    bootstrap, speakers, longest_s = sys.argv[1:]
    signals, _ = voices(int(speakers), float(longest_s))
    tune_for_serving()
    asyncio.run(_run(bootstrap, signals))


if __name__ == "__main__":
    main()
