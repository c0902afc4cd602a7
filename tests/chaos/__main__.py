"""`python -m tests.chaos --seed 7 --kills 60 --history sensors`: exactly-once delivery under faults, as a table.

Ends with 0 when all is equal, 1 when anything differs, 3 when time was over before all kills had fallen.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
from pathlib import Path
from typing import get_args

from streamer.testing.kafka_broker import missing_tools
from tests.chaos.history import Kind, history
from tests.chaos.run import Plan, forget, run
from tests.chaos.table import complete, right, table

ROOT = Path(__file__).resolve().parents[2]
PLANTS = ("offset-before-output",)


def main() -> int:
    arguments = _parser().parse_args()
    if lacking := missing_tools():
        print(lacking, file=sys.stderr)
        return 2
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers, which have few cores for many
    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    name = "-".join(
        [arguments.history, str(seed), str(arguments.kills), *([arguments.plant] if arguments.plant else [])]
    )
    plan = Plan(seed, arguments.kills, arguments.minutes, arguments.folder / name, arguments.plant is not None)
    print(f"seed {seed}; progress and evidence in {plan.folder}", flush=True)
    if not arguments.resume:
        forget(plan.folder)
    fed = history(arguments.history, plan.kills, generated=arguments.generated)
    try:
        result = run(plan, fed)
    except KeyboardInterrupt:
        print(f"\nbroken off; go on with --resume --seed {seed}")
        return 130
    said = table(plan, fed, result)
    print(f"\n\n{said}", flush=True)
    (plan.folder / "table.txt").write_text(said + "\n", encoding="utf-8")
    if not right(result):
        print(f"evidence: {plan.folder}")
        return 1
    if not complete(plan, result):
        return 3
    shutil.rmtree(plan.folder / "broker", ignore_errors=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the faults (default: a random one, which is printed)")
    parser.add_argument("--kills", type=int, default=500, help="how many workers are killed (default: %(default)s)")
    parser.add_argument("--history", choices=get_args(Kind), default="both", help="what is fed (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, help="of faults, at most (default: %(default)s)")
    parser.add_argument("--generated", action="store_true", help="generated machines although recorded ones are there")
    parser.add_argument("--resume", action="store_true", help="go on with a run of the same seed, kills and history")
    parser.add_argument("--plant", choices=PLANTS, help="a mistake that the comparison must find")
    parser.add_argument("--folder", type=Path, default=ROOT / ".work" / "chaos", help="(default: .work/chaos)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
