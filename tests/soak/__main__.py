"""`python -m tests.soak --minutes 60`: hundreds of live streams at many times real time; does anything grow?

Ends with 0 when nothing grows and nothing is lost, 1 when something does or is.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from streamer.testing.kafka_broker import missing_tools
from tests.soak.run import Plan, soak
from tests.soak.table import findings, told
from tests.soak.trend import Limits

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    arguments = _parser().parse_args()
    lacking = missing_tools()
    if arguments.log == "kafka" and lacking:
        print(lacking, file=sys.stderr)
        return 2
    kafka = arguments.log == "kafka" or (arguments.log == "auto" and not lacking)
    folder = arguments.folder / time.strftime("%Y%m%d-%H%M%S")
    plan = Plan(
        folder,
        60 * arguments.minutes,
        kafka,
        arguments.speakers,
        arguments.machines,
        every_s=arguments.every,
        trace=arguments.trace,
        generated=arguments.generated,
    )
    print(f"samples, and what the process says, in {folder}", flush=True)
    try:
        result = soak(plan)
    finally:
        shutil.rmtree(folder / "log", ignore_errors=True)
    found = findings(result, Limits())
    said = told(plan, result, found)
    (folder / "table.txt").write_text(said + "\n", encoding="utf-8")
    print(f"\n{said}", flush=True)
    return 1 if result.wrong or not all(finding.right for finding in found) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long to feed (default: %(default)g)")
    parser.add_argument(
        "--log", choices=("auto", "kafka", "sqlite"), default="auto", help="auto: Kafka where it can be run"
    )
    parser.add_argument("--speakers", type=int, default=80, help="live streams of speech (default: %(default)s)")
    parser.add_argument("--machines", type=int, default=120, help="live streams of sensors (default: %(default)s)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two samples (default: %(default)g)")
    parser.add_argument("--generated", action="store_true", help="generated machines although recorded ones are there")
    parser.add_argument(
        "--trace", action="store_true", help="also write down where memory was taken that is held; slow"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / ".work" / "soak", help="(default: .work/soak)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
