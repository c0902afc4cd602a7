"""When an alert fires, how severe it is and when it is resolved: hysteresis over a score, in event time.

`AlertRule.advance` is a pure function of the state, one event's time and its score. It has no clock and draws no
identifiers, so a replay makes the same decisions. This module knows nothing of models, streams or messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

NEVER_MS = -(2**62)
"""The `fired_ms` of a state that has not fired: earlier than any event."""


class AlertState(NamedTuple):
    """What a rule remembers of one stream; all primitives, so that it can be saved with the stream.

    firing: whether an alert is open. severity: its level, the number in the rule's order that begins with 0, -1 while
    none is open. fired_ms: event time of the last firing, `NEVER_MS` before the first.
    """

    firing: bool = False
    severity: int = -1
    fired_ms: int = NEVER_MS


QUIET = AlertState()
"""The state of a stream that has seen nothing."""


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """A change of an alert, at an event's time (ms since 1970).

    status: "firing" when it opens, "escalated" when an open one becomes more severe, "resolved" when it closes.
    severity: the level's name, the last one where it resolves. fired_ms: when it opened, the same in all its events.
    """

    status: Literal["firing", "escalated", "resolved"]
    severity: str
    score: float
    time_ms: int
    fired_ms: int


@dataclass(frozen=True, slots=True)
class AlertRule:
    """Fire at `fire_at`, resolve below `resolve_at`, and not again within `cool_down_s` of the last firing.

    severities: (level, score) from mild to severe; the level is the last one whose score is reached, and the first
    one's score is at most `fire_at`. Scores are in [0, 1] and event times may repeat or, after reordering, go back.
    Raises ValueError where the numbers contradict each other.
    """

    fire_at: float
    resolve_at: float
    cool_down_s: float
    severities: Sequence[tuple[str, float]] = (("warning", 0.0),)

    def __post_init__(self) -> None:
        if not 0.0 < self.resolve_at <= self.fire_at <= 1.0:
            raise ValueError(f"need 0 < resolve_at <= fire_at <= 1, got {self.resolve_at} and {self.fire_at}")
        if not 0.0 <= self.cool_down_s < float("inf"):
            raise ValueError(f"cool_down_s must be 0 or more and finite, got {self.cool_down_s}")
        scores = [score for _, score in self.severities]
        if not scores or scores[0] > self.fire_at or any(a >= b for a, b in pairwise(scores)):
            raise ValueError(f"severities must rise from at most fire_at ({self.fire_at}), got {self.severities}")

    def advance(self, state: AlertState, time_ms: int, score: float) -> tuple[AlertState, AlertEvent | None]:
        """One event: the new state, and the change it makes, if any. A score that is not a number changes nothing."""
        if score != score:
            return state, None
        if state.firing:
            return self._while_firing(state, time_ms, score)
        if score < self.fire_at or time_ms - state.fired_ms < self.cool_down_s * 1000:
            return state, None
        fired = AlertState(True, self._severity(score), time_ms)
        return fired, self._event("firing", fired, time_ms, score)

    def _while_firing(self, state: AlertState, time_ms: int, score: float) -> tuple[AlertState, AlertEvent | None]:
        if score < self.resolve_at:
            event = self._event("resolved", state, time_ms, score)
            return state._replace(firing=False, severity=-1), event
        severity = self._severity(score)
        if severity <= state.severity:
            return state, None
        worse = state._replace(severity=severity)
        return worse, self._event("escalated", worse, time_ms, score)

    def _severity(self, score: float) -> int:
        """The number of the last level whose score is reached."""
        return sum(score >= reached for _, reached in self.severities) - 1

    def _event(
        self, status: Literal["firing", "escalated", "resolved"], state: AlertState, time_ms: int, score: float
    ) -> AlertEvent:
        return AlertEvent(status, self.severities[state.severity][0], score, time_ms, state.fired_ms)


def advance(rule: AlertRule, state: AlertState, time_ms: int, score: float) -> tuple[AlertState, AlertEvent | None]:
    """`rule.advance`, as a function of all it depends on."""
    return rule.advance(state, time_ms, score)


def rule_from(settings: Mapping[str, Any]) -> AlertRule:
    """The rule of a model's `alert:` settings. Raises ValueError for a missing, unknown or contradictory entry."""
    if wrong := settings.keys() ^ {"fire_at", "resolve_at", "cool_down_s", "severities"}:
        raise ValueError(f"alert settings: missing or unknown {', '.join(sorted(wrong))}")
    return AlertRule(
        fire_at=float(settings["fire_at"]),
        resolve_at=float(settings["resolve_at"]),
        cool_down_s=float(settings["cool_down_s"]),
        severities=tuple((str(level), float(score)) for level, score in settings["severities"]),
    )


def with_threshold(rule: AlertRule, fire_at: float) -> AlertRule:
    """The same rule with another threshold, everything below it scaled along."""
    ratio = fire_at / rule.fire_at
    severities = tuple((level, score * ratio) for level, score in rule.severities)
    return replace(rule, fire_at=fire_at, resolve_at=rule.resolve_at * ratio, severities=severities)
