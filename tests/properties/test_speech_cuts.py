"""Promise 1 through the whole worker: however speech is cut into audio records, its finals are the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache

import numpy as np
import soxr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import streamer
from tests.hearing import RATE_HZ, SPEAKS, finals, pcm_of, records, said

RATES_HZ = (RATE_HZ, 44_100)


@cache
def two_sentences(rate_hz: int) -> NDArray[np.int16]:
    """Speech with a pause long enough to end a segment, as a source of this sample rate records it."""
    pause = np.zeros(14_400, np.float32)
    signal = np.concatenate([said("seven two"), pause, said("where is the key")])
    return pcm_of(signal if rate_hz == RATE_HZ else soxr.resample(signal, RATE_HZ, rate_hz))


def heard(rate_hz: int, sizes: Sequence[int]) -> list[streamer.FinalTranscript]:
    return asyncio.run(finals(records(two_sentences(rate_hz), sizes, rate_hz)))


@cache
def heard_whole(rate_hz: int) -> list[streamer.FinalTranscript]:
    return heard(rate_hz, [])


SIZES = st.one_of(
    st.integers(200, 5_000).map(lambda size: [size] * (200_000 // size)),
    st.lists(st.integers(1, 40_000), max_size=12),
    st.lists(st.integers(1, 30), min_size=20, max_size=60),
)


@SPEAKS
@settings(max_examples=20, deadline=None)
@given(st.sampled_from(RATES_HZ), SIZES)
@example(RATE_HZ, [1_600] * 40)
def test_any_cut_into_records_gives_the_same_finals_with_the_same_times(rate_hz: int, sizes: list[int]) -> None:
    whole = heard_whole(rate_hz)
    assert [final.text for final in whole] == ["seven two", "where is the key"]
    assert [placed(final) for final in heard(rate_hz, sizes)] == [placed(final) for final in whole]


def placed(final: streamer.FinalTranscript) -> tuple[object, ...]:
    """What was said and when, to the millisecond."""
    return final.segment, final.start_s, final.end_s, [(word.text, word.start_s, word.end_s) for word in final.words]
