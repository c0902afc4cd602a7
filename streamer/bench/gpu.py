"""`make gpu`: all that needs a GPU, in at most 8 minutes, with torch and numpy alone. Runs on a CPU too, smaller.

Prints one line a check, then the table of W1 and W6; exit code 1 when a check fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import torch

from streamer.bench import gpu_checks
from streamer.bench.rows import Row, skipped, table
from streamer.bench.throughput import Size, w1, w6
from streamer.worker.engine import pick_device

LIMIT_S = 8 * 60.0
ON_GPU = Size(batches=(1024, 4096, 16_384), rounds=5, repeats=3, live_s=20.0)
ON_CPU = Size(batches=(64, 128), rounds=2, repeats=2, live_s=2.0)
LARGE_ON_GPU = Size(batches=(512, 2048, 8192), rounds=5, repeats=3, live_s=20.0)
LARGE_ON_CPU = Size(batches=(8,), rounds=2, repeats=2, live_s=2.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks, then W1 and W6. Returns 1 when a check failed."""
    parser = argparse.ArgumentParser(prog="python -m streamer.bench.gpu", description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one object a line instead of the table")
    parser.add_argument("--checks-only", action="store_true", help="no measurements")
    chosen = parser.parse_args(arguments)
    device = pick_device(chosen.device)
    print(f"torch {torch.__version__} on {name_of(device)}", file=sys.stderr)
    begin = time.monotonic()
    failures = run_checks(str(device))
    rows = [] if chosen.checks_only else measure(device, begin)
    for row in rows if chosen.json else ():
        print(row.as_json(), flush=True)
    if rows and not chosen.json:
        print(table(rows))
    return 1 if failures else 0


def run_checks(device: str) -> int:
    """Every check on `device`; returns how many failed."""
    failures = 0
    for check in gpu_checks.CHECKS:
        start = time.perf_counter()
        try:
            check(device, None)
            verdict = "ok"
        except AssertionError as error:
            failures += 1
            verdict = f"FAILED: {error}"
        print(f"{check.__name__}: {verdict} ({time.perf_counter() - start:.1f} s)", file=sys.stderr, flush=True)
    return failures


def measure(device: torch.device, begin: float) -> list[Row]:
    """W1, then W6 where time is left: half of it, so that a slow machine ends in time too."""
    on_gpu = device.type == "cuda"
    size = ON_GPU if on_gpu else ON_CPU
    rows = w1(size)
    if time.monotonic() - begin > LIMIT_S / 2:
        return [*rows, skipped("W6 large LSTM", "streams", f"W1 took half of the {LIMIT_S / 60:g} minutes")]
    return [*rows, *(w6(LARGE_ON_GPU) if on_gpu else w6(LARGE_ON_CPU, layers=2))]


def name_of(device: torch.device) -> str:
    """The GPU's name, or the CPU's vector instructions."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads)"


if __name__ == "__main__":
    sys.exit(main())
