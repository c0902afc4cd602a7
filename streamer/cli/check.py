"""`check`: the resolved configuration, or every mistake in it."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

import yaml

from streamer.cli.arguments import add_config, add_json, settings_of
from streamer.errors import ConfigurationError
from streamer.mistakes import did_you_mean
from streamer.settings import Settings, json_schema

EXAMPLES = (
    "python -m streamer check --config configs/kafka.yaml",
    "python -m streamer check --schema > streamer.schema.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_json(parser, "the resolved configuration")
    parser.add_argument("--schema", action="store_true", help="print a JSON Schema of the settings, for editors")


def run(arguments: argparse.Namespace) -> int:
    """Print the configuration. Raises ConfigurationError with every mistake."""
    if arguments.schema:
        print(json.dumps(json_schema(), indent=2))
        return 0
    settings = settings_of(arguments)
    check_models(settings)
    if arguments.json:
        print(json.dumps(settings.printable(), indent=2))
    else:
        print(yaml.safe_dump(settings.printable(), sort_keys=False, allow_unicode=True), end="")
    return 0


def check_models(settings: Settings) -> None:
    """Raises ConfigurationError for every pipeline whose model is neither in the zoo nor a folder with a model."""
    spec = importlib.util.find_spec("models")
    packages = list(spec.submodule_search_locations or ()) if spec else []
    known = sorted(p.parent.name for folder in packages for p in Path(folder).glob("zoo/*/model.yaml"))
    named = [
        (f"pipelines.{name}.{place}", model)
        for name, pipeline in settings.pipelines.items()
        for place, model in [("model", pipeline.model), *((f"also[{n}]", m) for n, m in enumerate(pipeline.also))]
    ]
    named += [
        (f"pipelines.{name}.shadow.model", pipeline.shadow.model)
        for name, pipeline in settings.pipelines.items()
        if pipeline.shadow is not None
    ]
    wrong = [
        f"{place}: no model {model!r}{did_you_mean(model, known)}"
        for place, model in named
        if model not in known and not (Path(model) / "model.yaml").is_file()
    ]
    if wrong:
        raise ConfigurationError("\n".join(wrong))
