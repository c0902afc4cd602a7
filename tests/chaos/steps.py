"""The steps of a commit at which a worker can be told to die: fault points that only the tests have.

In the order in which the Kafka log takes them: the offset goes into the transaction first, then the outputs, then the
states with the replay floor and the tombstones.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class Step(IntEnum):
    """Where the worker dies, by SIGKILL, in a transaction that carries outputs and states.

    BEFORE_BEGIN: its content is closed. AFTER_OFFSETS, AFTER_OUTPUTS, AFTER_STATES: the broker has said that it has
    these. BEFORE_END: the end is about to be asked for. AFTER_END: the broker has said that it is committed, and the
    log has not heard it yet. MISTAKEN, of no sound commit: a planted mistake has just made one that harms who dies now.
    """

    BEFORE_BEGIN = 1
    AFTER_BEGIN = 2
    AFTER_OFFSETS = 3
    AFTER_OUTPUTS = 4
    AFTER_STATES = 5
    BEFORE_END = 6
    AFTER_END = 7
    MISTAKEN = 8


STEP_NAMES: Mapping[Step, str] = {
    Step.BEFORE_BEGIN: "before begin",
    Step.AFTER_BEGIN: "after begin",
    Step.AFTER_OFFSETS: "after offsets",
    Step.AFTER_OUTPUTS: "after outputs",
    Step.AFTER_STATES: "after states",
    Step.BEFORE_END: "before end",
    Step.AFTER_END: "after end, before its answer is seen",
}
"""The steps of a sound commit."""
