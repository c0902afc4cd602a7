"""`doctor`: what this machine can do, and how to get what is missing."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streamer.cli.arguments import add_config, add_json, print_json, settings_of
from streamer.settings import KafkaSettings, Settings

EXAMPLES = ("python -m streamer doctor", "python -m streamer doctor --config configs/kafka.yaml --json")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a machine has or lacks. needed: whether the default configuration fails without it."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    needed: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_json(parser, "one finding a line")


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; 1 when something needed is missing."""
    settings = settings_of(arguments)
    missing = False
    for finding in findings(settings):
        missing |= finding.needed and not finding.ok
        if arguments.json:
            print_json(finding)
            continue
        sign = "ok " if finding.ok else "!! " if finding.needed else "-- "
        print(f"{sign} {finding.name:14} {finding.detail}")
        if not finding.ok and finding.remedy:
            print(f"    {'':14} {finding.remedy}")
    return 1 if missing else 0


def findings(settings: Settings) -> Iterator[Finding]:
    """Look at the machine, cheapest first."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", sys.version_info >= (3, 11), version, "install Python 3.11 or later", needed=True)
    yield from _packages()
    yield _processor()
    yield _gpu()
    yield _sound()
    yield _pulse()
    yield _kafka(settings)
    yield _local_broker()
    yield _tool("espeak-ng", "synthesised voices for the demo", "apt-get install espeak-ng")
    yield _tool("kcat", "a second pair of eyes on Kafka topics", "apt-get install kcat")
    yield _data()


def _packages() -> Iterator[Finding]:
    for name in ("torch", "aiokafka", "sounddevice", "soundfile", "msgspec", "rich", "safetensors", "pyarrow"):
        found = importlib.util.find_spec(name) is not None
        if not found:
            yield Finding(name, False, "the Python package is missing", "run: make setup", needed=True)


def _processor() -> Finding:
    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        line = next((text for text in info.read_text().splitlines() if text.startswith("flags")), "")
        flags = set(line.partition(":")[2].split())
    fast = [name for name, flag in (("AMX", "amx_bf16"), ("AVX-512", "avx512f"), ("AVX2", "avx2")) if flag in flags]
    bf16 = "amx_bf16" in flags or "avx512_bf16" in flags
    detail = f"{os.cpu_count()} cores, {', '.join(fast) or 'no vector units known'}"
    return Finding("processor", bf16, detail, "dtype: bfloat16 gains nothing on this processor; keep float32")


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("gpu", True, ", ".join(names))
    if shutil.which("nvidia-smi") is None:
        return Finding("gpu", False, "none found; the engine runs on the processor")
    why = f"a driver is here, but torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use it"
    return Finding("gpu", False, why, "update the driver to one for this CUDA version, or install a fitting torch")


def _sound() -> Finding:
    from streamer.cli.devices import sound_inputs
    from streamer.errors import InputError

    try:
        inputs = sound_inputs()
    except InputError as error:
        return Finding("microphone", False, str(error))
    names = ", ".join(i.name for i in inputs)
    remedy = "plug one in, or use PulseAudio: apt-get install libasound2-plugins pulseaudio"
    return Finding("microphone", bool(inputs), names or "no sound input", remedy)


def _pulse() -> Finding:
    if shutil.which("pactl") is None:
        return Finding("pulseaudio", False, "not installed", "apt-get install pulseaudio pulseaudio-utils")
    answer = subprocess.run(["pactl", "info"], capture_output=True, timeout=10, check=False)
    if answer.returncode:
        return Finding("pulseaudio", False, "installed, not running", "start it: pulseaudio --start")
    return Finding("pulseaudio", True, "running")


def _kafka(settings: Settings) -> Finding:
    configured = isinstance(settings.log, KafkaSettings)
    servers = settings.log.bootstrap_servers if isinstance(settings.log, KafkaSettings) else "localhost:9092"
    host, _, port = servers.split(",")[0].strip().rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2.0):
            return Finding("kafka", True, f"a broker answers at {host}:{port}", needed=configured)
    except (OSError, ValueError) as error:
        detail = f"no broker at {servers}: {error}"
        return Finding("kafka", False, detail, "start one: make kafka, or set log.bootstrap_servers", configured)


def _local_broker() -> Finding:
    missing = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    if missing:
        remedy = "apt-get install openjdk-17-jre-headless maven"
        return Finding("local broker", False, f"{' and '.join(missing)} missing", remedy)
    return Finding("local broker", True, "java and mvn are here: make kafka")


def _tool(name: str, use: str, remedy: str) -> Finding:
    path = shutil.which(name)
    return Finding(name, path is not None, path or f"missing: {use}", remedy)


def _data() -> Finding:
    from streamer.cli.recordings import data_folder

    folder = data_folder()
    if folder is None:
        return Finding("recordings", False, "none; the demo synthesises its own", "point STREAMER_DATA at a folder")
    return Finding("recordings", True, str(folder))
