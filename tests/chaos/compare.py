"""Whether a run with faults said what the uninterrupted run said, record by record and byte for byte."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from tests.chaos.outside import Output

Fault = Literal["lost", "doubled", "changed", "invented", "out of order", "contradicting"]


class Difference(NamedTuple):
    """One output that is not as it should be. expected, found: the records, as far as there are any."""

    what: Fault
    topic: str
    stream: str
    id: str
    expected: Output | None
    found: Output | None

    def __str__(self) -> str:
        return f"{self.what}: {self.topic} {self.stream} {self.id}\n  expected {self.expected}\n  found    {self.found}"


class Repeated(ValueError):
    """The uninterrupted run itself said something twice."""


def differences(expected: Iterable[Output], found: Iterable[Output]) -> list[Difference]:
    """Lost: an output that is missing. Doubled: one that is there again. Changed: another partition, key, value, header
    or time. Invented: its id is not among the expected. Out of order: a stream's outputs of a topic in another order.

    Raises Repeated when what is expected has an id twice.
    """
    wanted = _by_id(expected)
    given = _by_id(found)
    if repeated := [id for id, outputs in wanted.items() if len(outputs) > 1]:
        raise Repeated(f"the uninterrupted run has these more than once: {repeated[:5]}")
    result: list[Difference] = []
    for (topic, id), (right, *_) in wanted.items():
        got = given.get((topic, id), [])
        stream = right.header("ce_subject")
        if not got:
            result.append(Difference("lost", topic, stream, id, right, None))
        result += [Difference("doubled", topic, stream, id, right, again) for again in got[1:]]
        result += [Difference("changed", topic, stream, id, right, wrong) for wrong in got if wrong != right]
    for (topic, id), outputs in given.items():
        if (topic, id) not in wanted:
            result += [Difference("invented", topic, o.header("ce_subject"), id, None, o) for o in outputs]
    return [*result, *_out_of_order(wanted, given)]


def count(found: Iterable[Difference]) -> Counter[str]:
    """How many of each sort."""
    return Counter(difference.what for difference in found)


def _by_id(outputs: Iterable[Output]) -> dict[tuple[str, str], list[Output]]:
    found: dict[tuple[str, str], list[Output]] = defaultdict(list)
    for output in outputs:
        found[output.topic, output.header("ce_id")].append(output)
    return dict(found)


def _out_of_order(
    wanted: dict[tuple[str, str], list[Output]], given: dict[tuple[str, str], list[Output]]
) -> Iterable[Difference]:
    """The first output of each stream and topic that stands in another's place, the missing ones left out."""
    both = wanted.keys() & given.keys()
    rows = [_by_stream(side[name][0] for name in side if name in both) for side in (wanted, given)]
    for place, right in rows[0].items():
        for expected, found in zip(right, rows[1].get(place, []), strict=False):
            if (id := expected.header("ce_id")) != found.header("ce_id"):
                yield Difference("out of order", *place, id, expected, found)
                break


def _by_stream(outputs: Iterable[Output]) -> dict[tuple[str, str], Sequence[Output]]:
    rows: dict[tuple[str, str], list[Output]] = defaultdict(list)
    for output in outputs:
        rows[output.topic, output.header("ce_subject")].append(output)
    return dict(rows)
