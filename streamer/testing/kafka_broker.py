"""A real Apache Kafka on this machine without Docker: for tests, and for `make kafka`.

    python -m streamer.testing.kafka_broker --port 9092 --data ~/kafka-data

Maven resolves the jars named in `deploy/kafka/pom.xml` once into `.kafka/libs`; a single KRaft node then runs on
127.0.0.1. Needs Java 17 or later and, the first time, Maven. Knows no client library.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from streamer.errors import ConfigurationError, LogUnavailable
from streamer.testing.kafka_properties import Seat, SecureListener, server_properties

_ROOT = Path(__file__).resolve().parents[2]
_POM = _ROOT / "deploy" / "kafka" / "pom.xml"
_LIBS = _ROOT / ".kafka" / "libs"
_STARTED = "Kafka Server started"
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
_PORTS = (15_000, 32_000)


def missing_tools() -> str:
    """What this machine lacks to run a broker, as a sentence with its remedy; empty when nothing."""
    if shutil.which("java") is None:
        return "Java is not installed: `apt-get install openjdk-17-jre-headless` (or any Java 17 or later)"
    if shutil.which("mvn") is None and not _libs_are_there():
        return "Maven, which fetches Apache Kafka, is not installed: `apt-get install maven`"
    return ""


@dataclass
class KafkaBroker:
    """One broker process. Use as a context manager, or `start` and `stop`; it can be started again on its data.

    port: 0 picks a free one. data: a folder for its logs, a temporary one when None. heap_mb: the Java heap.
    users: names with their passwords for the SASL_PLAINTEXT listener; giving any turns on access control.
    eager: retention and compaction run within a second, for tests. secure: more listeners, by a name in capitals.
    behind: port of a proxy through which clients of one more listener, without security, are to come.
    seat: its place in a cluster; None for a cluster of one. Start it on a thread that lives as long as it.
    """

    port: int = 0
    data: Path | None = None
    heap_mb: int = 512
    users: dict[str, str] = field(default_factory=dict)
    eager: bool = False
    sasl_port: int = 0
    secure: Mapping[str, SecureListener] = field(default_factory=dict)
    behind: int | None = None
    seat: Seat | None = None
    _more_ports: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _temporary: Path | None = field(default=None, init=False, repr=False)

    @property
    def bootstrap(self) -> str:
        """`host:port` without security."""
        return f"127.0.0.1:{self.port}"

    @property
    def sasl_bootstrap(self) -> str:
        """`host:port` of the listener that asks for user and password (SASL_PLAINTEXT, PLAIN)."""
        return f"127.0.0.1:{self.sasl_port}"

    def secure_bootstrap(self, name: str) -> str:
        """`host:port` of one of the `secure` listeners, once it is started."""
        return f"127.0.0.1:{self._more_ports[name]}"

    @property
    def behind_port(self) -> int:
        """Where the proxy is to connect to, once it is started."""
        return self._more_ports["BEHIND"]

    def start(self) -> None:
        """Start and wait until it answers. Raises ConfigurationError (Java or Maven missing), LogUnavailable."""
        self.launch()
        self.wait_until_started()

    def launch(self) -> None:
        """Start without waiting. Raises ConfigurationError, LogUnavailable (its folder cannot be used)."""
        if lacking := missing_tools():
            raise ConfigurationError(lacking)
        resolve_libs()
        if self.data is None:
            self.data = self._temporary = Path(tempfile.mkdtemp(prefix="streamer-kafka-"))
        self.data.mkdir(parents=True, exist_ok=True)
        self._write_properties(self.data)
        if not (self.data / "logs" / "meta.properties").exists():
            self._format(self.data)
        self._process = self._java("kafka.Kafka", [str(self.data / "server.properties")], "broker.log")

    def stop(self) -> None:
        """Stop in an orderly way, and by force when that takes too long. The data stay."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End at once, as a power cut would."""
        self._end(signal.SIGKILL)

    def suspend(self) -> None:
        """SIGSTOP: its connections stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def wait(self) -> int:
        """Wait until the broker ends by itself."""
        return self._process.wait() if self._process else 0

    def __enter__(self) -> Self:
        try:
            self.start()
        except (ConfigurationError, LogUnavailable):
            self._remove_temporary()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._remove_temporary()

    def _remove_temporary(self) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _format(self, data: Path) -> None:
        cluster = self.seat.cluster if self.seat else new_cluster_id()
        # One argument: an id may begin with a dash.
        arguments = ["format", f"--cluster-id={cluster}", "--config", str(data / "server.properties")]
        arguments += [scram for listener in self.secure.values() for scram in listener.scram()]
        if self._java("kafka.tools.StorageTool", arguments, "format.log").wait():
            said = (data / "format.log").read_text(errors="replace")
            raise LogUnavailable(f"Kafka could not format {data}:\n{said[-1000:]}")

    def _write_properties(self, data: Path) -> None:
        """The file, with a free port for every listener that has none yet."""
        self.port = self.port or free_port()
        ports = {"PLAINTEXT": self.port}
        if self.users:
            ports["SASL_PLAINTEXT"] = self.sasl_port = self.sasl_port or free_port()
        for name in [*self.secure, *(["BEHIND"] if self.behind is not None else [])]:
            ports[name] = self._more_ports.setdefault(name, free_port())
        text = server_properties(
            self.seat or Seat(1, {1: free_port()}, ""),
            ports,
            data / "logs",
            told={} if self.behind is None else {"BEHIND": self.behind},
            users=self.users,
            secure=self.secure,
            eager=self.eager,
        )
        (data / "server.properties").write_text(text)

    def _java(self, main: str, arguments: list[str], log_name: str) -> subprocess.Popen[bytes]:
        """A Java process in a group of its own, which ends when the thread that started it ends."""
        assert self.data is not None
        command = [
            *(["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []),
            *("java", f"-Xmx{self.heap_mb}M", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Djava.awt.headless=true"),
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
            *("-cp", f"{_LIBS}/*", main, *arguments),
        ]
        with (self.data / log_name).open("wb") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait_until_started(self) -> None:
        """Wait until it answers. Raises LogUnavailable when it ended, or did not in time."""
        assert self._process is not None
        assert self.data is not None
        log = self.data / "broker.log"
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        with log.open(errors="replace") as text:
            while _STARTED not in _all_of(text):
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    self.kill()
                    last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                    raise LogUnavailable(f"Kafka did not start at {self.bootstrap}; the end of {log}:\n{last}")
                time.sleep(0.05)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        os.killpg(process.pid, how)
        os.killpg(process.pid, signal.SIGCONT)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _signal(self, which: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, which)


def resolve_libs() -> None:
    """Fetch Apache Kafka's jars by Maven unless they are there. Raises ConfigurationError."""
    if _libs_are_there():
        return
    if not _POM.exists():
        raise ConfigurationError(f"{_POM} is missing: the local broker needs a checkout of the project")
    partial = _LIBS.with_name(f"libs-{os.getpid()}")
    command = ["mvn", "-B", "-q", "-f", str(_POM), "dependency:copy-dependencies", f"-DoutputDirectory={partial}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(partial, ignore_errors=True)
        raise ConfigurationError(f"Maven could not fetch Apache Kafka:\n{done.stdout[-2000:]}{done.stderr[-500:]}")
    shutil.copy(_POM, partial / _POM.name)
    shutil.rmtree(_LIBS, ignore_errors=True)
    partial.rename(_LIBS)  # whole or not at all


def new_cluster_id() -> str:
    """What all brokers of a cluster have in common."""
    return urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now.

    None of those that the system gives to outgoing connections: who tries again and again to reach a broker that is
    away would at last be connected to itself, and the broker could not come back.
    """
    while True:
        port = random.randrange(*_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _libs_are_there() -> bool:
    resolved_for = _LIBS / _POM.name
    return resolved_for.exists() and (not _POM.exists() or resolved_for.read_bytes() == _POM.read_bytes())


def _all_of(text: IO[str]) -> str:
    text.seek(0)
    return text.read()


def main() -> None:
    """Run one broker in the foreground until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m streamer.testing.kafka_broker", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="TCP port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--data", type=Path, help="folder for its data (default: a temporary one, removed at the end)")
    parser.add_argument("--heap-mb", type=int, default=1024, help="Java heap in MiB")
    arguments = parser.parse_args()
    for stop in (signal.SIGINT, signal.SIGTERM):  # also where a shell started it in the background
        signal.signal(stop, signal.default_int_handler)
    try:
        data = None if arguments.data is None else arguments.data.expanduser().absolute()
        with KafkaBroker(port=arguments.port, data=data, heap_mb=arguments.heap_mb) as broker:
            print(f"Apache Kafka answers at {broker.bootstrap}; Ctrl-C stops it.", flush=True)
            broker.wait()
    except (ConfigurationError, LogUnavailable) as error:
        parser.exit(1, f"{error}\n")
    except KeyboardInterrupt:
        pass  # stopped by the context manager


if __name__ == "__main__":
    main()
