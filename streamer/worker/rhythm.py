"""When the next commit is due, and of what. Pure: no clock of its own."""

from __future__ import annotations

INTERVALS_WHEN_BEHIND = 5
"""While more waits than a call takes, a transaction costs records and brings nobody an answer much sooner."""
INTERVALS_WHEN_QUIET = 5
"""Where there is nothing to publish a commit saves a re-run some records, and costs as much as any."""


def until_commit_s(since_s: float, took_s: float, interval_s: float, *, behind: bool) -> float:
    """Seconds until the next commit, `since_s` after the last one began, which took `took_s`; 0 when it is due.

    From one beginning to the next it is an interval, but at least twice what a commit takes: a slow log does not make
    answers wait for its slowness and for an interval, nor is the worker busy with nothing but commits. Five intervals
    while it is behind.
    """
    return max(0.0, interval_s * (INTERVALS_WHEN_BEHIND if behind else 1) - since_s, 2 * took_s - since_s)


def has_turn(number: int, *, quiet: bool, awaited: bool) -> bool:
    """Whether a partition is in the worker's commit of this number, counted from 0.

    quiet: it has nothing to publish; awaited: reading waits until what was read is committed.
    """
    return not quiet or awaited or number % INTERVALS_WHEN_QUIET == 0
