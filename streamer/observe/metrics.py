"""Counters, gauges and histograms in this process. Knows no exporter: `snapshot` is plain data.

A handle is looked up once and then used per batch; every handle may be used from any thread.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import TypeVar

_GROWTH = 1.05
"""Each histogram bucket is 5 % wider than the one below, so a quantile is within 2.5 % of the true one."""
_LOG_GROWTH = math.log(_GROWTH)

Labels = tuple[tuple[str, str], ...]


class Counter:
    """A number that only rises."""

    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value = 0

    @property
    def value(self) -> int:
        return self._value

    def add(self, n: int = 1) -> None:
        """Raises ValueError for a negative `n`."""
        if n < 0:
            raise ValueError(f"a counter only rises, not by {n}")
        with self._lock:
            self._value += n

    def read(self) -> float:
        return self._value


class Gauge:
    """A number as it is now."""

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value = 0.0

    @property
    def value(self) -> float:
        return self._value

    def set(self, value: float) -> None:
        self._value = value

    def read(self) -> float:
        return self._value


class Histogram:
    """How values are spread, in buckets of 5 %; memory is bounded by the range of the values, not their number."""

    __slots__ = ("_buckets", "_count", "_lock", "_maximum", "_sum")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[int | None, int] = {}
        self._count = 0
        self._sum = 0.0
        self._maximum = 0.0

    @property
    def count(self) -> int:
        return self._count

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`; values of 0 or less share one bucket. Raises ValueError for NaN and infinities."""
        if not math.isfinite(value):
            raise ValueError(f"cannot count {value}")
        bucket = math.floor(math.log(value) / _LOG_GROWTH) if value > 0 else None
        with self._lock:
            self._buckets[bucket] = self._buckets.get(bucket, 0) + times
            self._count += times
            self._sum += value * times
            self._maximum = max(self._maximum, value)

    def quantile(self, q: float) -> float:
        """The value that a share `q` of all values does not exceed; 0 before the first."""
        with self._lock:
            buckets = sorted(self._buckets.items(), key=lambda item: (item[0] is not None, item[0] or 0))
            rank, maximum = q * self._count, self._maximum
        seen = 0
        for bucket, count in buckets:
            seen += count
            if seen >= rank:
                middle = 0.0 if bucket is None else math.exp((bucket + 0.5) * _LOG_GROWTH)
                return min(middle, maximum)
        return 0.0

    def read(self) -> dict[str, float]:
        """count, sum, max, p50, p99."""
        return {
            "count": self._count,
            "sum": self._sum,
            "max": self._maximum,
            "p50": self.quantile(0.5),
            "p99": self.quantile(0.99),
        }


Metric = Counter | Gauge | Histogram
M = TypeVar("M", Counter, Gauge, Histogram)


class Metrics:
    """All metrics of one process by name and labels; the same name and labels give the same handle."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._metrics: dict[tuple[str, Labels], Metric] = {}

    def counter(self, name: str, **labels: str) -> Counter:
        return self._get(Counter, name, labels)

    def gauge(self, name: str, **labels: str) -> Gauge:
        return self._get(Gauge, name, labels)

    def histogram(self, name: str, **labels: str) -> Histogram:
        return self._get(Histogram, name, labels)

    def snapshot(self) -> dict[str, float | dict[str, float]]:
        """Every metric as `name{label="value"}`: a number, or a histogram's count, sum, max, p50 and p99."""
        with self._lock:
            metrics = sorted(self._metrics.items(), key=lambda item: item[0])
        return {_title(name, labels): metric.read() for (name, labels), metric in metrics}

    def _get(self, make: Callable[[], M], name: str, labels: dict[str, str]) -> M:
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            metric = self._metrics.get(key)
            if metric is None:
                metric = self._metrics[key] = make()
        if type(metric) is not make:
            raise ValueError(f"metric {name!r} is a {type(metric).__name__.lower()} already")
        return metric  # type: ignore[return-value]


def _title(name: str, labels: Labels) -> str:
    inner = ",".join(f'{label}="{value}"' for label, value in labels)
    return f"{name}{{{inner}}}" if inner else name
