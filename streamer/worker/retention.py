"""The alert that unread input is about to be deleted. Pure: what is known goes in, a message or nothing comes out."""

from __future__ import annotations

from streamer.codecs.messages import Alert, Output, iso_time
from streamer.records import TopicPartition

WARN_BEFORE_MS = 3_600_000
"""Unread input this close to the end of its retention raises the alert."""


def retention_alert(
    partition: TopicPartition, *, oldest_unread_ms: int, retention_ms: int | None, now_ms: int, firing: bool
) -> Output | None:
    """The change of a partition's retention alert, None when it stays as it is.

    oldest_unread_ms: timestamp of the oldest record that is not committed; now_ms when there is none.
    firing: whether the alert is open. The alert fires within an hour of the loss (or half the retention where that is
    shorter), and resolves when the backlog is out of danger.
    """
    if retention_ms is None:
        return None
    left_ms = retention_ms - (now_ms - oldest_unread_ms)
    in_danger = left_ms <= min(WARN_BEFORE_MS, retention_ms // 2)
    if in_danger == firing:
        return None
    body = Alert(
        id=f"retention/{partition}",
        stream=str(partition),
        status="firing" if in_danger else "resolved",
        severity="critical",
        time=iso_time(now_ms),
        score=1.0 if in_danger else 0.0,
        reason=f"unread input is deleted in {max(0, left_ms) // 1000} s" if in_danger else "the backlog was read",
    )
    return Output(body, str(partition).encode(), "retention", 0, now_ms, False)
