"""What befalls the workers, drawn from a seed: cycles of a strike, at times its aftermath, at times something else.

A cycle depends on the seed and its own number alone, so a run that was broken off goes on with the next one. What is
drawn is what is done and when it is tried; which phase a worker is in at that instant is the machine's affair, so the
phases that are counted are those that were hit.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tests.chaos.phases import Phase

Kind = Literal[
    "kill one", "kill three", "stop briefly", "stop past the session", "leave and join", "one more", "lose answer"
]
AFTERMATH = (Phase.JOINING, Phase.RESTORING, Phase.RERUNNING, Phase.RERUNNING)  # the last is the hardest to hit
SHARES: Sequence[tuple[float, Kind, Phase | None]] = (
    (0.45, "kill three", Phase.LIVE),
    (0.10, "kill one", None),
    (0.21, "kill one", Phase.TRANSACTION),
    (0.24, "kill one", Phase.LOST),
)
OTHERS: Sequence[Kind] = ("stop briefly", "stop past the session", "leave and join", "one more", "lose answer")


@dataclass(frozen=True, slots=True)
class Fault:
    """phase: the one to wait for; None strikes at any instant. pause_s: before. delay_s: between sight and strike.

    lasts_s: of a stop, in sessions of the group; otherwise until the place is filled again, in seconds. pick: which of
    the workers, 0 to 1. happens: of an answer that is lost, whether the transaction is to happen.
    """

    kind: Kind
    phase: Phase | None
    pause_s: float
    delay_s: float
    lasts_s: float
    pick: float
    happens: bool


def cycle(seed: int, number: int) -> list[Fault]:
    """The faults of one cycle."""
    draw = random.Random(f"{seed}/{number}")
    _, kind, phase = draw.choices(SHARES, [share for share, _, _ in SHARES])[0]
    any_instant = phase is None
    faults = [_fault(draw, kind, phase, draw.uniform(0.0, 4.0) if any_instant else draw.uniform(0.0, 0.5))]
    if draw.random() < 0.75:
        faults.append(_fault(draw, "kill one", draw.choice(AFTERMATH), 0.0))
    if draw.random() < 0.4:
        faults.append(_fault(draw, draw.choice(OTHERS), None, draw.uniform(0.0, 1.0)))
    return faults


def _fault(draw: random.Random, kind: Kind, phase: Phase | None, pause_s: float) -> Fault:
    lasts_s = {
        "stop briefly": draw.uniform(0.1, 0.7),
        "stop past the session": draw.uniform(1.3, 2.5),
    }.get(kind, draw.uniform(0.0, 1.0))
    return Fault(
        kind,
        phase,
        pause_s,
        # A transaction lasts some milliseconds, a joining seconds: each is to be hit anywhere in it.
        delay_s=draw.uniform(0.0, _LASTS_S.get(phase, 0.05)),
        lasts_s=lasts_s,
        pick=draw.random(),
        happens=draw.random() < 0.5,
    )


_LASTS_S: dict[Phase | None, float] = {
    Phase.JOINING: 1.5,
    Phase.RESTORING: 0.02,
    Phase.RERUNNING: 0.03,
    Phase.TRANSACTION: 0.003,
    Phase.LOST: 0.1,
}
