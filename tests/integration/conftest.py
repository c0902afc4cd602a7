"""Fixtures of the integration tests: a microphone that hears what is played into a null sink."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.errors import InputError
from streamer.feeds.microphone import devices
from streamer.testing.sound import NullSink, missing_programs, null_sink


def _lacking() -> str:
    if programs := missing_programs():
        return f"no {', '.join(programs)}: apt-get install pulseaudio pulseaudio-utils libasound2-plugins"
    try:
        devices()
    except InputError as error:
        return str(error)
    return ""


@pytest.fixture
def microphone(monkeypatch: pytest.MonkeyPatch) -> Iterator[NullSink]:
    """A private PulseAudio whose null sink is the default input device, named `pulse`.

    Skips where PulseAudio or PortAudio is missing; fails instead where `STREAMER_REQUIRE` names mic.
    """
    if lacking := _lacking():
        if "mic" in os.environ.get("STREAMER_REQUIRE", ""):
            pytest.fail(lacking)
        pytest.skip(lacking)
    # A folder of our own: pytest's are too long for the path of a socket.
    with tempfile.TemporaryDirectory(prefix="mic") as folder, null_sink(Path(folder)) as sink:
        for name, value in sink.env.items():
            monkeypatch.setenv(name, value)
        if not any(device.name == "pulse" for device in devices()):
            pytest.skip("PortAudio shows no device pulse: apt-get install libasound2-plugins")
        yield sink
