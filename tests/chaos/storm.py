"""Faults acted out on a crew of workers while input is fed at a pace."""

from __future__ import annotations

import heapq
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from tests.chaos.crew import Crew, Death, Worker
from tests.chaos.outside import Feeder
from tests.chaos.phases import Phase
from tests.chaos.schedule import Fault
from tests.chaos.steps import STEP_NAMES, Step
from tests.chaos.worker import SESSION_S

CREW = 3
SECONDS_A_KILL = 3.0
"""The pace of the input; it never runs more than some kills ahead, nor behind."""
AHEAD_KILLS = 5
SEEN_S, CALM_S, STEP_S = 6.0, 15.0, 6.0
"""How long a phase, all workers' being live, and a commit's step are waited for. Then the strike comes all the same."""
LOOK_S, AIM_S, TURN_S = 0.005, 0.0005, 0.02
"""Between two looks: whether a thing is so, whether a phase of milliseconds has come, what is due."""


@dataclass(slots=True)
class Done:
    """A fault as it was acted out: its kind, or the name of the step of a commit. deaths: of the workers it killed."""

    kind: str
    deaths: list[Death] = field(default_factory=list)


class Storm:
    """kills: how many there are to be in all; done: how many there were in earlier parts of this run."""

    def __init__(self, crew: Crew, feeder: Feeder, kills: int, done: int) -> None:
        self._crew, self._feeder, self._kills = crew, feeder, kills
        self.done = done
        self._share = done / kills
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._starting = 0
        self._turned_at = time.monotonic()
        self._turn()

    def act(self, fault: Fault) -> Done:
        """Do this to the workers. What ends it, as the start of another worker, may come later."""
        self._until(lambda: False, fault.pause_s)
        if fault.strike.kind in ("kill one", "kill three", "kill at a step"):
            return self._kill(fault)
        self._disturb(fault)
        return Done(fault.strike.kind)

    def calm(self, answered: Callable[[], bool], limit_s: float) -> bool:
        """Let everything that was begun end, feed all that is left, and wait until it is answered."""
        self._until(lambda: not self._due, SESSION_S * 3)
        self._feeder.finish()
        self._share = 1.0
        return self._until(answered, limit_s, 0.5)

    # ------------------------------------------------------------------ kills

    def _kill(self, fault: Fault) -> Done:
        kind, phase, step = fault.strike
        if step is not None:
            return self._kill_at(step, fault)
        if kind == "kill three":
            self._until(self._all_publish, CALM_S)
            time.sleep(fault.delay_s)
            victims = self._turned(fault)[: min(CREW, self._kills - self.done)]
        else:
            victims = self._aim(phase, fault) if phase is not None else self._turned(fault)[:1]
        return self._counted(Done(kind, self._crew.kill(victims)), fault)

    def _kill_at(self, step: Step, fault: Fault) -> Done:
        """A worker that publishes dies at a step of its next commit; at any instant if it does not come to it."""
        self._until(lambda: any(worker.just_published for worker in self._serving()), CALM_S)
        victims = sorted(self._turned(fault), key=lambda worker: not worker.just_published)[:1]
        for victim in victims:
            self._crew.kill_at(victim, step)
        self._until(lambda: all(victim.process.exitcode is not None for victim in victims), STEP_S)
        done = Done("kill one", self._crew.kill(victims))
        if any(victim.board.sprung is step for victim in victims):
            done.kind = STEP_NAMES.get(step, "kill one")
        return self._counted(done, fault)

    def _aim(self, phase: Phase, fault: Fault) -> list[Worker]:
        """One worker, stopped in this phase; whichever there is if the phase does not come."""
        if phase is Phase.LOST and fault.pick < 0.7:
            self._until(self._any_live, CALM_S)
            self._lose(fault)
        deadline, delay_s = time.monotonic() + SEEN_S, fault.delay_s
        while self._until(lambda: bool(self._seen(phase, fault)), deadline - time.monotonic(), AIM_S):
            time.sleep(delay_s)
            for worker in self._seen(phase, fault):
                if self._crew.caught(worker, phase):
                    return [worker]
            delay_s /= 2  # it is gone sooner than that
        return self._turned(fault)[:1]

    def _seen(self, phase: Phase, fault: Fault) -> list[Worker]:
        """Workers in this phase; while they commit, such that publish."""
        publishing = phase in (Phase.LIVE, Phase.TRANSACTION)
        return [
            w for w in self._turned(fault) if w.serving and w.phase is phase and (w.just_published or not publishing)
        ]

    def _turned(self, fault: Fault) -> list[Worker]:
        """All workers from the picked one on; those that stand still or ended come last."""
        workers = [worker for worker in self._crew.workers if not worker.leaving]
        first = int(fault.pick * len(workers))
        return sorted([*workers[first:], *workers[:first]], key=lambda worker: not worker.serving)

    def _counted(self, done: Done, fault: Fault) -> Done:
        self.done += len(done.deaths)
        for number in range(len(done.deaths)):
            self._start_in(fault.lasts_s * (number + 1) / len(done.deaths))
        return done

    def _all_publish(self) -> bool:
        serving = self._serving()
        return len(serving) >= CREW and all(worker.just_published for worker in serving)

    # ------------------------------------------------------------------ other faults

    def _disturb(self, fault: Fault) -> None:
        serving = self._serving()
        if not serving:
            return
        one = serving[int(fault.pick * len(serving))]
        match fault.strike.kind:
            case "stop briefly" | "stop past the session":
                self._crew.stop(one)
                self._in(SESSION_S * fault.lasts_s, lambda: self._crew.go_on(one))
            case "leave and join":
                self._crew.send_away(one)
                self._start_in(3.0 * fault.lasts_s)
            case "one more":
                self._crew.start()
                self._in(10.0 * fault.lasts_s, self._one_less)
            case _:
                self._until(self._any_live, CALM_S)
                self._lose(fault)

    def _one_less(self) -> None:
        serving = self._serving()
        if len(serving) > CREW:
            self._crew.send_away(serving[0])

    def _lose(self, fault: Fault) -> None:
        """Order the loss of an answer. Who is not live may not know the signal yet, which would end it."""
        live = [worker for worker in self._serving() if worker.phase >= Phase.LIVE]
        if live:
            live[int(fault.pick * len(live))].signal(signal.SIGUSR1 if fault.happens else signal.SIGUSR2)

    # ------------------------------------------------------------------ time

    def _serving(self) -> Sequence[Worker]:
        return [worker for worker in self._crew.workers if worker.serving]

    def _any_live(self) -> bool:
        return any(worker.phase >= Phase.LIVE for worker in self._serving())

    def _in(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), act))

    def _start_in(self, seconds: float) -> None:
        self._starting += 1
        self._in(seconds, self._start)

    def _start(self) -> None:
        self._starting -= 1
        self._crew.start()

    def _until(self, done: Callable[[], bool], limit_s: float, look_s: float = LOOK_S) -> bool:
        """Wait until this is so, for so long at most; whether it is."""
        deadline = time.monotonic() + limit_s
        while not (so := done()) and time.monotonic() < deadline:
            time.sleep(look_s)
            self._turn()
        return so

    def _turn(self) -> None:
        """What is due, at most every `TURN_S`."""
        now = time.monotonic()
        if self._crew.workers and now - self._turned_at < TURN_S:
            return
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
        self._crew.look()
        there = sum(not worker.leaving for worker in self._crew.workers)
        for _ in range(CREW - there - self._starting):
            self._crew.start()
        pace = self._share + (now - self._turned_at) / (SECONDS_A_KILL * self._kills)
        self._share = min((self.done + AHEAD_KILLS) / self._kills, max(self.done / self._kills, pace), 1.0)
        self._feeder.feed(self._share)
        self._turned_at = now
