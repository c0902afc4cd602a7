"""What befalls the workers, drawn from a seed: cycles of a strike, at times its aftermath, at times something else.

Strikes are dealt from decks, so that in any 50 kills each phase of a worker and each step of a commit has its share;
only their order and all their details are drawn. A cycle depends on the seed and its own number alone, so a run that
was broken off goes on with the next one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tests.chaos.phases import Phase
from tests.chaos.steps import STEP_NAMES, Step

Kind = Literal[
    "kill one",
    "kill three",
    "kill at a step",
    "stop briefly",
    "stop past the session",
    "leave and join",
    "one more",
    "lose answer",
]


class Strike(NamedTuple):
    """What is done. phase: of the worker it befalls, waited for; None is any instant. step: of a commit, to die at."""

    kind: Kind
    phase: Phase | None
    step: Step | None = None


STRIKES: Sequence[Strike] = (
    *[Strike("kill three", Phase.LIVE)] * 7,
    *[Strike("kill one", Phase.LOST)] * 3,
    *[Strike("kill one", Phase.LIVE)] * 3,
    *[Strike("kill one", Phase.TRANSACTION)] * 2,
    Strike("kill one", None),
    *[Strike("kill at a step", None, step) for step in STEP_NAMES],
)
AFTERMATHS: Sequence[Phase | None] = (
    *[Phase.JOINING] * 3,
    *[Phase.RESTORING] * 5,
    *[Phase.RERUNNING] * 5,
    *[None] * (len(STRIKES) - 13),
)
"""Of a deck: the phase in which a second worker is killed while the group recovers from the strike."""
MISTAKEN_KILLS = 4
OTHERS: Sequence[Kind] = ("stop briefly", "stop past the session", "leave and join", "one more", "lose answer")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done. pause_s: before. delay_s: between sight of the wanted phase and the strike.

    lasts_s: of a stop, in sessions of the group; otherwise until the place is filled again, in seconds. pick: which of
    the workers, 0 to 1. happens: of an answer that is lost, whether the transaction is to happen.
    """

    strike: Strike
    pause_s: float
    delay_s: float
    lasts_s: float
    pick: float
    happens: bool


def cycle(seed: int, number: int) -> list[Fault]:
    """The faults of one cycle."""
    deck, place = divmod(number, len(STRIKES))
    strike, aftermath = _dealt(seed, deck)[place]
    draw = random.Random(f"{seed}/{number}")
    any_instant = strike.phase is None and strike.step is None
    faults = [_fault(draw, strike, draw.uniform(0.0, 3.0) if any_instant else draw.uniform(0.0, 0.3))]
    if aftermath is not None:
        faults.append(_fault(draw, Strike("kill one", aftermath), 0.0))
    if draw.random() < 0.4:
        faults.append(_fault(draw, Strike(draw.choice(OTHERS), None), draw.uniform(0.0, 1.0)))
    return faults


def after_mistakes(seed: int) -> list[Fault]:
    """Kills that bring out a planted mistake: of workers that have just made it, and once of three together."""
    draw = random.Random(f"{seed}/mistakes")
    strikes = [Strike("kill at a step", None, Step.MISTAKEN)] * MISTAKEN_KILLS
    strikes.insert(draw.randrange(MISTAKEN_KILLS + 1), Strike("kill three", Phase.LIVE))
    return [_fault(draw, strike, 0.0) for strike in strikes]


def _dealt(seed: int, deck: int) -> list[tuple[Strike, Phase | None]]:
    draw = random.Random(f"{seed}/deck {deck}")
    strikes, aftermaths = list(STRIKES), list(AFTERMATHS)
    draw.shuffle(strikes)
    draw.shuffle(aftermaths)
    return list(zip(strikes, aftermaths, strict=True))


def _fault(draw: random.Random, strike: Strike, pause_s: float) -> Fault:
    lasts_s = {
        "stop briefly": draw.uniform(0.1, 0.7),
        "stop past the session": draw.uniform(1.3, 2.5),
    }.get(strike.kind, draw.uniform(0.0, 1.0))
    return Fault(
        strike,
        pause_s,
        # A transaction lasts some milliseconds, a joining seconds: each is to be hit anywhere in it.
        delay_s=draw.uniform(0.0, _LASTS_S.get(strike.phase, 0.05)),
        lasts_s=lasts_s,
        pick=draw.random(),
        happens=draw.random() < 0.5,
    )


_LASTS_S: dict[Phase | None, float] = {
    Phase.JOINING: 1.0,
    Phase.RESTORING: 0.02,
    Phase.RERUNNING: 0.03,
    Phase.TRANSACTION: 0.003,
    Phase.LOST: 0.05,
}
