"""`shadow`: how far the candidates in the shadow agree with the live models, over everything that the topics hold."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from streamer.cli.arguments import add_config, add_json, print_json, settings_of
from streamer.cli.progress import progress_shown
from streamer.errors import ConfigurationError, TopicMissing
from streamer.settings import Settings

if TYPE_CHECKING:
    from streamer.observe.agreement import Figures

EXAMPLES = (
    "python -m streamer shadow --config configs/shadow.yaml",
    "python -m streamer shadow --config configs/shadow.yaml --pipeline speech --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_json(parser, "one pipeline a line")
    parser.add_argument("--pipeline", help="which pipeline (default: all that have a shadow)")


def run(arguments: argparse.Namespace) -> int:
    """Report. Raises ConfigurationError where there is no shadow, TopicMissing where none has run, LogError."""
    settings = settings_of(arguments)
    reports = asyncio.run(_reports(settings, shadowed(settings, arguments.pipeline), arguments.json))
    for name, figures in reports.items():
        _show(name, settings.pipelines[name].model, _candidate(settings, name), figures, arguments.json)
    return 0


def shadowed(settings: Settings, wanted: str | None) -> list[str]:
    """The pipelines to report of. Raises ConfigurationError."""
    having = [name for name, options in settings.pipelines.items() if options.shadow is not None]
    if wanted is not None and wanted not in having:
        raise ConfigurationError(f"pipeline {wanted!r} has no shadow; those that have: {', '.join(having) or 'none'}")
    if not having:
        raise ConfigurationError("no pipeline has a shadow: give one `shadow: {model: ...}`")
    return having if wanted is None else [wanted]


async def _reports(settings: Settings, names: list[str], quiet: bool) -> dict[str, Figures]:
    from streamer.logs import log_of
    from streamer.shadow.watch import Sides, agreement_so_far
    from streamer.worker.topics import parts_of

    reports: dict[str, Figures] = {}
    async with log_of(settings.log) as log:
        there = await log.topics()
        for name in names:
            options = settings.pipelines[name]
            sides = Sides(settings.application, name, *parts_of(settings.application, name, options))
            for topic in (options.input.topic, sides.shadow.options.outputs.streams):
                if topic not in there:
                    raise TopicMissing(f"no topic {topic!r}: pipeline {name!r} has not run with its shadow yet")
            async with progress_shown(f"comparing {name} with its shadow", lambda: "", quiet=quiet):
                reports[name] = await agreement_so_far(log, sides)
    return reports


def _candidate(settings: Settings, name: str) -> str:
    shadow = settings.pipelines[name].shadow
    return "" if shadow is None else shadow.model


def _show(name: str, model: str, candidate: str, figures: Figures, as_json: bool) -> None:
    from streamer.observe.agreed import lines_of, plain

    if as_json:
        print_json({"pipeline": name, "live": model, "shadow": candidate, **plain(figures)})
        return
    print(f"{name}: {candidate} in the shadow of {model}")
    for line in lines_of(figures) or ["nothing that both have answered"]:
        print(f"  {line}")
