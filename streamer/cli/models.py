"""`models`: what is in the zoo, or the card of one model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from streamer.cli.arguments import add_json, print_json

EXAMPLES = ("python -m streamer models", "python -m streamer models speech-en")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="a model of the zoo, or a folder: print its card")
    add_json(parser, "one model a line")


def run(arguments: argparse.Namespace) -> int:
    """List the zoo or show one model. Raises ModelError for a name that there is not."""
    from models import bundle

    if arguments.name is None:
        rows = [described(bundle.find(name)) for name in bundle.available()]
    else:
        rows = [described(bundle.find(arguments.name))]
    if arguments.json:
        for row in rows:
            print_json(row)
        return 0
    for row in rows:
        print(f"{row['name']:22} {row['version']:8} {row['task']:16} {row['input']:22} {row['status']}")
    if arguments.name is not None:
        card = bundle.find(arguments.name) / "CARD.md"
        if card.is_file():
            print()
            print(card.read_text(encoding="utf-8"), end="")
    return 0


def described(folder: Path) -> dict[str, Any]:
    """What a model is, and whether its weights are at hand."""
    import yaml

    from models import bundle
    from models.contract import ModelError, state_bytes

    settings = yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))
    row = {
        "name": settings["name"],
        "version": str(settings["version"]),
        "task": settings["task"],
        "folder": str(folder),
        "input": "",
    }
    try:
        loaded = bundle.load(folder)
    except ModelError as error:
        return row | {"status": f"not usable: {error}", "usable": False}
    signature = loaded.model.signature
    rate = f" {signature.rate_hz} Hz" if signature.rate_hz else ""
    return row | {
        "input": f"{signature.input}{rate} x {signature.channels}",
        "status": f"{state_bytes(loaded.model) / 1024:.1f} KiB of state a stream",
        "fingerprint": loaded.fingerprint,
        "state_bytes": state_bytes(loaded.model),
        "usable": True,
    }
