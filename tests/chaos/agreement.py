"""Whether workers that round differently lost, doubled or contradicted anything (docs/chaos.md, "Mixed").

What the input alone decides is compared to the byte with what an uninterrupted worker said. Of what rounding may
touch, the numbers must be near to that worker's, and finals and alert changes must fit together and fit the
predictions that were published: a re-run may come to another decision only where the score is too close to call.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from models.sensor.hysteresis import AlertRule
from streamer.codecs.messages import Alert, FinalTranscript, PartialTranscript, Prediction
from tests.chaos.compare import Difference, Fault, differences
from tests.chaos.outside import Output

CLOSE = 0.1
"""A score nearer than this to a threshold is too close to call: bf16 moved none further in 18,000 events of NAB."""
NEAR_SCORE, NEAR_WIDTHS = 0.25, 1.0
"""How far predictions may lie apart: scores, and quantiles in widths of the predicted band."""
_PREDICTION, _ALERT = "streamer.prediction.v1", "streamer.alert.v1"
_PARTIAL, _FINAL = "streamer.transcript.partial.v1", "streamer.transcript.final.v1"
_ROUNDED = (_PREDICTION, _ALERT, _PARTIAL, _FINAL)


def disagreements(expected: Sequence[Output], found: Sequence[Output], rule: AlertRule) -> list[Difference]:
    """What was lost, doubled, changed, invented, out of order or contradicting. rule: of the alerts."""
    sure = [[output for output in side if output.header("ce_type") not in _ROUNDED] for side in (expected, found)]
    predictions = _of(found, _PREDICTION)
    return [
        *differences(*sure),
        *_predictions(_of(expected, _PREDICTION), predictions),
        *_alerts(_of(found, _ALERT), predictions, rule),
        *_transcripts(_of(expected, _FINAL), _of(found, _PARTIAL, _FINAL)),
    ]


def _of(outputs: Iterable[Output], *kinds: str) -> list[Output]:
    return [output for output in outputs if output.header("ce_type") in kinds]


class _Place(NamedTuple):
    """What a `ce_id` says: the partition and the offset of the record that caused an output, and its kind."""

    partition: str
    offset: int
    kind: str


def _place(output: Output) -> _Place:
    _, partition, offset, kind, _ = output.header("ce_id").rsplit("/", 4)
    return _Place(partition, int(offset), kind)


def _wrong(what: Fault, output: Output, expected: Output | None = None) -> Difference:
    return Difference(what, output.topic, output.header("ce_subject"), output.header("ce_id"), expected, output)


def _once(outputs: Iterable[Output]) -> tuple[list[Output], list[Difference]]:
    """The first of every id, and what comes again."""
    first: dict[str, Output] = {}
    again: list[Difference] = []
    for output in outputs:
        id = output.header("ce_id")
        if id in first:
            again.append(_wrong("doubled", output, first[id]))
        else:
            first[id] = output
    return list(first.values()), again


def _rows(outputs: Iterable[Output], row_of: Callable[[Output], str]) -> dict[str, list[Output]]:
    rows: dict[str, list[Output]] = defaultdict(list)
    for output in outputs:
        rows[row_of(output)].append(output)
    return dict(rows)


def _in_order(outputs: Iterable[Output]) -> Iterator[Difference]:
    """Outputs of one stream that were caused by an earlier record than the one before them."""
    last = -1
    for output in outputs:
        if (offset := _place(output).offset) < last:
            yield _wrong("out of order", output)
        last = max(last, offset)


# ---------------------------------------------------------------------- predictions


def _predictions(expected: Sequence[Output], found: Sequence[Output]) -> Iterator[Difference]:
    """Each is there once, of the same record, in order, and near to the uninterrupted worker's."""
    yield from differences(map(_without_numbers, expected), map(_without_numbers, found))
    right = {output.header("ce_id"): output for output in expected}
    for output in found:
        wanted = right.get(output.header("ce_id"))
        if wanted is not None and not _near(_decoded(wanted, Prediction), _decoded(output, Prediction)):
            yield _wrong("contradicting", output, wanted)


def _without_numbers(output: Output) -> Output:
    body = _decoded(output, Prediction)
    return output._replace(value=msgspec.json.encode([body.stream, body.time, body.value]))


def _near(one: Prediction, other: Prediction) -> bool:
    if one.low is None or one.high is None:
        return (one.score, one.low, one.high) == (other.score, other.low, other.high)
    room = NEAR_WIDTHS * (one.high - one.low)
    pairs = [(one.expected, other.expected), (one.low, other.low), (one.high, other.high)]
    return _apart(one.score, other.score) <= NEAR_SCORE and all(_apart(*pair) <= room for pair in pairs)


def _apart(one: float | None, other: float | None) -> float:
    return abs(one - other) if one is not None and other is not None else (0.0 if one is other else float("inf"))


# ---------------------------------------------------------------------- alerts


def _alerts(alerts: Sequence[Output], predictions: Sequence[Output], rule: AlertRule) -> Iterator[Difference]:
    """Changes of a stream follow each other, and each fits the prediction of its record."""
    changes, again = _once(alerts)
    yield from again
    seen = _rows(predictions, _stream)
    changed = _rows(changes, _stream)
    for stream in seen.keys() | changed.keys():
        yield from _in_order(changed.get(stream, []))
        yield from _alerts_of(changed.get(stream, []), seen.get(stream, []), rule)


def _stream(output: Output) -> str:
    return f"{_place(output).partition}/{output.header('ce_subject')}"


def _alerts_of(changes: Sequence[Output], predictions: Sequence[Output], rule: AlertRule) -> Iterator[Difference]:
    """One stream, record by record: what its alerts are after each, and what the record's score asks for."""
    at = _rows(changes, lambda output: str(_place(output).offset))
    known = {_place(output).offset: output for output in predictions}
    open_alert: Alert | None = None
    for offset in sorted(known.keys() | {int(offset) for offset in at}):
        said = known.get(offset)
        score = None if said is None else _score(said)
        for output in at.get(str(offset), []):
            change = _decoded(output, Alert)
            if not _follows(open_alert, change, offset) or not _fits(change, _place(output).kind, score, rule):
                yield _wrong("contradicting", output, said)
            open_alert = change if change.status == "firing" else None
        if said is not None and score is not None and _is_due(open_alert, score, rule):
            yield _wrong("lost", said)  # an alert that this record must fire, or resolve


def _score(output: Output) -> float | None:
    """None where nothing was observed: such a record decides nothing."""
    body = _decoded(output, Prediction)
    return None if body.value is None else body.score


def _follows(open_alert: Alert | None, change: Alert, offset: int) -> bool:
    """Whether a change can come now: firing, more severe, resolved, all under the id of the record that fired it."""
    if open_alert is None:
        return change.status == "firing" and change.id == f"{change.stream}/{offset}"
    return change.id == open_alert.id and (change.status == "resolved" or change.severity != open_alert.severity)


def _fits(change: Alert, kind: str, score: float | None, rule: AlertRule) -> bool:
    """Whether the published score of the same record allows it; an end or a reset resolves at any score."""
    if kind != "alert":
        return change.status == "resolved"
    if score is None:
        return False
    return score >= rule.fire_at - CLOSE if change.status == "firing" else score < rule.resolve_at + CLOSE


def _is_due(open_alert: Alert | None, score: float, rule: AlertRule) -> bool:
    return score >= rule.fire_at + CLOSE if open_alert is None else score < rule.resolve_at - CLOSE


# ---------------------------------------------------------------------- transcripts


def _transcripts(finals: Sequence[Output], said: Sequence[Output]) -> Iterator[Difference]:
    """Finals of a stream count its segments; no partial comes after its final; what was spoken is in both."""
    transcripts, again = _once(said)
    yield from again
    lives, spoken = _rows(transcripts, _life), _rows(finals, _life)
    for life in lives.keys() | spoken.keys():
        outputs = lives.get(life, [])
        yield from _in_order(outputs)
        yield from _segments(outputs)
        yield from _spoken(spoken.get(life, []), [o for o in outputs if o.header("ce_type") == _FINAL])


def _life(output: Output) -> str:
    """A stream from its first record to its end: its transcripts' keys but for the segment."""
    return output.key.decode().rpartition("/")[0]


def _segments(outputs: Sequence[Output]) -> Iterator[Difference]:
    """Of one life: its finals' segments count from 0, their times do not overlap, partials are of the open one."""
    segment, until_s = 0, 0.0
    for output in outputs:
        kind: Any = FinalTranscript if output.header("ce_type") == _FINAL else PartialTranscript
        body = _decoded(output, kind)
        if body.segment > segment and kind is FinalTranscript:
            yield _wrong("lost", output)  # the final before it
        elif body.segment != segment or body.start_s < until_s or int(output.key.rpartition(b"/")[2]) != body.segment:
            yield _wrong("contradicting", output)
        if kind is FinalTranscript:
            segment, until_s = body.segment + 1, body.end_s


def _spoken(expected: Sequence[Output], found: Sequence[Output]) -> Iterator[Difference]:
    """Finals of one run during which the other run's heard nothing."""
    right = [(output, _decoded(output, FinalTranscript)) for output in expected]
    given = [(output, _decoded(output, FinalTranscript)) for output in found]
    for output, body in right:
        if not any(_overlap(body, other) for _, other in given):
            yield Difference("lost", output.topic, body.stream, output.header("ce_id"), output, None)
    for output, body in given:
        if not any(_overlap(body, other) for _, other in right):
            yield _wrong("invented", output)


def _overlap(one: FinalTranscript, other: FinalTranscript) -> bool:
    return one.start_s < other.end_s and other.start_s < one.end_s


_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {}


def _decoded(output: Output, kind: type) -> Any:
    if kind not in _DECODERS:
        _DECODERS[kind] = msgspec.json.Decoder(kind)
    return _DECODERS[kind].decode(output.value)
