"""The alert rule, the anomaly score and the benchmark's scorer: what they promise whatever a network has learnt."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.sensor import corpus, nab, score
from models.sensor.corpus import Recording
from models.sensor.evaluate import best_of_scores, windowed_gaussian
from models.sensor.hysteresis import QUIET, AlertEvent, AlertRule, AlertState, advance, rule_from, with_threshold
from models.sensor.network import LEVELS
from models.sensor.surprise import MOST_DIGITS, surprise

RULE = AlertRule(0.5, 0.3, 60.0, (("warning", 0.0), ("major", 0.6), ("critical", 0.75)))
scores = st.floats(0, 1) | st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.75, 1.0, math.nan])
events = st.lists(st.tuples(st.integers(-5_000, 40_000), scores), max_size=60)


def changes(rule: AlertRule, steps: list[tuple[int, float]]) -> list[AlertEvent]:
    """All changes over events given as milliseconds since the one before, and score."""
    state, time_ms, found = QUIET, 1_700_000_000_000, []
    for gap_ms, value in steps:
        time_ms += gap_ms
        state, event = advance(rule, state, time_ms, value)
        found += [event] if event else []
    return found


# --- the alert rule --------------------------------------------------------------------------------------------------


@given(events)
def test_alerts_fire_and_resolve_in_turn(steps: list[tuple[int, float]]) -> None:
    statuses = [event.status for event in changes(RULE, steps) if event.status != "escalated"]
    assert statuses == ["firing" if index % 2 == 0 else "resolved" for index in range(len(statuses))]


@given(events)
def test_two_firings_are_a_cool_down_apart_in_event_time(steps: list[tuple[int, float]]) -> None:
    fired = [event.time_ms for event in changes(RULE, steps) if event.status == "firing"]
    assert all(later - earlier >= 60_000 for earlier, later in pairwise(fired))


@given(events)
def test_a_change_has_its_cause_in_the_score(steps: list[tuple[int, float]]) -> None:
    for event in changes(RULE, steps):
        assert event.score < 0.3 if event.status == "resolved" else event.score >= 0.3
        assert event.status != "firing" or (event.score >= 0.5 and event.fired_ms == event.time_ms)


@given(events)
def test_an_open_alert_only_escalates(steps: list[tuple[int, float]]) -> None:
    ranks = {"warning": 0, "major": 1, "critical": 2}
    rank = -1
    for event in changes(RULE, steps):
        if event.status == "escalated":
            assert ranks[event.severity] > rank
        rank = ranks[event.severity] if event.status != "resolved" else -1


@given(events, st.integers(0, 60))
def test_a_saved_state_continues_as_if_nothing_had_happened(steps: list[tuple[int, float]], cut: int) -> None:
    state, time_ms = QUIET, 1_700_000_000_000
    resumed, whole = [], changes(RULE, steps)
    for index, (gap_ms, value) in enumerate(steps):
        if index == cut:
            state = AlertState(*json.loads(json.dumps(state)))  # the primitives are all there is
        time_ms += gap_ms
        state, event = advance(RULE, state, time_ms, value)
        resumed += [event] if event else []
    assert resumed == whole


def test_the_severity_is_the_highest_level_reached() -> None:
    found = changes(RULE, [(0, 0.5), (1000, 0.61), (1000, 0.55), (1000, 0.9), (1000, 0.29)])
    expected = [("firing", "warning"), ("escalated", "major"), ("escalated", "critical"), ("resolved", "critical")]
    assert [(event.status, event.severity) for event in found] == expected


def test_a_score_between_the_thresholds_neither_fires_nor_resolves() -> None:
    assert changes(RULE, [(0, 0.49)] * 10) == []
    assert [e.status for e in changes(RULE, [(0, 0.5)] + [(1000, 0.3)] * 10)] == ["firing"]


@pytest.mark.parametrize(
    ("fire_at", "resolve_at", "cool_down_s", "severities"),
    [
        (0.3, 0.5, 0.0, (("warning", 0.0),)),
        (1.1, 0.5, 0.0, (("warning", 0.0),)),
        (0.5, 0.0, 0.0, (("warning", 0.0),)),
        (0.5, 0.3, -1.0, (("warning", 0.0),)),
        (0.5, 0.3, math.inf, (("warning", 0.0),)),
        (0.5, 0.3, 0.0, ()),
        (0.5, 0.3, 0.0, (("major", 0.6),)),
        (0.5, 0.3, 0.0, (("warning", 0.4), ("major", 0.4))),
    ],
)
def test_a_contradictory_rule_is_refused(
    fire_at: float, resolve_at: float, cool_down_s: float, severities: tuple[tuple[str, float], ...]
) -> None:
    with pytest.raises(ValueError, match=r"fire_at|cool_down_s|severities"):
        AlertRule(fire_at, resolve_at, cool_down_s, severities)


def test_settings_make_a_rule_and_a_wrong_name_is_said() -> None:
    settings = {"fire_at": 0.5, "resolve_at": 0.3, "cool_down_s": 60, "severities": [["warning", 0], ["major", 0.6]]}
    assert rule_from(settings) == AlertRule(0.5, 0.3, 60.0, (("warning", 0.0), ("major", 0.6)))
    with pytest.raises(ValueError, match="cool_down, cool_down_s"):
        rule_from({**{k: v for k, v in settings.items() if k != "cool_down_s"}, "cool_down": 3})


def test_a_moved_threshold_moves_the_rest_along() -> None:
    moved = with_threshold(RULE, 0.25)
    assert (moved.fire_at, moved.resolve_at, moved.severities[2]) == (0.25, 0.15, ("critical", 0.375))


# --- surprise and score ----------------------------------------------------------------------------------------------

NORMAL = torch.special.ndtri(torch.tensor(LEVELS, dtype=torch.float64))


@given(st.floats(-2.2, 2.2))
def test_the_surprise_is_the_tail_probability_of_the_forecast(z: float) -> None:
    tail = 2 * torch.special.ndtr(torch.tensor(-abs(z), dtype=torch.float64))
    found = surprise(torch.tensor(z, dtype=torch.float64), NORMAL)
    assert abs(found.item() + math.log10(tail.item())) < 0.15  # between the levels a straight line is drawn


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_value_farther_out_is_never_less_surprising(a: float, b: float) -> None:
    near, far = sorted((a, b))
    found = surprise(torch.tensor([near, far, -near, -far], dtype=torch.float64), NORMAL.expand(4, -1))
    assert found[0] <= found[1] <= MOST_DIGITS
    assert found[2] <= found[3] <= MOST_DIGITS


def scored(values: list[float], digits: list[float] | None = None) -> list[float]:
    """The scores of one stream; a NaN is a missing value."""
    found: list[float] = []
    state = score.init_state(1, torch.device("cpu"))
    for value, surprised in zip(values, digits or [0.4] * len(values), strict=True):
        given_value = torch.tensor([value])
        now, state = score.advance(given_value.nan_to_num(), torch.tensor([surprised]), ~given_value.isnan(), state)
        found.append(now.item())
    return found


def noise(events: int, seed: int = 0) -> list[float]:
    made: list[float] = np.random.default_rng(seed).normal(50.0, 2.0, events).tolist()
    return made


def share_firing(found: list[float]) -> float:
    """How much of a stretch scores 0.5 or more: three digits, once in a thousand events if all is as assumed."""
    return sum(value >= 0.5 for value in found) / len(found)


def test_nothing_scores_before_the_warm_up() -> None:
    assert scored([*noise(99), 1e9])[-1] == 0.0
    assert scored([*noise(100), 1e9])[-1] > 0.9


def test_a_constant_stream_scores_nothing() -> None:
    assert max(scored([42.0] * 400, [0.0] * 400)) < 1e-6


@pytest.mark.parametrize("shift", [8.0, -8.0])
def test_a_shifted_level_scores_and_ordinary_noise_does_not(shift: float) -> None:
    found = scored([*noise(1000), *(value + shift for value in noise(20, seed=1))])
    assert share_firing(found[200:1000]) < 0.01
    assert max(found[1000:]) > 0.75


def test_forecasts_that_turn_bad_score_though_the_level_is_ordinary() -> None:
    digits = np.random.default_rng(3).exponential(0.43, 1000).tolist()
    found = scored(noise(1020), [*digits, *[4.0] * 20])
    assert share_firing(found[200:1000]) < 0.01
    assert max(found[1000:]) > 0.75


def test_a_missing_value_scores_nothing_and_changes_nothing() -> None:
    values = [*noise(300), 120.0]
    assert scored([*values[:-1], math.nan, math.nan, values[-1]])[-3:] == [0.0, 0.0, scored(values)[-1]]


# --- the benchmark's score -------------------------------------------------------------------------------------------


def recording(windows: tuple[tuple[int, int], ...]) -> Recording:
    """1,000 events a second apart; windows in events."""
    time_ms = np.arange(1000, dtype=np.int64) * 1000
    in_ms = tuple((first * 1000, last * 1000) for first, last in windows)
    return Recording("made/up.csv", time_ms, np.zeros(1000), in_ms, training=False)


def detected(*events: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return np.isin(np.arange(1000), events)


WINDOWS = ((300, 399), (700, 799))


def test_silence_scores_0_and_the_first_event_of_every_window_100() -> None:
    assert nab.score([recording(WINDOWS)], [detected()]) == 0.0
    assert nab.score([recording(WINDOWS)], [detected(300, 700)]) == pytest.approx(100.0)


def test_only_the_first_detection_in_a_window_counts() -> None:
    once, often = detected(310, 700), detected(310, 311, 390, 700)
    assert nab.score([recording(WINDOWS)], [once]) == nab.score([recording(WINDOWS)], [often]) < 100.0


def test_a_false_alarm_costs_less_just_behind_a_window() -> None:
    behind, far, before = (nab.score([recording(WINDOWS)], [detected(300, 700, e)]) for e in (402, 650, 200))
    assert 100.0 > behind > far
    assert before == pytest.approx(100.0 - 100.0 * 0.11 / 4)


def test_the_probation_is_not_scored() -> None:
    assert nab.probation_events(1000) == 150
    assert nab.probation_events(20_000) == 750
    assert nab.score([recording(WINDOWS)], [detected(10, 149, 300, 700)]) == pytest.approx(100.0)


@pytest.mark.data
@pytest.mark.skipif(not (corpus.data_folder() / "nab").is_dir(), reason="no nab in the data folder")
def test_a_windowed_gaussian_gets_its_published_score() -> None:
    recordings = corpus.read_nab(corpus.data_folder() / "nab")
    assert (len(recordings), sum(len(r.windows_ms) for r in recordings)) == (58, 116)
    ours = best_of_scores(recordings, windowed_gaussian)
    assert ours == pytest.approx(39.6, abs=0.5)  # the thresholds tried are not quite the same
