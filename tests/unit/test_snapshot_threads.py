"""Several pipelines restore in one process, each on its own thread."""

from __future__ import annotations

import subprocess
import sys

PROCESSES = 40
"""Where msgspec learns the fields of a state only when the first is read, one process in five crashes."""
FIRST_STATES = f"""
import os, sys, threading
from streamer.worker import snapshot
from streamer.worker.stream import Stream

stream = Stream(
    id="mic", key=b"mic", partition=3, first_offset=7, started_ms=1, task=None, position=9, last_offset=8, last_ms=5,
    session="s", replaced=("r",), expected_seq=4, holes=((1, 2),), rate_hz=8000, clock_samples=99,
)
data = snapshot.dump(stream, {{}}, None, None, "model-1@abc")
sys.setswitchinterval(1e-9)
for _ in range({PROCESSES}):
    if not (process := os.fork()):
        together = threading.Barrier(12)
        threads = [
            threading.Thread(target=lambda: (together.wait(), snapshot.load_host(data))) for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    if status:
        sys.exit(f"a process ended with {{status}}")
"""


def test_the_first_states_of_a_process_may_be_read_by_several_threads_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_STATES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
