"""`devices`: the sound inputs a microphone feed can use, and what a model can run on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from streamer.cli.arguments import add_json, print_json
from streamer.errors import InputError

if TYPE_CHECKING:
    from streamer.feeds.microphone import Device

EXAMPLES = ("python -m streamer devices", "python -m streamer transcribe mic --device pulse")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser, "one device a line")


def run(arguments: argparse.Namespace) -> int:
    """Print the devices; a machine without sound is no failure."""
    try:
        inputs, why = sound_inputs(), "no sound input: plug one in, or start PulseAudio"
    except InputError as error:
        inputs, why = [], str(error)
    for device in inputs:
        if arguments.json:
            print_json({"kind": "sound", **{n: getattr(device, n) for n in device.__slots__}})
        else:
            default = "  (default)" if device.default else ""
            print(f"sound {device.index:3}  {device.name}  {device.rate_hz} Hz x {device.channels}{default}")
    if not inputs and not arguments.json:
        print(f"sound      {why}")
    for name, detail in compute_devices():
        if arguments.json:
            print_json({"kind": "compute", "name": name, "detail": detail})
        else:
            print(f"compute    {name}  {detail}")
    return 0


def sound_inputs() -> list[Device]:
    """All sound inputs. Raises InputError when PortAudio is missing."""
    from streamer.feeds.microphone import devices

    return devices()


def compute_devices() -> list[tuple[str, str]]:
    """What `engine.device` may name, and what it is."""
    import os

    import torch

    found = [("cpu", f"{os.cpu_count()} cores")]
    for i in range(torch.cuda.device_count()):
        memory_gib = torch.cuda.get_device_properties(i).total_memory / 2**30
        found.append((f"cuda:{i}", f"{torch.cuda.get_device_name(i)}, {memory_gib:.0f} GiB"))
    return found
