"""When the next commit is due, and of what. Pure: no clock of its own."""

from __future__ import annotations

INTERVALS_WHEN_BEHIND = 5
"""While more waits than a call takes, a transaction costs records and brings nobody an answer much sooner."""
TIMES_AS_LONG, TIMES_AS_LONG_WHEN_BEHIND = 2, 4
"""How far commits begin apart at least, in the time that one takes,"""
MOST_INTERVALS = 10
"""but never farther than this: one that waited for a log that was away says nothing of the next."""
INTERVALS_WHEN_QUIET = 5
"""Where there is nothing to publish a commit saves a re-run some records, and costs as much as any."""


def until_commit_s(since_s: float, took_s: float, interval_s: float, *, behind: bool) -> float:
    """Seconds until the next commit, `since_s` after the last one began, which took `took_s`; 0 when it is due.

    From one beginning to the next it is an interval, but at least twice what a commit takes: a slow log does not make
    answers wait for its slowness and for an interval, nor is the worker busy with nothing but commits. While it is
    behind five intervals, and four times what a commit takes. Never more than `MOST_INTERVALS`.
    """
    intervals, times = INTERVALS_WHEN_BEHIND, TIMES_AS_LONG_WHEN_BEHIND
    if not behind:
        intervals, times = 1, TIMES_AS_LONG
    apart_s = min(max(interval_s * intervals, took_s * times), interval_s * MOST_INTERVALS)
    return max(0.0, apart_s - since_s)


def has_turn(number: int, *, quiet: bool, awaited: bool) -> bool:
    """Whether a partition is in the worker's commit of this number, counted from 0.

    quiet: it has nothing to publish; awaited: reading waits until what was read is committed.
    """
    return not quiet or awaited or number % INTERVALS_WHEN_QUIET == 0
