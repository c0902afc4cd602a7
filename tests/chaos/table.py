"""The table at the end of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from tests.chaos.compare import count
from tests.chaos.history import History
from tests.chaos.phases import NAMES
from tests.chaos.run import Plan, Result

FAULTS = {
    "kill one": "SIGKILL of one worker",
    "kill three": "SIGKILL of three at once",
    "stop briefly": "SIGSTOP within the session, SIGCONT",
    "stop past the session": "SIGSTOP past the session, SIGCONT",
    "leave and join": "a worker leaves, another joins",
    "one more": "a fourth worker joins, one leaves",
    "lose answer": "a transaction's answer lost",
}
WORDS = ("lost", "doubled", "changed", "invented", "out of order")


def complete(plan: Plan, result: Result) -> bool:
    """Whether there were as many kills as wanted."""
    return len(result.journal.deaths) >= plan.kills


def right(result: Result) -> bool:
    """Whether everything was answered, as it was without faults, and no worker ended by itself."""
    return result.answered and not result.differences and not result.journal.failures


def table(plan: Plan, history: History, result: Result) -> str:
    """Faults, phases, outputs and the verdict."""
    return "\n\n".join(
        [_head(plan, history, result), _faults(result), _phases(result), _outputs(result), _verdict(plan, result)]
    )


def _head(plan: Plan, history: History, result: Result) -> str:
    fed = Counter(record.topic for record in history.records)
    streams = Counter(topic for topic, _ in {(record.topic, record.key) for record in history.records})
    inputs = "; ".join(
        f"{n} records of {streams[topic]} streams ({history.sources[topic]}) in {topic}"
        for topic, n in sorted(fed.items())
    )
    planted = ", planted: offset before output" if plan.planted else ""
    decisions = ", ".join(
        f"{n} {name.split('.')[-2]}s"
        for name, n in sorted(result.decisions.items())
        if name in history.decision.values()
    )
    return (
        f"chaos: seed {plan.seed}, history {history.kind}, {result.journal.seconds:.0f} s of faults{planted}\n"
        f"input: {inputs}; {decisions}, at least one in every stream"
    )


def _faults(result: Result) -> str:
    counts = result.journal.faults
    return _columns([("fault", "times"), *((name, str(counts[kind])) for kind, name in FAULTS.items())])


def _phases(result: Result) -> str:
    deaths = result.journal.deaths
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


def _verdict(plan: Plan, result: Result) -> str:
    apart = count(result.differences)
    said = ["equal record by record" if not apart else ", ".join(f"{n} {word}" for word, n in sorted(apart.items()))]
    if not result.answered:
        said.append("not all input was answered")
    if result.journal.failures:
        said.append(f"{len(result.journal.failures)} workers ended by themselves: {'; '.join(_some(result))}")
    if not complete(plan, result):
        said.append(f"only {len(result.journal.deaths)} of {plan.kills} kills: go on with --resume")
    word = "right" if right(result) else "WRONG"
    return f"verdict: {word}: {'; '.join(said)}"


def _some(result: Result) -> Iterable[str]:
    return sorted(set(result.journal.failures))[:5]


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
