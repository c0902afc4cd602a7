"""`rewind`: streams run again from an offset that the log still holds, beside the live pipeline or in its place."""

from __future__ import annotations

import argparse
import asyncio
import re
import time
from datetime import datetime
from typing import TYPE_CHECKING

from streamer.cli.arguments import add_config, add_json, only_pipeline, print_json, settings_of
from streamer.cli.compare import lines_of, plain_of, verdict_of
from streamer.cli.progress import progress_shown
from streamer.cli.replay import tolerance
from streamer.cli.spans import place
from streamer.cli.stopped import add_wait, waiting
from streamer.log.base import Log
from streamer.logs import log_of
from streamer.settings import Settings

if TYPE_CHECKING:
    from streamer.rewind.again import Published
    from streamer.rewind.plan import Place, Plan, Rewound

EXAMPLES = (
    "python -m streamer rewind --stream hello.wav --compare",
    "python -m streamer rewind --stream pump-7 --to 2026-05-01T12:00:00Z --as after-the-fix --config configs/both.yaml",
    "python -m streamer rewind --stream hello.wav --to 1200 --live",
)
EQUAL, DIFFERENT = 0, 1
_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pipeline", help="which pipeline (not needed where there is only one)")
    parser.add_argument(
        "--stream", dest="streams", metavar="ID", action="append", required=True, help="which stream; may be repeated"
    )
    parser.add_argument(
        "--to",
        metavar="OFFSET|TIME|start",
        type=_start_or_place,
        help="from where on: the stream's state is brought to that place, from the nearest kept snapshot or from where "
        "the stream began (default: start, its first record after its last end)",
    )
    parser.add_argument("--until", metavar="OFFSET|TIME", type=place, help="one behind the last record (default: all)")
    parser.add_argument("--partition", type=int, metavar="N", help="where the stream is, if it is in several")
    parser.add_argument(
        "--as", dest="name", type=_name, metavar="NAME", help="publish to topics rewind-NAME.* (default: the time)"
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="publish nothing: compare with what the live pipeline said; exit code 0 when equal, 1 when not",
    )
    parser.add_argument(
        "--tolerance", type=tolerance, metavar="X", help="with --compare: how far apart two measures may lie"
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="in place of what the stopped pipeline has: up to what is committed the streams speak anew in the live "
        "topics, under the same ids, and the pipeline goes on with the states that they come to",
    )
    add_wait(parser)
    add_config(parser)
    add_json(parser, "a report (with --compare one difference a line)")
    parser.set_defaults(misused=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Run again. Raises ConfigurationError, ModelError, and what `streamer.rewind` raises."""
    _check(arguments)
    settings = settings_of(arguments)
    pipeline = rewound(settings, only_pipeline(settings, arguments.pipeline))
    return asyncio.run(_rewind(arguments, settings, pipeline))


def _check(arguments: argparse.Namespace) -> None:
    if arguments.live and (arguments.compare or arguments.until is not None or arguments.name is not None):
        arguments.misused("--live is for all that is committed: it takes no --compare, --until or --as")
    if arguments.tolerance is not None and not arguments.compare:
        arguments.misused("--tolerance is for --compare")
    if arguments.wait is not None and not arguments.live:
        arguments.misused("--wait is for --live: beside a live pipeline there is nothing to wait for")


def rewound(settings: Settings, name: str) -> Rewound:
    """A configured pipeline with its model. Raises ModelError, ConfigurationError."""
    from models import bundle
    from streamer.app import decoder_of
    from streamer.rewind.plan import Rewound
    from streamer.tasks.build import build_task

    options = settings.pipelines[name]
    loaded = bundle.load(options.model)
    task = build_task(loaded, options)
    return Rewound(settings.application, name, options, loaded, task, decoder_of(options.input, loaded))


async def _rewind(arguments: argparse.Namespace, settings: Settings, pipeline: Rewound) -> int:
    from streamer.rewind.plan import plans_of

    where, wait_s = waiting(arguments, settings.log) if arguments.live else (settings.log, 0.0)
    streams = list(dict.fromkeys(arguments.streams))
    shown = progress_shown("running again", lambda: ", ".join(streams), quiet=arguments.json)
    async with log_of(where) as log:
        async with shown:
            until = _place(arguments.until)
            plans = await plans_of(log, pipeline, streams, _place(arguments.to), until, arguments.partition)
            if arguments.live:
                return await _live(arguments, log, pipeline, plans, wait_s)
            if not arguments.compare:
                return await _publish(arguments, log, pipeline, plans)
        return await _compare(arguments, log, pipeline, plans)


async def _live(arguments: argparse.Namespace, log: Log, pipeline: Rewound, plans: list[Plan], wait_s: float) -> int:
    from streamer.rewind.in_place import run_in_place

    for done in await run_in_place(log, pipeline, plans, wait_s):
        if arguments.json:
            print_json({**_plain_plan(done.plan), "messages": done.messages})
        else:
            print(f"{_said_plan(done.plan)}: {done.messages:,} messages said anew; the pipeline goes on from there")
    return EQUAL


async def _publish(arguments: argparse.Namespace, log: Log, pipeline: Rewound, plans: list[Plan]) -> int:
    from streamer.rewind.again import publish

    for done in await publish(log, pipeline, plans, arguments.name or f"{int(time.time()):x}"):
        _show_published(done, arguments.json)
    return EQUAL


async def _compare(arguments: argparse.Namespace, log: Log, pipeline: Rewound, plans: list[Plan]) -> int:
    from dataclasses import replace

    from streamer.rewind.again import compared

    answered = await log.committed(pipeline.group, [plan.partition for plan in plans])
    equal = True
    for plan in plans:
        ends = [plan.end, *(at.offset for name, at in answered.items() if name == plan.partition)]
        plan = replace(plan, end=max(plan.target, min(ends)))
        report = await compared(log, pipeline, plan, arguments.name or "compare", arguments.tolerance or 0.0)
        equal = equal and report.equal
        for difference in report.differences:
            if arguments.json:
                print_json(plain_of(difference))
            else:
                print("\n".join(lines_of(difference)))
        if arguments.json:
            counts = {"matched": report.matched, "differences": len(report.differences), "equal": report.equal}
            print_json({"kind": "summary", **_plain_plan(plan), **counts})
        else:
            print(f"{_said_plan(plan)}: {report.matched:,} messages matched, {verdict_of(report)} (a: live, b: again)")
    return EQUAL if equal else DIFFERENT


def _show_published(done: Published, as_json: bool) -> None:
    if as_json:
        print_json({**_plain_plan(done.plan), "messages": done.messages, "topics": done.topics})
    else:
        where = f" in {', '.join(done.topics)}" if done.topics else ""
        print(f"{_said_plan(done.plan)}: {done.messages:,} messages{where}")


def _said_plan(plan: Plan) -> str:
    how = "its beginning" if plan.snapshot is None else "its snapshot"
    where = f"from {plan.target} to {plan.end}, brought there from {how} at {plan.begin}"
    return f"{plan.stream} ({plan.partition}) {where}"


def _plain_plan(plan: Plan) -> dict[str, object]:
    base = "start" if plan.snapshot is None else "snapshot"
    place = {"stream": plan.stream, "partition": str(plan.partition), "base": base, "begin": plan.begin}
    return {**place, "target": plan.target, "end": plan.end}


def _place(wanted: int | datetime | None) -> Place | None:
    from streamer.rewind.plan import Place

    if wanted is None:
        return None
    return Place(offset=wanted) if isinstance(wanted, int) else Place(time_ms=round(wanted.timestamp() * 1000))


def _start_or_place(text: str) -> int | datetime | None:
    return None if text == "start" else place(text)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name: 1 to 32 letters, digits, - and _")
    return text
