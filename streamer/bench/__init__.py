"""The reference workloads and their rivals: `python -m streamer bench`. Nothing heavy is imported until it runs."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run the bench from the command line; returns the exit code."""
    from streamer.bench.main import main as run

    return run(arguments)
