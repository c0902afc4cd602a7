"""What counts as lost, doubled or contradicting where workers round differently (docs/chaos.md, "Mixed")."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.sensor.hysteresis import AlertRule
from streamer.codecs.messages import Alert, Body, FinalTranscript, PartialTranscript, Prediction, event_type
from tests.chaos.agreement import CLOSE, NEAR_SCORE, disagreements
from tests.chaos.compare import count
from tests.chaos.outside import Output

RULE = AlertRule(fire_at=0.5, resolve_at=0.3, cool_down_s=0.0, severities=(("warning", 0.0), ("critical", 0.8)))
SCORES = [0.0, 0.1, 0.9, 0.9, 0.1, 0.0, 0.7, 0.1]


def output(topic: str, offset: int, kind: str, body: Body, key: bytes = b"m") -> Output:
    headers = (
        ("ce_id", f"in/0/{offset}/{kind}/0".encode()),
        ("ce_subject", b"m"),
        ("ce_type", event_type(body).encode()),
    )
    return Output(topic, 0, key, msgspec.json.encode(body), headers, offset)


def prediction(offset: int, score: float, expected: float = 1.0) -> Output:
    body = Prediction("m", f"t{offset}", value=2.0, expected=expected, low=0.0, high=2.0, score=score)
    return output("predictions", offset, "prediction", body)


def alert(offset: int, status: str, score: float, fired_at: int, severity: str = "critical") -> Output:
    body = Alert(f"m/{fired_at}", "m", "firing" if status == "firing" else "resolved", severity, f"t{offset}", score)
    return output("alerts", offset, "alert", body)


def final(offset: int, segment: int, start_s: float, end_s: float, text: str = "yes") -> Output:
    return output(
        "transcripts",
        offset,
        "final",
        FinalTranscript("m", segment, text, start_s, end_s, 1.0, ()),
        b"m/0/%d" % segment,
    )


def partial(offset: int, segment: int, start_s: float) -> Output:
    body = PartialTranscript("m", segment, offset, "ye", start_s, start_s + 0.5)
    return output("transcripts", offset, "partial", body, b"m/0/%d" % segment)


PREDICTIONS = [prediction(offset, score) for offset, score in enumerate(SCORES)]
ALERTS = [
    alert(2, "firing", 0.9, 2),
    alert(4, "resolved", 0.1, 2),
    alert(6, "firing", 0.7, 6, "warning"),
    alert(7, "resolved", 0.1, 6, "warning"),
]
SPOKEN = [partial(1, 0, 0.1), final(3, 0, 0.1, 1.0), partial(5, 1, 1.5), final(7, 1, 1.5, 2.0)]
RIGHT = [*PREDICTIONS, *ALERTS, *SPOKEN]


def without(*gone: Output) -> list[Output]:
    return [output for output in RIGHT if output not in gone]


def words(found: Sequence[Output]) -> set[str]:
    return set(count(disagreements(RIGHT, found, RULE)))


def test_a_run_agrees_with_itself() -> None:
    assert disagreements(RIGHT, RIGHT, RULE) == []


@given(st.lists(st.floats(-0.9 * CLOSE, 0.9 * CLOSE), min_size=len(SCORES), max_size=len(SCORES)))
def test_scores_that_round_differently_agree(moved: list[float]) -> None:
    near = [prediction(offset, score + by) for (offset, score), by in zip(enumerate(SCORES), moved, strict=True)]
    assert disagreements(RIGHT, [*near, *ALERTS, *SPOKEN], RULE) == []


def test_partials_may_be_worded_otherwise_and_finals_too() -> None:
    other = [final(3, 0, 0.1, 1.0, "yet"), partial(6, 1, 1.6), final(7, 1, 1.5, 2.0)]
    assert disagreements(RIGHT, [*PREDICTIONS, *ALERTS, *other], RULE) == []


@given(st.sampled_from([*PREDICTIONS, *ALERTS, *SPOKEN[1::2]]))
def test_a_prediction_an_alert_change_or_a_final_that_is_missing_is_found(gone: Output) -> None:
    assert words(without(gone)) & {"lost", "contradicting"}


def test_an_alert_that_is_missing_with_its_end_is_lost() -> None:
    assert words(without(*ALERTS[:2])) == {"lost"}


@given(st.sampled_from(RIGHT))
def test_whatever_is_there_again_is_doubled(again: Output) -> None:
    assert "doubled" in words([*RIGHT, again])


def test_an_alert_that_fired_once_more_a_record_later_contradicts_the_first() -> None:
    assert "contradicting" in words([*PREDICTIONS, *ALERTS[:1], alert(3, "firing", 0.9, 3), *ALERTS[1:], *SPOKEN])


def test_an_alert_that_the_published_score_does_not_allow_contradicts_it() -> None:
    fired = [alert(1, "firing", 0.9, 1), alert(4, "resolved", 0.1, 1), *ALERTS[2:]]
    assert "contradicting" in words([*PREDICTIONS, *fired, *SPOKEN])


def test_an_alert_whose_score_is_too_close_to_call_may_fire_or_not() -> None:
    close = [prediction(offset, RULE.fire_at if score == 0.7 else score) for offset, score in enumerate(SCORES)]
    assert disagreements(RIGHT, [*close, *ALERTS, *SPOKEN], RULE) == []
    assert disagreements(RIGHT, [*close, *ALERTS[:2], *SPOKEN], RULE) == []


def test_an_alert_may_become_more_severe_under_its_own_id_only() -> None:
    worse = prediction(2, 0.7), alert(2, "firing", 0.7, 2, "warning"), alert(3, "firing", 0.9, 2, "critical")
    found = [*PREDICTIONS[:2], worse[0], *PREDICTIONS[3:], *worse[1:], *ALERTS[1:], *SPOKEN]
    assert disagreements(RIGHT, found, RULE) == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: prediction(3, SCORES[3] - 1.1 * NEAR_SCORE),
        lambda: prediction(3, SCORES[3], expected=3.1),
    ],
    ids=["score", "quantile"],
)
def test_a_prediction_that_no_rounding_explains_contradicts_the_uninterrupted_run(wrong: Callable[[], Output]) -> None:
    assert "contradicting" in words([*PREDICTIONS[:3], wrong(), *PREDICTIONS[4:], *ALERTS, *SPOKEN])


def test_what_does_not_depend_on_rounding_must_be_the_same_to_the_byte() -> None:
    other = PREDICTIONS[3]._replace(key=b"n")
    assert words([*PREDICTIONS[:3], other, *PREDICTIONS[4:], *ALERTS, *SPOKEN]) == {"changed"}


def test_finals_count_the_segments_of_a_stream() -> None:
    again = [*SPOKEN, final(9, 1, 2.5, 3.0, "no")]
    assert "contradicting" in words([*PREDICTIONS, *ALERTS, *again])


def test_a_partial_behind_its_segments_final_contradicts_it() -> None:
    assert "contradicting" in words([*PREDICTIONS, *ALERTS, *SPOKEN[:2], partial(4, 0, 0.1), *SPOKEN[2:]])


def test_finals_whose_times_overlap_contradict_each_other() -> None:
    assert "contradicting" in words([*PREDICTIONS, *ALERTS, *SPOKEN[:2], final(7, 1, 0.9, 2.0)])


def test_the_last_final_of_a_stream_is_lost_where_nothing_was_heard_instead() -> None:
    assert words(without(SPOKEN[2], SPOKEN[3])) == {"lost"}


def test_a_final_of_what_nobody_else_heard_is_invented() -> None:
    assert words([*RIGHT, final(9, 2, 7.0, 8.0)]) == {"invented"}
