"""A pipeline of running sums whose streams are run again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from models.bundle import wrap
from streamer.codecs.events import EventDecoder
from streamer.codecs.messages import Envelope, Prediction
from streamer.log.base import Log
from streamer.options import CommitOptions, OutputOptions
from streamer.records import TopicPartition
from streamer.rewind.in_place import run_in_place
from streamer.rewind.plan import Place, Plan, Rewound, plans_of
from streamer.tasks.prediction import PredictionTask
from streamer.testing.models import RunningSum
from streamer.testing.serving import APPLICATION, INPUT, LOOK_S, PIPELINE, QUICK, Serving, event, options_of
from streamer.worker.worker import Worker

KEEPING = replace(QUICK, keep_snapshots_s=3600.0)
RARELY_SAVED = CommitOptions(commit_interval_ms=1, snapshot_interval_ms=3_600_000)
Fed = tuple[str, int]
"""Stream, value; a stream ends with a zero."""


def serving(log: Log, *, prefix: str = "", partitions: int = 1, commit: CommitOptions = QUICK) -> Serving:
    options = options_of(partitions, commit=commit, outputs=OutputOptions().under(prefix))
    return Serving(log, RunningSum, replace(options, input=replace(options.input, topic=prefix + INPUT)))


def rewound(bench: Serving, *, version: str = "1") -> Rewound:
    bundle = wrap(RunningSum(), name="model", version=version)
    columns = bench.options.input.columns
    return Rewound(APPLICATION, PIPELINE, bench.options, bundle, PredictionTask(("y",)), EventDecoder(columns))


async def feed(bench: Serving, fed: Sequence[Fed], partition: int = 0) -> None:
    await bench.feed([event(name, value, x_eos="0" if value else "1") for name, value in fed], partition)


async def answered(bench: Serving, fed: Sequence[Fed] = ()) -> Serving:
    """Feed, answer and stop in order."""
    await bench.create_topics()
    await feed(bench, fed)
    async with bench.running() as worker:
        await drained(bench, worker)
    return bench


async def drained(bench: Serving, worker: Worker) -> None:
    names = [TopicPartition(bench.options.outputs.predictions, n) for n in range(bench.options.input.partitions)]
    async with bench.log.reader(dict.fromkeys(names, 0)) as published:
        while not await worker.drained():
            await published.read(timeout_s=LOOK_S)


async def plan_of(bench: Serving, stream: str, to: int | None = None, partition: int | None = None) -> Plan:
    place = None if to is None else Place(offset=to)
    (plan,) = await plans_of(bench.log, rewound(bench), [stream], place, partition=partition)
    return plan


def sums(messages: Sequence[Envelope]) -> list[tuple[int, str, float]]:
    """Offset, stream and sum of every prediction, in their order."""
    found = []
    for message in messages:
        if isinstance(body := message.body, Prediction):
            assert body.outputs is not None
            found.append((int(message.id.split("/")[2]), body.stream, body.outputs["y"][0]))
    return found


ONE_STREAM: list[Fed] = [("a", 1), ("b", 9), ("a", 2), ("a", 4)]
MIXED: list[Fed] = [("a", 1), ("gone", 3), ("b", 1), ("gone", 0), ("a", 2), ("b", 2), ("a", 4)]


async def went_on(bench: Serving, stream: str, to: int | None) -> list[tuple[int, str, float]]:
    """Run a stream again in place, then go on with one more record of two streams; what was said since."""
    before = Counter(sums(await bench.said()))
    await run_in_place(bench.log, rewound(bench), [await plan_of(bench, stream, to)])
    await answered(bench, [("a", 8), ("b", 8)])
    return sorted((Counter(sums(await bench.said())) - before).elements())
