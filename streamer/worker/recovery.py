"""How long it would take to bring a worker's streams back, were it gone now. Pure; times are seconds of one clock."""

from __future__ import annotations

FIXED_MS = 50.0
"""Connecting, asking for offsets, the first fetch."""
STATE_MS, BYTE_MS = 0.01, 2e-6
"""What reading a state and each of its bytes takes before anything was measured here (`bench recovery`, 2 cores)."""
RECORD_MS = 0.1
"""What stepping a record takes before anything was."""
_ENOUGH_MS = 10.0
"""A restore that should take less than this beside its fixed part says nothing of how fast this place is."""


class Recovery:
    """Estimates from what the last restore here took and from how fast records are stepped here.

    Restore: a fixed time, and a time that grows with the states and bytes that live; how fast, the last restore has
    told. Re-run: the input between the replay floor and what is committed, at the pace of all records so far; some of
    it is passed over, so that is the most. Left out: noticing that a worker is gone (the session timeout), starting a
    process, what came to the input meanwhile, and older states that a changelog holds until it is compacted.
    """

    def __init__(self) -> None:
        self._pace = 1.0
        self._began_s = self._ended_s = float("-inf")
        self._usual_ms = 0.0

    def restored(self, began_s: float, ended_s: float, states: int, state_bytes: int) -> None:
        """A partition was restored; those whose times overlap were restored together."""
        if began_s > self._ended_s:
            self._began_s, self._usual_ms = began_s, 0.0
        self._began_s = min(self._began_s, began_s)
        self._ended_s = max(self._ended_s, ended_s)
        self._usual_ms += _reading_ms(states, state_bytes)
        if self._usual_ms >= _ENOUGH_MS:
            took_ms = (self._ended_s - self._began_s) * 1000 - FIXED_MS
            self._pace = max(took_ms, _ENOUGH_MS) / self._usual_ms

    def expected_ms(self, *, states: int, state_bytes: float, rerun: int, records: int, step_ms: float) -> float:
        """states, state_bytes: live ones and their mean size; rerun: records between floor and N of all partitions;
        records, step_ms: what was stepped since the start and how long that took."""
        record_ms = step_ms / records if records else RECORD_MS
        return FIXED_MS + self._pace * _reading_ms(states, states * state_bytes) + rerun * record_ms


def _reading_ms(states: int, state_bytes: float) -> float:
    return states * STATE_MS + state_bytes * BYTE_MS
