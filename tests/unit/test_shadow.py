"""A candidate in the shadow of the live model: it speaks in topics of its own, and what befalls it stays its own."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from models.bundle import Bundle, wrap
from models.contract import Outputs, State
from streamer.app import App
from streamer.codecs.messages import Envelope, Prediction, decode
from streamer.errors import StreamerError
from streamer.log.base import Log
from streamer.log.kafka import KafkaLog
from streamer.log.kafka_connection import Delivery, KafkaOptions
from streamer.log.memory import MemoryLog
from streamer.observe.agreement import Counts
from streamer.options import OutputOptions, PipelineOptions, ShadowOptions
from streamer.records import NewRecord, TopicPartition
from streamer.settings import MemorySettings, Settings
from streamer.shadow.watch import Sides, agreement_so_far
from streamer.tasks.base import Task
from streamer.tasks.prediction import PredictionTask
from streamer.testing.models import RunningSum
from streamer.testing.serving import options_of
from streamer.worker import topics

PIPELINE = "sums"


class Doubled(RunningSum):
    """A candidate that says twice the sum."""

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Outputs, State]:
        outputs, after = super().step(x, lengths, state)
        return {**outputs, "y": 2 * outputs["y"]}, after


class Broken(PredictionTask):
    """A candidate's task that fails when a stream begins."""

    def initial(self, clock_samples: int) -> Any:
        raise RuntimeError("the candidate is broken")


def options(prefix: str = "") -> PipelineOptions:
    base = options_of(2, outputs=OutputOptions().under(prefix))
    return replace(base, input=replace(base.input, topic=f"{prefix}input"), shadow=ShadowOptions(model="candidate"))


def app(
    log: Log,
    candidate: Bundle,
    prefix: str = "",
    parts: Sequence[str] = (topics.LIVE, topics.SHADOW),
    task: Task | None = None,
) -> App:
    settings = Settings(
        application=f"test{prefix.strip('.')}",
        log=MemorySettings(kind="memory"),
        pipelines={PIPELINE: options(prefix)},
        feeds=[],
    )
    bundles = {PIPELINE: wrap(RunningSum(), name="sum"), f"{PIPELINE}.shadow": candidate}
    tasks = {} if task is None else {f"{PIPELINE}.shadow": task}
    return App(settings, log=log, models=bundles, parts=parts, tasks=tasks)


def doubled() -> Bundle:
    return wrap(Doubled(), name="doubled")


async def feed(log: Log, values: Sequence[int], prefix: str = "") -> None:
    for n, value in enumerate(values):
        record = NewRecord(b"s%d" % (n % 3), json.dumps({"value": value}).encode(), (), n)
        await log.append(f"{prefix}input", n % 2, [record])


async def said(log: Log, topic: str) -> list[Envelope]:
    count = (await log.topics())[topic].partitions
    found = []
    for name, kept in (await log.offsets([TopicPartition(topic, n) for n in range(count)])).items():
        async with log.reader({name: kept.begin}) as reader:
            while reader.position(name) < kept.end:
                found += [decode(record) for batch in await reader.read(timeout_s=1.0) for record in batch.records]
    return found


def numbers(messages: Sequence[Envelope]) -> Mapping[str, float]:
    found = {}
    for message in messages:
        assert isinstance(message.body, Prediction)
        assert message.body.outputs is not None
        found[message.id] = message.body.outputs["y"][0]
    return found


async def test_the_candidate_answers_the_same_input_in_topics_of_its_own() -> None:
    log = MemoryLog()
    async with app(log, doubled()) as serving:
        await feed(log, [1, 2, 3, 4, 5, 6])
        await serving.drained()
    live, shadow = numbers(await said(log, "predictions")), numbers(await said(log, "shadow.predictions"))
    assert len(live) == 6
    assert shadow == {name: 2 * number for name, number in live.items()}


async def test_ids_sources_groups_and_changelogs_of_the_two_never_meet() -> None:
    log = MemoryLog()
    async with app(log, doubled()) as serving:
        await feed(log, [1, 2, 3])
        await serving.drained()
    assert {m.source for m in await said(log, "predictions")} == {"test/test.sums.live/sums/live"}
    assert {m.source for m in await said(log, "shadow.predictions")} == {"test/test.sums.shadow/sums/shadow"}
    assert {"test.sums.live.input.changelog", "test.sums.shadow.input.changelog"} < set(await log.topics())
    names = [TopicPartition("input", n) for n in range(2)]
    assert set(await log.committed("test.sums.shadow", names)) == set(names)


async def test_those_who_follow_the_app_hear_the_live_model_alone() -> None:
    log = MemoryLog()
    async with app(log, doubled()) as serving:
        await feed(log, [1, 2, 3])
        heard = [message async for message in serving.outputs(until_drained=True)]
    assert {message.model for message in heard} == {wrap(RunningSum(), name="sum").tag}


async def test_how_far_the_two_agree_is_counted_while_they_run() -> None:
    log = MemoryLog()
    async with app(log, doubled()) as serving:
        await feed(log, [1, 2, 3, 4])
        await serving.drained()
    status = serving.shadows()[PIPELINE]
    assert (status.failure, status.figures.predictions) == ("", Counts(same=4))
    gap = status.figures.gaps["outputs.y"]
    assert (gap.mean, gap.maximum) == (2.5, 4.0)  # sums 1, 2, 3 and, of the stream that came twice, 5
    metrics = serving.metrics.snapshot()
    assert metrics['streamer_shadow_difference_max{field="outputs.y",pipeline="sums"}'] == 4.0
    assert metrics['streamer_shadow_messages_total{kind="prediction",outcome="same",pipeline="sums"}'] == 4


async def test_a_shadow_begins_where_the_live_model_has_come_to_and_then_goes_on_where_it_was() -> None:
    log = MemoryLog()
    async with app(log, doubled(), parts=[topics.LIVE]) as alone:
        await feed(log, [1, 2])
        await alone.drained()
    async with app(log, doubled()) as both:
        await feed(log, [3, 4])
        await both.drained()
    assert len(await said(log, "shadow.predictions")) == 2
    async with app(log, doubled(), parts=[topics.LIVE]) as alone:
        await feed(log, [5, 6])
        await alone.drained()
    async with app(log, doubled()) as both:
        await both.drained()
    live, shadow = await said(log, "predictions"), await said(log, "shadow.predictions")
    assert {m.id for m in shadow} == {m.id for m in live if m.id.split("/")[2] != "0"}
    assert len(shadow) == 4


async def test_a_shadow_that_fails_is_reported_and_the_live_model_goes_on() -> None:
    log = MemoryLog()
    async with app(log, doubled(), task=Broken(("y",))) as serving:
        await feed(log, [1, 2, 3])
        await serving.drained()
        await feed(log, [4])
        await serving.drained()
    assert len(await said(log, "predictions")) == 4
    assert "the candidate is broken" in serving.shadows()[PIPELINE].failure
    metrics = serving.metrics.snapshot()
    assert metrics['streamer_shadow_failures_total{pipeline="sums"}'] == 1
    assert metrics['streamer_shadow_up{pipeline="sums"}'] == 0


async def test_a_candidate_that_cannot_be_loaded_does_not_keep_the_live_model_from_starting() -> None:
    log = MemoryLog()
    settings = app(log, doubled()).settings
    async with App(settings, log=log, models={PIPELINE: wrap(RunningSum(), name="sum")}) as serving:
        await feed(log, [1])
        await serving.drained()
    assert "no model 'candidate'" in serving.shadows()[PIPELINE].failure
    assert len(await said(log, "predictions")) == 1


async def test_a_shadow_can_run_in_a_process_of_its_own_which_its_failure_ends() -> None:
    log = MemoryLog()
    async with app(log, doubled(), parts=[topics.LIVE]) as live, app(log, doubled(), parts=[topics.SHADOW]) as shadow:
        await feed(log, [1, 2, 3])
        await asyncio.gather(live.drained(), shadow.drained())
        assert list(live.status()) == [PIPELINE]
        assert list(shadow.status()) == [f"{PIPELINE}.shadow"]
    assert len(await said(log, "shadow.predictions")) == 3
    with pytest.raises(RuntimeError, match="the candidate is broken"):
        await until_failed(app(MemoryLog(), doubled(), parts=[topics.SHADOW], task=Broken(("y",))))


async def until_failed(serving: App) -> None:
    async with serving:
        await feed(serving.log, [1])
        await serving.failed()


async def test_another_candidate_takes_the_place_of_the_last_without_being_told() -> None:
    log = MemoryLog()
    async with app(log, doubled()) as first:
        await feed(log, [1, 2, 3])
        await first.drained()
    async with app(log, wrap(RunningSum(), name="another")) as second:
        await feed(log, [4, 5, 6])
        await second.drained()
    assert second.shadows()[PIPELINE].failure == ""
    assert len(await said(log, "shadow.predictions")) == 6


async def test_where_no_pipeline_has_a_shadow_a_process_for_shadows_has_nothing_to_do() -> None:
    plain = Settings(log=MemorySettings(kind="memory"), pipelines={PIPELINE: options_of()}, feeds=[])
    bundles = {PIPELINE: wrap(RunningSum(), name="sum")}
    async with App(plain, log=MemoryLog(), models=bundles, parts=[topics.SHADOW]) as nothing:
        with pytest.raises(StreamerError, match="no pipeline has a shadow"):
            await nothing.failed()


@pytest.mark.kafka
@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
async def test_on_kafka_neither_fences_the_other_and_the_topics_tell_how_far_they_agree(
    kafka: str, delivery: Delivery
) -> None:
    prefix = f"shadow-{uuid.uuid4().hex[:8]}."
    async with KafkaLog(KafkaOptions(bootstrap_servers=kafka, delivery=delivery)) as log:
        async with app(log, doubled(), prefix) as serving, asyncio.timeout(100):
            application = serving.settings.application
            sides = Sides(application, PIPELINE, *topics.parts_of(application, PIPELINE, options(prefix)))
            await serving.drained()  # both have begun: a shadow begins where the live model has come to
            await feed(log, [1, 2, 3, 4, 5, 6], prefix)
            await serving.drained()
            figures = await agreement_so_far(log, sides)
            while figures.predictions.live < 6:  # in transactions it is seen a moment later what is committed
                figures = await agreement_so_far(log, sides)
        assert serving.shadows()[PIPELINE].failure == ""
        live, shadow = [numbers(await said(log, f"{p}{prefix}predictions")) for p in ("", "shadow.")]
    assert shadow == {name: 2 * number for name, number in live.items()}
    assert (len(live), figures.predictions) == (6, Counts(same=6))
