"""The soak: its verdict catches what it is there for, and a short run of it holds on to nothing (docs/soak.md)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.records import NewRecord
from tests.soak.run import Plan, apart, soak
from tests.soak.streams import Tape, Told, source
from tests.soak.table import findings, verdict
from tests.soak.trend import FEWEST_POINTS, Finding, Limits, judge

HOUR_S, EVERY_S, CHUNKS_A_SECOND = 3600, 10, 1000
TIMES = range(0, HOUR_S, EVERY_S)
STEADY = {
    "rss_mb": 900.0,
    "objects": 150_000.0,
    "descriptors": 30.0,
    "tasks": 70.0,
    "threads": 8.0,
    "marks_table": 6.0,
    "streams_table": 200.0,
    "disk_mb": 800.0,
    "model.h.norm_mean": 15.0,
}
"""What was measured of a process that is in order, about."""
MOVES_ABOUT = {"rss_mb": 0.2, "objects": 3000.0, "descriptors": 1.0, "tasks": 6.0, "marks_table": 6.0, "disk_mb": 60.0}


def hour(seed: int, leak: Callable[[str, float], float] = lambda name, seconds: 0.0) -> list[dict[str, float]]:
    """Samples of an hour: everything moves about a little, and `leak` comes on top of it."""
    draw = random.Random(seed)
    return [
        {"seconds": float(at), "answered": float(at * CHUNKS_A_SECOND)}
        | {
            name: level + draw.uniform(-1, 1) * MOVES_ABOUT.get(name, 0.02 * level) + leak(name, at)
            for name, level in STEADY.items()
        }
        for at in TIMES
    ]


def wrong(found: list[Finding]) -> list[str]:
    return [finding.name for finding in found if not finding.right]


SOME = settings(max_examples=15, deadline=None)


@SOME
@given(st.integers(0, 10**6))
def test_a_process_in_which_everything_only_moves_about_is_right(seed: int) -> None:
    assert wrong(judge(hour(seed), Limits())) == []


PLANTED = {
    "a task a minute": ("tasks", 1 / 60),
    "a descriptor in two minutes": ("descriptors", 1 / 120),
    "a thread in five minutes": ("threads", 1 / 300),
    "two bytes a chunk": ("rss_mb", 2e-6 * CHUNKS_A_SECOND),
    "an object in fifty chunks": ("objects", CHUNKS_A_SECOND / 50),
    "a mark in two minutes": ("marks_table", 1 / 120),
    "a quarter of a megabyte on disk a second": ("disk_mb", 0.25),
    "a state that grows by half in an hour": ("model.h.norm_mean", 7.5 / HOUR_S),
    "a state that fades": ("model.h.norm_mean", -7.5 / HOUR_S),
}


@pytest.mark.parametrize(("name", "a_second"), PLANTED.values(), ids=PLANTED)
@SOME
@given(seed=st.integers(0, 10**6))
def test_a_leak_is_found_wherever_it_is(name: str, a_second: float, seed: int) -> None:
    leaking = hour(seed, lambda what, seconds: a_second * seconds if what == name else 0.0)
    found = judge(leaking, Limits())
    assert wrong(found) == [name]
    assert verdict([], found) == f"verdict: WRONG: {name} grows"


@SOME
@given(st.integers(0, 10**6), st.sets(st.integers(0, len(TIMES) - 1), max_size=30))
def test_single_samples_that_lie_far_off_change_no_verdict(seed: int, places: set[int]) -> None:
    samples = hour(seed)
    for place in places:
        samples[place] |= {"rss_mb": 5000.0, "tasks": 500.0}
    assert wrong(judge(samples, Limits())) == []


def test_what_grew_in_the_first_half_alone_has_found_its_size() -> None:
    warming = hour(1, lambda name, seconds: min(seconds, 1500) / 10 if name == "rss_mb" else 0.0)
    assert wrong(judge(warming, Limits())) == []


def test_too_few_samples_are_no_trend() -> None:
    with pytest.raises(ValueError, match="run for longer"):
        judge(hour(1)[: 2 * FEWEST_POINTS - 2], Limits())


RIGHT = Counter(
    {"sensors.streams:started": 9, "sensors.streams:ended": 4, "sensors.predictions": 100, "sensors.alerts": 3}
)
ODD = {
    "sensors.predictions: 99, not 100": {"sensors.predictions": -1},
    "sensors.predictions: 101, not 100": {"sensors.predictions": 1},
    "sensors.deadletters: 1, not 0": {"sensors.deadletters": 1},
    "sensors.streams:ended: 3, not 4": {"sensors.streams:ended": -1},
    "sensors.streams:reset: 1, not 0": {"sensors.streams:reset": 1},
}


@pytest.mark.parametrize(("said", "more"), ODD.items(), ids=ODD)
def test_an_answer_that_is_missing_or_too_much_is_told(said: str, more: dict[str, int]) -> None:
    told = Told()
    told.begun, told.ended = 9, 4
    assert apart("sensors", 100, told, RIGHT) == []
    counts = Counter(RIGHT)
    counts.update(more)
    assert apart("sensors", 100, told, counts) == [said]


TAPE = Tape("machine", False, [b"1", b"2", b"3"], "made up")


def fed(number: int, count: int) -> tuple[list[NewRecord], Told]:
    told = Told()
    return list(islice(source(number, TAPE, told, 0.02), count)), told


@pytest.mark.parametrize(
    ("number", "names", "ends"),
    [(0, 1, 0), (1, 1, 9), (2, 1, 9), (3, 10, 9)],
    ids=["endless", "eos", "session", "visitor"],
)
def test_streams_begin_and_end_as_they_are_counted(number: int, names: int, ends: int) -> None:
    length = int(0.02 * (500 + number))
    records, told = fed(number, 9 * length + 1)
    assert len({record.key for record in records}) == names
    assert (told.begun, told.ended) == (ends + 1, ends)
    assert sum(("x-eos", b"1") in record.headers for record in records) == (0 if number == 2 else ends)


def test_a_short_run_loses_nothing_and_holds_on_to_nothing(tmp_path: Path) -> None:
    plan = Plan(tmp_path, 10.0, kafka=False, speakers=4, machines=8, every_s=0.5, kept_s=5.0, life=0.04, generated=True)
    result = soak(plan)
    assert result.wrong == []
    assert min(result.fed.values()) > 0
    found = {finding.name: finding for finding in findings(result, Limits())}
    for name in ("descriptors", "tasks", "threads", "parts", "streams_table", "dormant_table"):
        assert found[name].right, found[name]
    streams = plan.speakers + plan.machines
    ended = [told.ended for told in result.told.values()]
    assert sum(ended) > streams, "no stream ended often enough to show whether anything of it is left"
    # A stream has a state and perhaps a mark, a visitor that has left a mark until everything before it is saved.
    assert found["marks_table"].most <= 2 * streams
    assert found["changelog_table"].most <= 4 * streams
