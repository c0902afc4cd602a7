"""What a run prints: of each scenario what it was about, and at the end faults x histories x verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tests.chaos.compare import count
from tests.chaos.crew import Death
from tests.chaos.history import History, Mode
from tests.chaos.phases import NAMES
from tests.chaos.run import Result
from tests.chaos.scenario import Order, Outcome, Row
from tests.chaos.steps import STEP_NAMES

WORDS = ("lost", "doubled", "changed", "invented", "out of order", "contradicting")
LEAST_A_PHASE = 30
LEAST_JUST_PUBLISHED = 0.5
"""How many kills of a full run fall into each phase, and which share hits workers that had just published."""


def lacking(deaths: Sequence[Death], faults: Mapping[str, int]) -> list[str]:
    """Where the kills of a full run fell too seldom, in words. faults: how often each was acted out."""
    by_phase = Counter(death.phase for death in deaths)
    few = [f"only {by_phase[name]} kills while {name}" for name in NAMES.values() if by_phase[name] < LEAST_A_PHASE]
    few += [f"no kill in a commit {name}" for name in STEP_NAMES.values() if not faults.get(name)]
    published = sum(death.just_published for death in deaths)
    if published < LEAST_JUST_PUBLISHED * len(deaths):
        few.append(f"only {published} of {len(deaths)} kills hit workers that had just published")
    return few


def told(order: Order, history: History, mode: Mode, result: Result) -> str:
    """Of a run of kills: what was fed, in which phases the kills fell, and how many outputs there were."""
    return "\n\n".join([_head(order, history, mode, result), _phases(result.journal.deaths), _outputs(result)])


def final(outcomes: Sequence[Outcome], complete: bool) -> str:
    """Faults x histories x verdicts, and the last line: whether all is clean."""
    rows = [row for outcome in outcomes for row in outcome.rows]
    cells = [("fault", "history", "times", *WORDS, "clean"), *map(_cells, rows)]
    seconds = sum(outcome.seconds for outcome in outcomes)
    wrong = sorted({f"{row.history}: {said}" for row in rows for said in row.wrong})
    verdict = "yes" if complete and rows and all(row.clean for row in rows) else "no"
    more = "" if complete else ": not all faults have fallen, go on with --resume"
    last = f"all clean: {verdict}{more} ({seconds / 60:.1f} minutes of faults)"
    return "\n\n".join([_columns(cells), *(["\n".join(wrong)] if wrong else []), last])


def _cells(row: Row) -> Sequence[str]:
    apart = [str(row.apart.get(word, 0)) for word in WORDS]
    return [row.fault, row.history, str(row.times), *apart, "yes" if row.clean else "no", row.note]


def _head(order: Order, history: History, mode: Mode, result: Result) -> str:
    fed = Counter(record.topic for record in history.records)
    streams = Counter(topic for topic, _ in {(record.topic, record.key) for record in history.records})
    inputs = "; ".join(
        f"{n} records of {streams[topic]} streams ({history.sources[topic]}) in {topic}"
        for topic, n in sorted(fed.items())
    )
    decisions = ", ".join(
        f"{n} {name.split('.')[-2]}s"
        for name, n in sorted(result.decisions.items())
        if name in history.decision.values()
    )
    return (
        f"{mode}: seed {order.seed}, {len(result.journal.deaths)} kills in {result.journal.seconds:.0f} s\n"
        f"input: {inputs}; {decisions}, at least one in every stream"
    )


def _phases(deaths: Sequence[Death]) -> str:
    rows = [("killed while", "kills", "had just published")]
    for name in NAMES.values():
        here = [death for death in deaths if death.phase == name]
        rows.append((name, str(len(here)), str(sum(death.just_published for death in here))))
    published = sum(death.just_published for death in deaths)
    share = f" ({100 * published / len(deaths):.0f} %)" if deaths else ""
    return _columns([*rows, ("all", str(len(deaths)), f"{published}{share}")])


def _outputs(result: Result) -> str:
    rows: list[tuple[str, ...]] = [("output topic", "expected", "found", *WORDS)]
    for topic in sorted(result.expected.keys() | result.found.keys()):
        apart = count(difference for difference in result.differences if difference.topic == topic)
        numbers = [result.expected[topic], result.found[topic], *(apart[word] for word in WORDS)]
        rows.append((topic, *map(str, numbers)))
    return _columns(rows)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right; a cell beyond the head's is a remark."""
    wide = len(rows[0])
    widths = [max(len(row[place]) for row in rows) for place in range(wide)]
    lines = []
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=False)),
        ]
        lines.append("  ".join([*cells, *(cell for cell in row[wide:] if cell)]))
    return "\n".join(lines)
