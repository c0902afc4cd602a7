"""Topics that would lose states are refused at start and while a worker runs; what is slow or short is said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest

from streamer.errors import PermissionDenied, TopicMismatch
from streamer.log.base import Compaction, Log, TopicInfo, TopicSpec
from streamer.log.memory import MemoryLog
from streamer.options import CommitOptions, PipelineOptions
from streamer.testing.models import RunningSum
from streamer.testing.passing import PassingLog
from streamer.testing.serving import Serving, event, options_of
from streamer.worker.topic_checks import (
    HOST_BYTES,
    check_changelog,
    check_room,
    few_copies,
    short_retention,
    state_bytes,
)
from streamer.worker.topics import changelog_of, ensure, needed

HOUR_MS = 3_600_000
GOOD = TopicInfo("log", 4, True, None, 8_000_000, deletes=False, compaction=Compaction(), replicas=3, in_sync=2)


def test_a_changelog_as_we_create_it_gives_no_cause_for_complaint() -> None:
    assert check_changelog(GOOD, 4) == []


def test_a_changelog_of_an_embedded_log_has_no_settings_to_be_checked() -> None:
    assert check_changelog(replace(GOOD, compaction=None, replicas=None, in_sync=None), 4) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"partitions": 5}, "has 5 partitions, its input 4"),
        ({"compact": False, "deletes": True}, r"cleanup\.policy=delete.*--add-config cleanup\.policy=compact"),
        ({"deletes": True, "retention_ms": HOUR_MS}, r"cleanup\.policy=compact,delete"),
        ({"deletes": True}, r"cleanup\.policy=compact,delete"),
        (
            {"compaction": Compaction(tombstone_ms=60_000)},
            r"delete\.retention\.ms=60000.*ms=3600000",
        ),
    ],
)
def test_a_changelog_that_loses_states_is_refused(change: Mapping[str, object], text: str) -> None:
    with pytest.raises(TopicMismatch, match=text):
        check_changelog(replace(GOOD, **change), 4)  # type: ignore[arg-type]


def test_a_changelog_whose_settings_are_not_shown_is_refused() -> None:
    with pytest.raises(PermissionDenied, match="DescribeConfigs"):
        check_changelog(replace(GOOD, compaction=None), 4)


@pytest.mark.parametrize(
    ("compaction", "setting"),
    [
        (Compaction(segment_ms=7 * 24 * HOUR_MS, segment_bytes=1 << 30), r"segment\.ms"),
        (Compaction(min_lag_ms=48 * HOUR_MS), r"min\.compaction\.lag\.ms"),
    ],
)
def test_a_changelog_that_is_compacted_late_is_warned_of(compaction: Compaction, setting: str) -> None:
    (warning,) = check_changelog(replace(GOOD, compaction=compaction), 4)
    assert f"{setting}=".replace("\\", "") in warning


def test_small_segments_are_compacted_soon_however_long_they_may_last() -> None:
    assert check_changelog(replace(GOOD, compaction=Compaction(segment_ms=7 * 24 * HOUR_MS)), 4) == []


def test_a_state_of_the_model_must_have_room_in_the_changelog() -> None:
    need = state_bytes(RunningSum())
    assert need == HOST_BYTES + 4
    check_room(replace(GOOD, max_record_bytes=need), need)
    with pytest.raises(TopicMismatch, match=r"may have 262148: .*max\.message\.bytes=524296"):
        check_room(replace(GOOD, max_record_bytes=need - 1), need)


COMMIT = CommitOptions(snapshot_interval_ms=5000, wait_s=60)


def test_an_input_that_forgets_before_a_restart_has_read_it_again_is_warned_of() -> None:
    assert short_retention(replace(GOOD, retention_ms=None), COMMIT) == ""
    assert short_retention(replace(GOOD, retention_ms=65_000), COMMIT) == ""
    assert "keeps records for 64999 ms" in short_retention(replace(GOOD, retention_ms=64_999), COMMIT)


@pytest.mark.parametrize(
    ("replicas", "in_sync", "text"),
    [(3, 2, ""), (3, 1, "min.insync.replicas=1"), (1, 1, "one copy"), (3, None, ""), (None, None, "")],
)
def test_what_is_lost_with_one_broker_is_said(replicas: int | None, in_sync: int | None, text: str) -> None:
    said = few_copies(replace(GOOD, replicas=replicas, in_sync=in_sync))
    assert text in said
    assert bool(said) == bool(text)


class CountedLog(PassingLog):
    """`log`, whose topics have had so many partitions since somebody said so."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.counts: dict[str, int] = {}

    async def partition_counts(self, names: Iterable[str]) -> Mapping[str, int]:
        asked = list(names)
        there = await super().partition_counts(asked)
        return {**there, **{name: count for name, count in self.counts.items() if name in asked}}


@pytest.mark.parametrize(
    ("name", "count", "text"),
    [
        ("input", 6, "input 'input' has 6 partitions now, its changelog .* 2: .*Nothing was begun anew"),
        ("predictions", 3, "'predictions' has 3 partitions now, it had 2 when this worker began"),
        ("alerts", 1, "'alerts' has 1 partitions now"),
        ("test.sums.live.input.changelog", 3, "input 'input' has 2 partitions now, its changelog .* 3"),
    ],
)
async def test_a_topic_whose_partitions_change_while_a_worker_runs_ends_it(name: str, count: int, text: str) -> None:
    log = CountedLog(MemoryLog())
    bench = Serving(log, RunningSum, options_of(2))
    await bench.create_topics()
    await bench.feed([event("a", 1)])
    worker = bench.worker()
    running = asyncio.create_task(worker.run())
    await bench.until_published("predictions")
    log.counts[name] = count
    with pytest.raises(TopicMismatch, match=text):
        await running


async def test_a_worker_that_begins_on_topics_that_do_not_fit_opens_no_partition() -> None:
    log = CountedLog(MemoryLog())
    bench = Serving(log, RunningSum, options_of(2))
    await bench.create_topics()
    await bench.feed([event("a", 1)])
    log.counts["input"] = 3
    with pytest.raises(TopicMismatch, match="streams and their states would part"):
        await bench.worker().run()
    assert await bench.records("predictions") == []


def specs_of(wanted: PipelineOptions, partitions: int = 2) -> tuple[list[TopicSpec], frozenset[str], frozenset[str]]:
    changelog = changelog_of("group", wanted.input.topic)
    return needed(wanted, "group", partitions), frozenset([changelog]), frozenset([wanted.input.topic])


async def test_what_is_missing_is_created_and_what_is_there_is_checked() -> None:
    log = MemoryLog()
    arguments = specs_of(options_of(2))
    await ensure(log, *arguments)
    assert {spec.name for spec in arguments[0]} == set(await log.topics())
    await ensure(log, *arguments)


@pytest.mark.parametrize(
    ("there", "text"),
    [
        (TopicSpec("input", 2, compact=True), "input 'input' is compacted"),
        (TopicSpec("predictions", 1), "'predictions' has 1 partitions, 2 are needed"),
        (TopicSpec("group.input.changelog", 3, compact=True), "states would be lost"),
        (TopicSpec("group.input.changelog", 2, compact=True, retention_ms=HOUR_MS), "compact,delete"),
    ],
)
async def test_topics_that_are_there_and_do_not_fit_are_refused(there: TopicSpec, text: str) -> None:
    log = MemoryLog()
    await log.create_topics([there])
    with pytest.raises(TopicMismatch, match=text):
        await ensure(log, *specs_of(options_of(2)))


class LateLog(PassingLog):
    """A log whose changelogs are compacted late."""

    async def topics(self) -> Mapping[str, TopicInfo]:
        late = Compaction(min_lag_ms=48 * HOUR_MS)
        return {
            name: replace(info, compaction=late, replicas=3) if info.compact else info
            for name, info in (await super().topics()).items()
        }


async def test_warnings_are_said_at_start(caplog: pytest.LogCaptureFixture) -> None:
    log = MemoryLog()
    await ensure(log, *specs_of(options_of(2)))
    with caplog.at_level(logging.WARNING, logger="streamer"):
        await ensure(LateLog(log), *specs_of(options_of(2)))
    assert "is compacted late" in caplog.text
