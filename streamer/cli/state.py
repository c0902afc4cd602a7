"""`state`: a pipeline's saved states into a file, and back into a log."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from streamer.cli.arguments import add_config, add_json, only_pipeline, print_json, settings_of
from streamer.cli.progress import progress_shown
from streamer.cli.stopped import add_wait, waiting
from streamer.errors import ConfigurationError
from streamer.settings import Settings

if TYPE_CHECKING:
    from streamer.state.transfer import Pipeline, TransferReport

EXAMPLES = (
    "python -m streamer state export speech speech.state",
    "python -m streamer state import speech speech.state --config configs/kafka.yaml",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("export", "import"),
        help="export: what is saved of a stopped pipeline - its streams' states and its place in the input - into a "
        "file; import: back, so that a worker continues where the export was taken",
    )
    parser.add_argument("pipeline", help="which pipeline")
    parser.add_argument("file", help="an export writes it and overwrites nothing")
    parser.add_argument("--replace", action="store_true", help="import over the states and offsets that are there")
    add_wait(parser)
    add_config(parser)
    add_json(parser, "a report")


def run(arguments: argparse.Namespace) -> int:
    """Export or import. Raises ConfigurationError, ModelError, and what `streamer.state.transfer` raises."""
    if arguments.replace and arguments.action == "export":
        raise ConfigurationError("--replace is for import: an export overwrites no file")
    settings = settings_of(arguments)
    name = only_pipeline(settings, arguments.pipeline)
    pipeline = pipeline_of(settings, name)
    reset = settings.pipelines[name].on_state_mismatch == "reset"
    report = asyncio.run(_transfer(arguments, settings, pipeline, reset))
    _show(arguments, report)
    return 0


async def _transfer(
    arguments: argparse.Namespace, settings: Settings, pipeline: Pipeline, reset: bool
) -> TransferReport:
    from streamer.logs import log_of
    from streamer.state.transfer import export_states, import_states

    file = arguments.file
    where, wait_s = waiting(arguments, settings.log)
    shown = progress_shown(f"{arguments.action} of {pipeline.name}", lambda: file, quiet=arguments.json)
    async with log_of(where) as log, shown:
        if arguments.action == "export":
            return await export_states(log, pipeline, file, leave_out_mismatches=reset, wait_s=wait_s)
        return await import_states(log, pipeline, file, replace=arguments.replace, wait_s=wait_s)


def pipeline_of(settings: Settings, name: str) -> Pipeline:
    """A configured pipeline with its model's name and state. Raises ModelError, ConfigurationError."""
    import torch

    from models import bundle
    from streamer.state.transfer import Pipeline
    from streamer.worker.engine import lower_precision
    from streamer.worker.slots import SlotPool

    options = settings.pipelines[name]
    loaded = bundle.load(options.model)
    try:
        model = lower_precision(loaded.model) if options.engine.dtype == "bfloat16" else loaded.model
    except ValueError as error:
        raise ConfigurationError(f"pipeline {name!r}: {error}") from error
    return Pipeline(
        settings.application,
        name,
        options.input.topic,
        f"{loaded.name}-{loaded.version}@{loaded.fingerprint}",
        SlotPool(model, 1, torch.device("cpu")).layout(),
    )


def _show(arguments: argparse.Namespace, report: TransferReport) -> None:
    if arguments.json:
        numbers = {"partitions": report.partitions, "states": report.states, "left_out": report.left_out}
        print_json({"file": arguments.file, "pipeline": arguments.pipeline, **numbers})
        return
    place = "in" if arguments.action == "export" else "from"
    print(f"{report.states:,} states of {report.partitions} partitions {place} {arguments.file}")
    if report.left_out:
        print(f"{report.left_out:,} states of another model were left out")
