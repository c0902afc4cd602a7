"""`python -m streamer bench`: the reference workloads of docs/bench.md as a table, or one JSON object a line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from streamer.bench.rows import Row, skipped, table

_EXAMPLE = """examples:
  python -m streamer bench --quick engine memory
  python -m streamer bench --json sensors --kafka localhost:9092 > rows.jsonl"""


@dataclass(frozen=True, slots=True)
class Setting:
    """quick: minutes become seconds. bootstrap: gives the Kafka to use, starting one the first time; raises
    ConfigurationError or LogUnavailable where there is none."""

    quick: bool
    bootstrap: Callable[[], str]


def _engine(setting: Setting) -> list[Row]:
    from streamer.bench import throughput

    return throughput.w1(throughput.QUICK if setting.quick else throughput.FULL)


def _speech(setting: Setting) -> list[Row]:
    from streamer.bench import speech, throughput

    quick = throughput.Size(batches=(64,), rounds=2, repeats=1, live_s=1.0)
    full = throughput.Size(batches=(128, 256, 512), rounds=5, repeats=1, live_s=1.0)
    return speech.w2(quick if setting.quick else full)


def _sensors(setting: Setting) -> list[Row]:
    from streamer.bench import sensors

    return sensors.w3(setting.bootstrap(), sensors.QUICK if setting.quick else sensors.FULL)


def _speakers(setting: Setting) -> list[Row]:
    from streamer.bench import speakers

    return speakers.rows(setting.bootstrap(), speakers.QUICK if setting.quick else speakers.FULL)


def _latency(setting: Setting) -> list[Row]:
    from streamer.bench import speakers

    return speakers.latency(setting.bootstrap(), speakers.QUICK if setting.quick else speakers.FULL)


def _recovery(setting: Setting) -> list[Row]:
    from streamer.bench import recovery

    return recovery.w5(setting.bootstrap(), recovery.QUICK if setting.quick else recovery.FULL)


def _memory(setting: Setting) -> list[Row]:
    from streamer.bench import memory

    return memory.idle_streams()


def _large(setting: Setting) -> list[Row]:
    from streamer.bench import gpu, throughput
    from streamer.worker.engine import pick_device

    on_gpu = pick_device("auto").type == "cuda"
    return throughput.w6(gpu.LARGE_ON_GPU if on_gpu else gpu.LARGE_ON_CPU, 12 if on_gpu else 2)


WORKLOADS: dict[str, Callable[[Setting], list[Row]]] = {
    "engine": _engine,
    "speech": _speech,
    "sensors": _sensors,
    "speakers": _speakers,
    "latency": _latency,
    "recovery": _recovery,
    "memory": _memory,
    "large": _large,
}


def main(arguments: Sequence[str]) -> int:
    """Run the chosen workloads; 0 also when a row is not met: the bench reports, tests judge."""
    parser = argparse.ArgumentParser(
        prog="python -m streamer bench",
        description="The reference workloads and their rivals.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", choices=[[], *WORKLOADS], metavar="NAME", help=", ".join(WORKLOADS))
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter: to see that all of it runs")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a running Kafka (default: start one)")
    chosen = parser.parse_args(arguments)
    rows: list[Row] = []
    with _kafka(chosen.kafka) as bootstrap:
        for name in chosen.names or WORKLOADS:
            if not chosen.json:
                print(f"{name} ...", file=sys.stderr, flush=True)
            for row in _rows(name, Setting(chosen.quick, bootstrap)):
                rows.append(row)
                if chosen.json:
                    print(row.as_json(), flush=True)
    if not chosen.json:
        print(table(rows))
    return 0


def _rows(name: str, setting: Setting) -> list[Row]:
    from streamer.errors import StreamerError

    try:
        return WORKLOADS[name](setting)
    except StreamerError as error:  # no Kafka, no Java: the other workloads still run
        return [skipped(name, "", str(error))]


@contextmanager
def _kafka(given: str | None) -> Iterator[Callable[[], str]]:
    """Where Kafka answers; one of our own is started when it is first asked for."""
    if given is not None:
        yield lambda: given
        return
    from streamer.testing.kafka_broker import KafkaBroker

    broker = KafkaBroker(heap_mb=1024)
    with_broker: list[KafkaBroker] = []

    def bootstrap() -> str:
        if not with_broker:
            with_broker.append(broker.__enter__())
        return broker.bootstrap

    try:
        yield bootstrap
    finally:
        if with_broker:
            broker.__exit__(None, None, None)
