"""Anomaly scores or speech probabilities to predictions and alerts: hysteresis, cool-down and severity in event time.

An alert has one id from its firing to its resolving: stream and the offset of the record that fired it. One that
becomes more severe is published again as firing, under the same id.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np

from models.bundle import Bundle
from models.sensor.hysteresis import QUIET, AlertEvent, AlertRule, AlertState, rule_from, with_threshold
from streamer.codecs.messages import Alert, Output, Prediction, iso_time
from streamer.errors import ConfigurationError, StateMismatch
from streamer.options import AlertOptions
from streamer.tasks.base import StreamView, TaskBatch

COOL_DOWN_EVENTS = 200
"""A stream's cool-down is at most this many of its own event intervals: half a day is nothing to a daily meter and
for ever to a sensor that speaks every second."""
_INTERVAL_MEMORY = 64
"""Events over which the interval is averaged."""


class TaskState(NamedTuple):
    """rule: the hysteresis. fired_at: offset of the record that fired the open or last alert, -1 before the first.

    last_ms, interval_ms: time of the last event, and the running mean of the time between two (0 before the second).
    """

    rule: AlertState
    fired_at: int
    last_ms: int | None
    interval_ms: float


class Band(NamedTuple):
    """Places of the low, middle and high quantile among the model's levels."""

    low: int
    middle: int
    high: int


class AlertTask:
    """Alerts from the output `score_name`, and a prediction for every record where `predictions` is on."""

    independent = False

    def __init__(self, rule: AlertRule, *, score_name: str, band: Band | None, predictions: bool) -> None:
        self.rule = replace(rule, cool_down_s=0.0)
        self.cool_down_ms = rule.cool_down_s * 1000
        self.score_name = score_name
        self.band = band
        self.predictions = predictions

    @classmethod
    def of(cls, bundle: Bundle, options: AlertOptions) -> Self:
        """The task of a model folder, with the options' thresholds over its own. Raises ConfigurationError."""
        names = bundle.model.signature.outputs
        score_name = "score" if "score" in names else "probability"
        band = None
        if "expected" in names:
            levels, (low, high) = list(bundle.settings["levels"]), bundle.settings["band"]
            band = Band(levels.index(low), len(levels) // 2, levels.index(high))
        return cls(rule_of(bundle, options), score_name=score_name, band=band, predictions=options.predictions)

    def initial(self, clock_samples: int) -> TaskState:
        return TaskState(QUIET, -1, None, 0.0)

    def restart(self, stream: StreamView) -> TaskState:
        """An open alert was resolved by `finish`; the cool-down since its firing goes on."""
        state: TaskState = stream.task
        return state._replace(rule=state.rule._replace(firing=False, severity=QUIET.severity))

    def advance(self, batch: TaskBatch) -> tuple[list[Any], list[list[Output]]]:
        rows = np.arange(len(batch.streams))
        last = np.maximum(batch.lengths - 1, 0)
        scores = self._scores(batch).tolist()
        expected = self._expected(batch, rows, last)
        following = self._following(batch, rows, last)
        states: list[Any] = []
        said: list[list[Output]] = []
        for row, stream in enumerate(batch.streams):
            if not batch.lengths[row]:
                states.append(stream.task)
                said.append([])
                continue
            value = _number(batch.samples[row][-1, 0]) if self.band else None
            band = expected[row] if expected else (None, None, None)
            seen = _Seen(batch.offsets[row], batch.times_ms[row], scores[row], value, *band)
            messages = (
                [self._prediction(stream, seen, following[row] if following else None)] if self.predictions else []
            )
            state, alert = self._judge(stream, seen)
            states.append(state)
            said.append(messages + alert)
        return states, said

    def _scores(self, batch: TaskBatch) -> np.ndarray[Any, np.dtype[np.generic]]:
        """The highest score over a record's frames."""
        scores = batch.outputs[self.score_name].reshape(len(batch.streams), -1)
        if scores.shape[1] == 1:
            return scores[:, 0]
        valid = np.arange(scores.shape[1]) < batch.lengths[:, None]
        result: np.ndarray[Any, np.dtype[np.generic]] = np.where(valid, scores, 0.0).max(1, initial=0.0)
        return result

    def _expected(self, batch: TaskBatch, rows: Any, last: Any) -> list[tuple[float | None, ...]] | None:
        if self.band is None:
            return None
        expected = batch.outputs["expected"][rows, last][:, [self.band.middle, self.band.low, self.band.high]]
        return [tuple(_number(v) for v in row) for row in expected.tolist()]

    def _following(self, batch: TaskBatch, rows: Any, last: Any) -> list[list[float]] | None:
        if self.band is None or not self.predictions:
            return None
        result: list[list[float]] = batch.outputs["quantiles"][rows, last].tolist()
        return result

    def _prediction(self, stream: StreamView, seen: _Seen, following: Sequence[float] | None) -> Output:
        outputs = None if following is None else {"next": [_rounded(v) for v in following]}
        body = Prediction(
            stream=stream.id,
            time=iso_time(seen.time_ms),
            value=seen.value,
            expected=_round(seen.expected),
            low=_round(seen.low),
            high=_round(seen.high),
            score=_rounded(seen.score),
            outputs=outputs,
        )
        return Output(body, stream.key or b"", "prediction", 0, seen.time_ms, False)

    def _judge(self, stream: StreamView, seen: _Seen) -> tuple[TaskState, list[Output]]:
        state: TaskState = stream.task
        interval_ms = _interval(state, seen.time_ms)
        state = state._replace(last_ms=seen.time_ms, interval_ms=interval_ms)
        if (self.band is not None and seen.value is None) or self._cooling(state, seen.time_ms):
            return state, []  # a missing value says nothing: it neither fires nor resolves
        rule, event = self.rule.advance(state.rule, seen.time_ms, seen.score)
        if event is None:
            return state, []
        fired_at = seen.offset if event.status == "firing" else state.fired_at
        return state._replace(rule=rule, fired_at=fired_at), [self._alert(stream, event, fired_at, seen)]

    def _cooling(self, state: TaskState, time_ms: int) -> bool:
        """Whether an alert fired so lately that no other may."""
        if state.rule.firing:
            return False
        return time_ms - state.rule.fired_ms < min(self.cool_down_ms, COOL_DOWN_EVENTS * state.interval_ms)

    def _alert(self, stream: StreamView, event: AlertEvent, fired_at: int, seen: _Seen, reason: str = "") -> Output:
        resolved = event.status == "resolved"
        body = Alert(
            id=f"{stream.id}/{fired_at}",
            stream=stream.id,
            status="resolved" if resolved else "firing",
            severity=event.severity,
            time=iso_time(seen.time_ms),
            score=_rounded(seen.score),
            value=seen.value,
            expected=_round(seen.expected),
            low=_round(seen.low),
            high=_round(seen.high),
            reason=reason or self._reason(seen, resolved),
        )
        return Output(body, stream.key or b"", "alert", 0, seen.time_ms, True)

    def _reason(self, seen: _Seen, resolved: bool) -> str:
        if self.score_name == "probability":
            return "speech ended" if resolved else "speech began"
        if resolved:
            return "back to what was expected"
        if seen.value is None or seen.low is None or seen.high is None:
            return "unusual"
        if seen.low <= seen.value <= seen.high:
            return "unusual run of values"
        return "above the expected band" if seen.value > seen.high else "below the expected band"

    def finish(self, stream: StreamView) -> list[Output]:
        """An open alert is resolved when its stream ends or is reset: nothing will watch it any more."""
        state: TaskState = stream.task
        if not state.rule.firing:
            return []
        severity = self.rule.severities[state.rule.severity][0]
        event = AlertEvent("resolved", severity, 0.0, stream.last_ms, state.rule.fired_ms)
        seen = _Seen(stream.last_offset, stream.last_ms, 0.0, None, None, None, None)
        return [self._alert(stream, event, state.fired_at, seen, "the stream ended or was reset")]

    def dump(self, state: TaskState) -> Any:
        return [list(state.rule), *state[1:]]

    def load(self, data: Any) -> TaskState:
        try:
            (firing, severity, fired_ms), fired_at, last_ms, interval_ms = data
            rule = AlertState(bool(firing), int(severity), int(fired_ms))
            return TaskState(rule, int(fired_at), None if last_ms is None else int(last_ms), float(interval_ms))
        except (TypeError, ValueError) as error:
            raise StateMismatch(f"saved alert state: {error}") from error


class _Seen(NamedTuple):
    offset: int
    time_ms: int
    score: float
    value: float | None
    expected: float | None
    low: float | None
    high: float | None


def _interval(state: TaskState, time_ms: int) -> float:
    """The running mean of the time between two events; time that goes back counts as none."""
    if state.last_ms is None:
        return 0.0
    since_ms = max(0, time_ms - state.last_ms)
    if not state.interval_ms:
        return float(since_ms)
    return state.interval_ms + (since_ms - state.interval_ms) / _INTERVAL_MEMORY


def rule_of(bundle: Bundle, options: AlertOptions) -> AlertRule:
    """The model's own rule with what the options set over it. Raises ConfigurationError naming the contradiction."""
    try:
        rule = rule_from(bundle.settings["alert"])
        if options.fire_at is not None:
            rule = with_threshold(rule, options.fire_at)
        if options.resolve_at is not None:
            rule = replace(rule, resolve_at=options.resolve_at)
        return rule if options.cool_down_s is None else replace(rule, cool_down_s=options.cool_down_s)
    except KeyError as error:
        raise ConfigurationError(f"model {bundle.name!r} has no alert settings") from error
    except ValueError as error:
        raise ConfigurationError(f"alert options of model {bundle.name!r}: {error}") from error


def _number(value: float) -> float | None:
    """JSON has no NaN: what is missing is null."""
    return None if math.isnan(value) else float(value)


def _rounded(value: float) -> float:
    """Six significant digits: float32 has no more to say."""
    return float(f"{value:.6g}")


def _round(value: float | None) -> float | None:
    return None if value is None else _rounded(value)
