"""Commands that stand elsewhere and take their own arguments: recipes of the models, and the bench."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

from streamer.errors import ConfigurationError
from streamer.mistakes import did_you_mean

COMMANDS = ("train", "evaluate", "bench")

FAMILIES = {
    "train": {"speech": "models.speech.train", "sensor": "models.sensor.train"},
    "evaluate": {"speech": "models.speech.evaluate", "sensor": "models.sensor.evaluate"},
}

_HELP = {
    "train": "example:\n  python -m streamer train speech --help\n  python -m streamer train sensor --out /tmp/model",
    "evaluate": "example:\n  python -m streamer evaluate speech --help\n  python -m streamer evaluate sensor",
}


def run(name: str, arguments: Sequence[str]) -> int:
    """Hand `arguments` to the module that does `name`. Raises ConfigurationError for a family that there is not."""
    if name == "bench":
        sys.argv = ["python -m streamer bench", *arguments]
        return int(_module("streamer.bench", name).main(list(arguments)) or 0)
    families = FAMILIES[name]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: python -m streamer {name} {{{','.join(families)}}} ...\n\n{_HELP[name]}")
        return 0 if arguments else 2
    family, *rest = arguments
    if family not in families:
        raise ConfigurationError(f"no family {family!r}{did_you_mean(family, families)}")
    # The recipes are modules of `models`, which read their own command line.
    sys.argv = [f"python -m streamer {name} {family}", *rest]
    return int(_module(families[family], f"{name} {family}").main() or 0)


def _module(name: str, command: str) -> ModuleType:
    """Raises ConfigurationError where this installation was made without it."""
    try:
        found = importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise ConfigurationError(f"{command}: there is no {name} in this installation")
    return importlib.import_module(name)
