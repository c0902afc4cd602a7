"""A microphone without hardware: a private PulseAudio whose null sink is what the default input device hears.

PortAudio shows it as the devices `pulse` and `default` (Debian: pulseaudio pulseaudio-utils libasound2-plugins
libportaudio2). The daemon has a folder and a socket of its own: no PulseAudio of the system is touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from streamer.errors import ConfigurationError

PROGRAMS = ("pulseaudio", "paplay", "pactl")
_SINK = "streamer"
_START_TIMEOUT_S = 15.0


class NullSink:
    """A running daemon. env: what a process needs in its environment to hear it."""

    def __init__(self, daemon: subprocess.Popen[bytes], env: Mapping[str, str]) -> None:
        self._daemon = daemon
        self.env = dict(env)

    def play(self, path: Path | str) -> subprocess.Popen[bytes]:
        """Start playing a sound file into the sink, in real time; `wait()` on what is returned for its end."""
        command = ["paplay", "--device", _SINK, str(path)]
        return subprocess.Popen(command, env={**os.environ, **self.env})

    def unplug(self) -> None:
        """Kill the daemon: to whoever records, the device is gone."""
        self._daemon.kill()
        self._daemon.wait()


def missing_programs() -> list[str]:
    """What `null_sink` needs and this machine lacks."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


@contextmanager
def null_sink(folder: Path, *, rate_hz: int = 48_000) -> Iterator[NullSink]:
    """Run the daemon in `folder`, which is to be short (a socket's path has 100 characters) and empty.

    Raises ConfigurationError when a program is missing or the daemon does not come up.
    """
    if absent := missing_programs():
        raise ConfigurationError(f"no {', '.join(absent)}; install it: apt-get install pulseaudio pulseaudio-utils")
    folder.chmod(0o700)
    socket = folder / "native"
    env = {
        "PULSE_SERVER": f"unix:{socket}",
        "PULSE_RUNTIME_PATH": str(folder),
        "PULSE_STATE_PATH": str(folder),
        "PULSE_COOKIE": str(folder / "cookie"),
    }
    script = folder / "sink.pa"
    script.write_text(
        f"load-module module-native-protocol-unix socket={socket} auth-anonymous=1\n"
        f"load-module module-null-sink sink_name={_SINK} rate={rate_hz} channels=1 format=s16le\n"
        f"set-default-sink {_SINK}\n"
        f"set-default-source {_SINK}.monitor\n"
    )
    daemon = _start(folder, script, env)
    sink = NullSink(daemon, env)
    try:
        _wait_until_it_answers(daemon, env, folder / "log")
        yield sink
    finally:
        daemon.terminate()
        daemon.wait()


def _start(folder: Path, script: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    command = [
        "pulseaudio",
        "-n",
        "--daemonize=no",
        "--use-pid-file=no",
        "--disable-shm=true",
        "--exit-idle-time=-1",
        "--log-target=stderr",
        f"--file={script}",
    ]
    # The daemon itself must not take PULSE_SERVER for a server to be a client of; HOME keeps it out of the user's.
    own = {name: value for name, value in env.items() if name != "PULSE_SERVER"} | {"HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log)


def _wait_until_it_answers(daemon: subprocess.Popen[bytes], env: Mapping[str, str], log: Path) -> None:
    # `pactl` waits for the socket itself only where autospawn is on, so it is asked until it answers.
    for _ in range(int(_START_TIMEOUT_S / 0.1)):
        answer = subprocess.run(["pactl", "info"], env={**os.environ, **env}, capture_output=True, check=False)
        if answer.returncode == 0:
            return
        try:
            daemon.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    daemon.kill()
    raise ConfigurationError(f"PulseAudio did not come up: {log.read_text(errors='replace')[-500:]}")
