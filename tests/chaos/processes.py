"""What befalls worker processes: they join and leave every few seconds, their clocks jump, one is killed."""

from __future__ import annotations

from collections.abc import Callable

from tests.chaos.clocks import Shift
from tests.chaos.stage import Stage

LEAST, MOST = 3, 5
HOUR_S = 3600.0
JUMPS_H = (-20_000.0, -48.0, -5.0, -1.0, 0.0, 1.0, 5.0, 48.0, 20_000.0)


def comings_and_goings(stage: Stage) -> None:
    """One joins or one is sent away, again and again; at times two at once."""
    while not stage.over:
        stage.live(stage.draw.uniform(0.5, 3.0))
        for _ in range(stage.draw.choice([1, 1, 2])):
            come_or_go(stage)


def come_or_go(stage: Stage) -> None:
    """One joins, or one is sent away."""
    serving = [worker for worker in stage.crew.workers if worker.serving]
    if len(serving) <= LEAST or (len(serving) < MOST and stage.draw.random() < 0.5):
        stage.crew.start()
        stage.times["a worker joins, three to five at once"] += 1
    else:
        stage.crew.send_away(stage.draw.choice(serving))
        stage.times["a worker leaves, three to five at once"] += 1


def jumps(shift: Shift) -> Callable[[Stage], None]:
    """The clock jumps by one hour to some years."""

    def act(stage: Stage) -> None:
        turns = 0
        while turns < 4 or not stage.over:
            stage.live(stage.draw.uniform(0.3, 2.0))
            jump(stage, shift)
            turns += 1

    return act


def jump(stage: Stage, shift: Shift) -> None:
    """The clocks of all workers are set."""
    to_s = stage.draw.choice([hours for hours in JUMPS_H if hours * HOUR_S != shift.seconds]) * HOUR_S
    stage.times["the workers' clocks jump forward" if to_s > shift.seconds else "the workers' clocks jump back"] += 1
    shift.to(to_s)


def kill_one(stage: Stage) -> None:
    """SIGKILL; another takes its place."""
    if serving := [worker for worker in stage.crew.workers if worker.serving]:
        stage.crew.kill([stage.draw.choice(serving)])
        stage.crew.start()
        stage.times["SIGKILL of one worker"] += 1
