"""The worker processes of a run: started, killed, stopped, continued, sent away.

They are forked from a server that has loaded all libraries, so that a start takes a fraction of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from streamer.log.kafka_connection import Delivery
from streamer.options import PipelineOptions
from tests.chaos.history import Mode, served
from tests.chaos.mistakes import Mistake
from tests.chaos.phases import JUST_S, NAMES, Board, Phase
from tests.chaos.steps import Step
from tests.chaos.worker import Duty, serve

ENDS_S = 30.0
"""How long a worker that was sent away may take."""


HOPELESS_FAILURES = 20


class Hopeless(Exception):
    """Workers end by themselves again and again: there is nothing to be seen of faults."""


class Death(NamedTuple):
    """How a worker was found that was killed. phase: its own last word; just_published: within half a second."""

    phase: str
    just_published: bool


class Worker:
    """A worker process. stopped, leaving: SIGSTOP or SIGTERM was sent. trapped: it is to die at a step of a commit."""

    def __init__(self, process: BaseProcess, board: Board, alive: Connection) -> None:
        self.process, self.board, self._alive = process, board, alive
        self.stopped = self.leaving = self.trapped = False

    @property
    def serving(self) -> bool:
        """Whether it runs and is to go on."""
        return not self.stopped and not self.leaving and not self.trapped

    @property
    def just_published(self) -> bool:
        """Whether it has just published, and will have a little later still."""
        return self.phase >= Phase.LIVE and time.monotonic() - self.board.published_at <= 0.8 * JUST_S

    @property
    def phase(self) -> Phase:
        return self.board.phase

    def signal(self, which: signal.Signals) -> None:
        """Send a signal. A worker that has ended gets none."""
        if self.process.exitcode is None and self.process.pid is not None:
            os.kill(self.process.pid, which)

    def forget(self) -> None:
        """It has ended."""
        self._alive.close()


class Crew:
    """All workers of one broker."""

    def __init__(
        self,
        bootstrap: str,
        pipelines: Mapping[str, PipelineOptions],
        folder: Path,
        *,
        mode: Mode = "deterministic",
        planted: Mistake | None = None,
        request_timeout_s: float = 20.0,
        clock: Path | None = None,
        delivery: Delivery = "exactly_once",
    ) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.chaos.template"])
        self._bootstrap, self._pipelines, self._folder = bootstrap, pipelines, folder
        self._mode, self._planted = mode, planted
        self._request_timeout_s, self._clock, self._delivery = request_timeout_s, clock, delivery
        self._started = 0
        self.workers: list[Worker] = []
        self.failures: list[str] = []

    def start(self) -> None:
        """One more worker."""
        self._started += 1
        path = self._folder / f"board-{self._started % 64}"
        board = Board(path, len(self._pipelines), new=True)
        pipelines = served(self._pipelines, self._mode, self._started)
        duty = Duty(
            self._bootstrap,
            pipelines,
            path,
            self._folder / "workers.log",
            self._planted,
            self._request_timeout_s,
            self._clock,
            self._delivery,
        )
        theirs, ours = self._context.Pipe(duplex=False)
        process = self._context.Process(target=serve, args=(duty, theirs))
        process.start()
        theirs.close()
        self.workers.append(Worker(process, board, ours))

    def kill(self, victims: Sequence[Worker]) -> list[Death]:
        """SIGKILL, all at once; how each was found."""
        for victim in victims:
            victim.signal(signal.SIGKILL)
        now = time.monotonic()
        deaths = []
        for victim in victims:
            victim.process.join()
            self._gone(victim)
            if victim.process.exitcode != -signal.SIGKILL:  # it ended by itself just before
                self.failures.append(f"a worker ended with {victim.process.exitcode}")
            deaths.append(Death(NAMES[victim.phase], now - victim.board.published_at <= JUST_S))
        return deaths

    def kill_at(self, worker: Worker, step: Step) -> None:
        """It is to die at this step of its next commit of outputs and states; it waits for `kill` then."""
        worker.trapped = True
        worker.board.trap = step

    def caught(self, worker: Worker, phase: Phase) -> bool:
        """SIGSTOP a worker; it stays stopped if that finds it in this phase."""
        self.stop(worker)
        if worker.phase is phase:
            return True
        self.go_on(worker)
        return False

    def stop(self, worker: Worker) -> None:
        """SIGSTOP."""
        worker.stopped = True
        worker.signal(signal.SIGSTOP)

    def go_on(self, worker: Worker) -> None:
        """SIGCONT."""
        worker.signal(signal.SIGCONT)
        worker.stopped = False

    def send_away(self, worker: Worker) -> None:
        """SIGTERM: it is to drain, commit and leave."""
        worker.leaving = True
        worker.signal(signal.SIGTERM)

    def look(self) -> None:
        """Take note of workers that have ended by themselves, which is a failure unless they were sent away.

        Raises Hopeless.
        """
        ended = [worker for worker in self.workers if worker.process.exitcode is not None]
        for worker in ended:
            if worker.trapped and worker.process.exitcode == -signal.SIGKILL:
                continue  # `kill` will take note of it
            self._gone(worker)
            # One that had not come to install its handler yet is ended by SIGTERM itself.
            if not worker.leaving or worker.process.exitcode not in (0, -signal.SIGTERM):
                self.failures.append(f"a worker ended with {worker.process.exitcode}")
        if len(self.failures) > HOPELESS_FAILURES:
            raise Hopeless(f"{len(self.failures)} workers ended by themselves: see {self._folder / 'workers.log'}")

    def dismiss(self) -> None:
        """Send all away and wait for them; who does not go in time has failed, and is killed."""
        for worker in self.workers:
            self.go_on(worker)
            self.send_away(worker)
        deadline = time.monotonic() + ENDS_S
        for worker in self.workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.exitcode is None:
                self.failures.append(f"a worker did not end within {ENDS_S:.0f} s of SIGTERM")
        self.look()
        self.end()

    def end(self) -> None:
        """Kill whoever is left."""
        for worker in self.workers:
            worker.signal(signal.SIGKILL)
            worker.process.join()
            worker.forget()
        self.workers.clear()

    def _gone(self, worker: Worker) -> None:
        self.workers.remove(worker)
        worker.forget()
