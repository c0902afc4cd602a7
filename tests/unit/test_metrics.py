"""Metrics: what is counted is what happened, from any thread."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.observe.metrics import Histogram, Metrics


def test_the_same_name_and_labels_are_the_same_metric() -> None:
    metrics = Metrics()
    metrics.counter("records", pipeline="a", topic="t").add(2)
    metrics.counter("records", topic="t", pipeline="a").add(3)
    metrics.counter("records", pipeline="b", topic="t").add(1)
    assert metrics.snapshot() == {'records{pipeline="a",topic="t"}': 5, 'records{pipeline="b",topic="t"}': 1}


def test_counts_from_many_threads_are_not_lost() -> None:
    counter = Metrics().counter("n")

    def count() -> None:
        for _ in range(10_000):
            counter.add()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(count) for _ in range(4)]:
            done.result()
    assert counter.value == 40_000


def test_a_counter_never_falls() -> None:
    with pytest.raises(ValueError, match="only rises"):
        Metrics().counter("n").add(-1)


def test_a_gauge_is_what_it_was_set_to_last() -> None:
    gauge = Metrics().gauge("lag")
    gauge.set(7)
    gauge.set(3.5)
    assert gauge.value == 3.5


def test_a_name_cannot_be_two_kinds_of_metric() -> None:
    metrics = Metrics()
    metrics.counter("n")
    with pytest.raises(ValueError, match="is a counter already"):
        metrics.gauge("n")


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_quantile_is_within_a_bucket_of_the_true_one(values: list[float], q: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    true = sorted(values)[max(math.ceil(q * len(values)) - 1, 0)]
    assert histogram.quantile(q) == pytest.approx(true, rel=0.03)


def test_an_empty_histogram_and_values_of_zero_have_quantile_zero() -> None:
    histogram = Histogram()
    assert histogram.quantile(0.99) == 0.0
    histogram.observe(0.0)
    assert histogram.quantile(0.99) == 0.0
    assert histogram.count == 1


def test_what_is_no_number_is_not_counted() -> None:
    with pytest.raises(ValueError, match="cannot count"):
        Histogram().observe(math.nan)
