"""`replay --compare A B`: whether two runs said the same; each is a topic, or a file that `record` wrote."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from streamer.cli.arguments import print_json, settings_of
from streamer.cli.interrupt import run_until_interrupted
from streamer.cli.spans import span_of
from streamer.codecs.messages import Envelope, decode
from streamer.errors import InputError
from streamer.feeds.replay import FileSource, open_source
from streamer.feeds.topic_source import Span
from streamer.log.base import Log
from streamer.logs import log_of
from streamer.observe.comparison import Changed, Difference, FieldDifference, OnlyIn, Reordered, Report, Run, compare
from streamer.records import Record, header
from streamer.taps.lines import safe

EQUAL, DIFFERENT = 0, 1


@dataclass(slots=True)
class _Read:
    """What was read of one side. others: records that are no messages, such as audio. truncated: a file cut off."""

    name: str
    messages: list[Envelope] = field(default_factory=list)
    others: int = 0
    truncated: bool = False


def run(arguments: argparse.Namespace) -> int:
    """Compare and report. Raises InputError for what is neither recording nor topic or holds no message, LogError."""
    settings = settings_of(arguments)
    reads = [_Read(name) for name in arguments.compare]

    async def main(stop: asyncio.Event) -> int:
        async with log_of(settings.log) as log:
            for read in reads:
                await _read(read, log, span_of(arguments))
        report = await asyncio.to_thread(
            compare, reads[0].messages, reads[1].messages, tolerance=arguments.tolerance or 0.0
        )
        _show(report, reads, arguments.json)
        return EQUAL if report.equal else DIFFERENT

    return run_until_interrupted(main)


async def _read(read: _Read, log: Log, span: Span) -> None:
    source, _ = await open_source(read.name, log, span)
    async with aclosing(source.batches()) as batches:
        async for batch in batches:
            for record in batch:
                if (message := _message(record)) is None:
                    read.others += 1
                else:
                    read.messages.append(message)
    if isinstance(source, FileSource):
        read.truncated = source.recording.truncated
    if read.others and not read.messages:
        raise InputError(f"{read.name} holds {read.others} records and no message that a pipeline published")


def _message(record: Record) -> Envelope | None:
    """The message in a record, None where the record is none. Raises InputError for one that cannot be read."""
    if header(record, "ce_id") is None:
        return None
    try:
        return decode(record)
    except (msgspec.DecodeError, KeyError, ValueError) as error:
        raise InputError(f"{record.coordinates} is no message of this version: {error}") from None


def _show(report: Report, reads: list[_Read], as_json: bool) -> None:
    """Every difference, then the sum of it; what was cut off or is none of our messages is said on standard error."""
    for difference in report.differences:
        if as_json:
            print_json(plain_of(difference))
        else:
            print("\n".join(lines_of(difference)))
    if as_json:
        print_json(_summary(report, reads))
    else:
        print("\n".join(_closing_lines(report, reads)))
    for read in reads:
        if read.truncated:
            print(f"streamer: {read.name} was cut off: what was whole is compared", file=sys.stderr)
        if read.others:
            print(f"streamer: {read.name}: {read.others:,} records without ce_id are not compared", file=sys.stderr)


def plain_of(difference: Difference) -> dict[str, Any]:
    """A difference as plain data."""
    match difference:
        case OnlyIn(run=run, message=message):
            return {"kind": f"only_in_{run}", **_named(message), "body": msgspec.to_builtins(message.body)}
        case Changed(message=message, fields=fields):
            return {"kind": "changed", **_named(message), "fields": [_field(f) for f in fields]}
        case Reordered():
            return {"kind": "order", **{name: getattr(difference, name) for name in difference.__slots__}}


def _named(message: Envelope) -> dict[str, str]:
    return {"id": message.id, "type": message.type, "stream": message.subject}


def _field(changed: FieldDifference) -> dict[str, Any]:
    return {name: value for name, value in changed._asdict().items() if name != "by" or value is not None}


def lines_of(difference: Difference) -> Iterator[str]:
    """A difference for people."""
    match difference:
        case OnlyIn(run=run, message=message):
            yield f"only in {run}  {safe(message.id)}  {message.type}  {safe(message.subject)}"
        case Changed(message=message, fields=fields):
            yield f"changed  {safe(message.id)}  {message.type}  {safe(message.subject)}"
            for changed in fields:
                by = "" if changed.by is None else f"  by {changed.by:+.6g}"
                yield f"    {safe(changed.field)}: {_shown(changed.a)} in a, {_shown(changed.b)} in b{by}"
        case Reordered(stream=stream, place=place, a=a, b=b):
            yield f"order  {safe(stream)}  decision {place}: {safe(a)} in a, {safe(b)} in b"


def _shown(value: object) -> str:
    return "nothing" if value is None else safe(msgspec.json.encode(value).decode())


def _summary(report: Report, reads: list[_Read]) -> dict[str, Any]:
    sides = {
        side: {
            "name": read.name,
            "messages": len(run.messages),
            "repeated": run.repeated,
            "others": read.others,
            "truncated": read.truncated,
            "sources": run.sources,
            "models": run.models,
        }
        for side, run, read in zip(("a", "b"), (report.a, report.b), reads, strict=True)
    }
    return {
        "kind": "summary",
        "equal": report.equal,
        "matched": report.matched,
        "differences": len(report.differences),
        "ignored": report.ignored,
        **sides,
    }


def _closing_lines(report: Report, reads: list[_Read]) -> Iterator[str]:
    for side, run, read in zip(("a", "b"), (report.a, report.b), reads, strict=True):
        yield f"{side}: {read.name}, {_count(run)}"
    for ignored in report.ignored:
        yield f"not compared: {ignored}"
    yield verdict_of(report)


def verdict_of(report: Report) -> str:
    """Equal, or how many differences of which kind there are."""
    if report.equal:
        return "equal"
    found = report.differences
    told = (
        (sum(isinstance(d, OnlyIn) and d.run == "a" for d in found), "only in a"),
        (sum(isinstance(d, OnlyIn) and d.run == "b" for d in found), "only in b"),
        (sum(isinstance(d, Changed) for d in found), "changed"),
        (sum(isinstance(d, Reordered) for d in found), "streams in another order"),
    )
    return "different: " + ", ".join(f"{count:,} {what}" for count, what in told if count)


def _count(run: Run) -> str:
    again = f" ({run.repeated:,} came again and were passed over)" if run.repeated else ""
    return f"{len(run.messages):,} messages{again}"
