"""`python -m tests.chaos --seed 7 --kills 60 --scenario kills`: exactly-once delivery under faults, as a table.

Ends with 0 when all is clean, 1 when anything is not, 3 when time was over before all faults had fallen.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
from pathlib import Path
from typing import get_args

from streamer.testing.kafka_broker import missing_tools
from tests.chaos.crew import Hopeless
from tests.chaos.history import Kind
from tests.chaos.scenario import Order, Outcome, Row
from tests.chaos.scenarios import MISTAKES, SCENARIOS
from tests.chaos.table import final

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    arguments = _parser().parse_args()
    if lacking := missing_tools():
        print(lacking, file=sys.stderr)
        return 2
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers, which have few cores for many
    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    folder = arguments.folder / f"{arguments.history}-{seed}-{arguments.kills}"
    print(f"seed {seed}; progress and evidence in {folder}", flush=True)
    if not arguments.resume:
        shutil.rmtree(folder, ignore_errors=True)
    names = [*arguments.scenario, *arguments.plant] or [scenario.name for scenario in SCENARIOS]
    outcomes: list[Outcome] = []
    try:
        for name in names:
            left_s = 60 * arguments.minutes - sum(outcome.seconds for outcome in outcomes)
            order = Order(
                seed, arguments.kills, arguments.history, arguments.generated, folder, folder / name, max(0.0, left_s)
            )
            outcomes.append(_played(name, order))
    except KeyboardInterrupt:
        print(f"\nbroken off; go on with --resume --seed {seed}")
        return 130
    except Hopeless as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    complete = all(outcome.finished for outcome in outcomes)
    said = final(outcomes, complete)
    print(f"\n{said}", flush=True)
    (folder / "table.txt").write_text(said + "\n", encoding="utf-8")
    if not all(row.clean for outcome in outcomes for row in outcome.rows):
        print(f"evidence: {folder}")
        return 1
    return 0 if complete else 3


def _played(name: str, order: Order) -> Outcome:
    """How a scenario ended, now or in a run that was broken off."""
    kept = order.folder / "outcome.json"
    if kept.exists():
        rows, *rest = json.loads(kept.read_text(encoding="utf-8"))
        return Outcome([Row(*row) for row in rows], *rest)
    (scenario,) = (scenario for scenario in SCENARIOS if scenario.name == name)
    outcome = scenario.play(order)
    if outcome.told:
        print(f"\n\n{outcome.told}\n", flush=True)
    if outcome.finished:
        order.folder.mkdir(parents=True, exist_ok=True)
        kept.with_suffix(".part").write_text(json.dumps(outcome), encoding="utf-8")
        kept.with_suffix(".part").rename(kept)  # whole or not at all
    return outcome


def _parser() -> argparse.ArgumentParser:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the faults (default: a random one, which is printed)")
    parser.add_argument("--kills", type=int, default=500, help="workers killed in each mode (default: %(default)s)")
    parser.add_argument("--history", choices=get_args(Kind), default="both", help="what is fed (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, help="of faults, at most (default: %(default)s)")
    parser.add_argument("--generated", action="store_true", help="generated machines although recorded ones are there")
    parser.add_argument("--resume", action="store_true", help="go on with a run of the same seed, kills and history")
    parser.add_argument(
        "--scenario", action="append", default=[], choices=names, help="play these alone (default: all of them)"
    )
    parser.add_argument(
        "--plant", action="append", default=[], choices=list(MISTAKES), help="a mistake that the comparison must find"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / ".work" / "chaos", help="(default: .work/chaos)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
