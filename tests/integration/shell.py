"""Runs command lines as a person would type them, in a folder of their own."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEADLINE_S = 180.0


class Shell:
    """A shell in `folder`, with the project's Python first in the path and a home of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        python = Path(sys.executable).parent
        self.env = {
            **os.environ,
            "HOME": str(folder),
            "PATH": f"{python}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        self._background: list[subprocess.Popen[str]] = []

    def run(self, command: str) -> str:
        """What a command that ends by itself prints. It must end with 0."""
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=DEADLINE_S
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, command: str) -> subprocess.Popen[str]:
        """A command that goes on until it is interrupted."""
        process = subprocess.Popen(
            command,
            shell=True,
            executable="/bin/bash",  # which, unlike others, leaves Ctrl-C to the program it waits for
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._background.append(process)
        return process

    def until(self, process: subprocess.Popen[str], wanted: str) -> str:
        """What a command prints until a line holds `wanted`."""
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        deadline, printed = time.monotonic() + DEADLINE_S, ""
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            while wanted not in printed:
                assert time.monotonic() < deadline, f"no {wanted!r} in:\n{printed}"
                if ready.select(1.0):
                    piece = os.read(process.stdout.fileno(), 65536).decode()
                    assert piece or wanted in printed, f"ended without {wanted!r}:\n{printed}"
                    printed += piece
        return printed

    def interrupt(self, process: subprocess.Popen[str]) -> int:
        """Ctrl-C, as a terminal sends it to everything in the command; its exit code."""
        os.killpg(process.pid, signal.SIGINT)
        return process.wait(30)

    def close(self) -> None:
        """End what is still running."""
        for process in self._background:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
