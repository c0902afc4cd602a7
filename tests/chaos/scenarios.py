"""The scenarios of `make chaos`, in the order in which they are played."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from tests.chaos.compare import count
from tests.chaos.history import Mode, history
from tests.chaos.journal import Journal
from tests.chaos.mistakes import FOUND_BY, Mistake
from tests.chaos.outages import OUTAGES
from tests.chaos.run import Result, run
from tests.chaos.scenario import Order, Outcome, Row, Scenario
from tests.chaos.schedule import MISTAKEN_KILLS
from tests.chaos.steps import STEP_NAMES
from tests.chaos.storm import CREW
from tests.chaos.table import lacking, told

FAULTS: Mapping[str, str] = {
    "kill one": "SIGKILL of one worker",
    "kill three": "SIGKILL of three at once",
    **{name: f"SIGKILL in a commit: {name}" for name in STEP_NAMES.values()},
    "stop briefly": "SIGSTOP within the session, SIGCONT",
    "stop past the session": "SIGSTOP past the session, SIGCONT",
    "leave and join": "a worker leaves, another joins",
    "one more": "a fourth worker joins, one leaves",
    "lose answer": "a transaction's answer lost",
}
"""What is done to workers, in the words of the table."""
FULL_KILLS = 500
"""From so many kills on each phase must have had its share of them."""
PLANTED_KILLS = MISTAKEN_KILLS + CREW
MISTAKES: Mapping[str, Mistake] = {
    "offset-before-output": "offset before output",
    "state-ahead": "state ahead",
    "floor-too-high": "floor too high",
}


def kills(mode: Mode, order: Order) -> Outcome:
    """Workers are killed; every row shares the verdict, for all faults fell into one run."""
    fed = history(order.kind, order.kills, generated=order.generated)
    result = run(order, fed, mode)
    if isinstance(result, Journal):
        return _unfinished(order, result)
    apart, times = count(result.differences), result.journal.faults
    wrong = [*_wrong(result), *(lacking(result.journal.deaths, times) if order.kills >= FULL_KILLS else ())]
    rows = [Row(name, mode, times[kind], apart, wrong) for kind, name in FAULTS.items() if times[kind]]
    if result.right:
        _clear(order)
    return Outcome(rows, result.journal.seconds, told(order, fed, mode, result))


def planted(mistake: Mistake, order: Order) -> Outcome:
    """Workers that make a mistake are killed around their commits: right is what finds it."""
    order = replace(order, kills=PLANTED_KILLS, kind="sensors", generated=True)
    result = run(order, history("sensors", order.kills, generated=True), "deterministic", mistake)
    if isinstance(result, Journal):
        return _unfinished(order, result)
    apart = count(result.differences)
    found = ", ".join(f"{n} {word}" for word, n in sorted(apart.items()))
    wrong = [] if apart[FOUND_BY[mistake]] else [f"nothing is {FOUND_BY[mistake]}: nobody noticed"]
    wrong += [f"a worker ended by itself: {failure}" for failure in sorted(set(result.journal.failures))]
    deaths = len(result.journal.deaths)
    row = Row(f"planted: {mistake}", "deterministic", deaths, {}, wrong, f"found: {found}" if found else "")
    _clear(order)
    return Outcome([row], result.journal.seconds)


def _unfinished(order: Order, journal: Journal) -> Outcome:
    fallen = f"{len(journal.deaths)} of {order.kills} kills"
    return Outcome([], journal.seconds, f"{order.folder.name}: time was over after {fallen}: no verdict yet", False)


def _wrong(result: Result) -> Sequence[str]:
    """What is wrong beside the outputs."""
    said = [] if result.answered else ["not all input was answered"]
    return said + [f"a worker ended by itself: {failure}" for failure in sorted(set(result.journal.failures))[:5]]


def _clear(order: Order) -> None:
    """The broker's data are evidence only where something is wrong."""
    shutil.rmtree(order.folder / "broker", ignore_errors=True)


KILLS = (Scenario("kills", partial(kills, "deterministic")), Scenario("kills-mixed", partial(kills, "mixed")))
PLANTED = tuple(Scenario(name, partial(planted, mistake)) for name, mistake in MISTAKES.items())
SCENARIOS: Sequence[Scenario] = (*KILLS, *PLANTED, *OUTAGES)
