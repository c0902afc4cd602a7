"""W2: 16 kHz PCM -> log-mel -> LSTM -> CTC text, beside W1's engine; the shipped decoder, beam and greedy.

Recordings are kathleen's dev split where the data folder is present, else sentences spoken by espeak-ng, else noise
(the note of a row says which): a beam works hardest on speech.
"""

from __future__ import annotations

import copy
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.bundle import load as load_bundle
from models.contract import ModelError
from models.speech import corpora, synthesis
from models.speech.demo_sentences import DEMO_SENTENCES
from models.speech.load import Kind, load_decoder
from streamer.bench.networks import FeatureLstm
from streamer.bench.rows import Row, alternating, median_ratio, seconds, skipped
from streamer.bench.throughput import Pool, Size
from streamer.options import EngineOptions
from streamer.worker.engine import Engine

Audio = NDArray[np.float32]
REACH = 0.4
CHUNK_SAMPLES = 1_600
CHUNK_S = 0.1
CHUNKS_A_RUN = 5


def recordings(count: int) -> tuple[list[Audio], str]:
    """`count` signals at 16 kHz, repeated as needed, and what they are."""
    try:
        paths = [utterance.path for utterance in corpora.kathleen("dev")][:count]
        signals, what = [corpora.read_audio(path) for path in paths], "recorded sentences"
    except FileNotFoundError:
        signals, what = _synthesised(count)
    return list(itertools.islice(itertools.cycle(signals), count)), what


def _synthesised(count: int) -> tuple[list[Audio], str]:
    if synthesis.available("espeak-ng"):
        readings = [synthesis.Reading(text, "espeak-ng", "en-gb") for text in DEMO_SENTENCES[:count]]
        return [synthesis.speak(reading) for reading in readings], "synthesised sentences"
    noise = np.random.default_rng(0).standard_normal((4, 5 * 16_000), dtype=np.float32)
    return [0.05 * row for row in noise], "noise"


class Recogniser:
    """Many streams through engine and decoder, in steps of one chunk each."""

    def __init__(self, bundle: Bundle, kind: Kind | None, signals: Sequence[Audio], device: str) -> None:
        """kind: None steps the network alone."""
        batch = len(signals)
        options = EngineOptions(device=device, dtype="bfloat16", max_batch=batch, slots=4 * batch)
        self._engine = Engine(copy.deepcopy(bundle.model), options)
        self._slots = np.random.default_rng(0).permutation(4 * batch)[:batch]
        self._signals = signals
        self._decoder = load_decoder(bundle, kind) if kind else None
        self._states: list[Any] = [self._decoder.initial() for _ in signals] if self._decoder else []
        self._position = 0

    def advance(self) -> None:
        """`CHUNKS_A_RUN` chunks of every stream; each signal starts again when it is over."""
        for _ in range(CHUNKS_A_RUN):
            chunks = [_chunk(signal, self._position) for signal in self._signals]
            self._position += CHUNK_SAMPLES
            result = self._engine.step(self._slots, chunks)
            if self._decoder:
                self._decode(result.outputs["log_probs"], result.lengths)

    def _decode(self, log_probs: NDArray[Any], lengths: NDArray[np.int64]) -> None:
        assert self._decoder is not None
        for row, state in enumerate(self._states):
            state = self._decoder.advance(state, log_probs[row, : lengths[row]])
            ended = self._decoder.is_endpoint(state)
            self._states[row] = self._decoder.next_segment(state) if ended else state


def _rate(signal_s: float, work: Callable[[], None]) -> Callable[[], float]:
    """Seconds of signal a second."""
    return lambda: signal_s / seconds(work)


def _chunk(signal: Audio, position: int) -> Audio:
    start = position % (len(signal) - CHUNK_SAMPLES)
    return signal[start : start + CHUNK_SAMPLES, None]


def w2(size: Size) -> list[Row]:
    """Streams of whole recognition over W1's, each at its best batch size, in turn."""
    try:
        bundle = load_bundle("speech-en")
        kinds: tuple[Kind, ...] = ("beam", "greedy")
        load_decoder(bundle)
    except ModelError as error:
        return [skipped("W2 speech", "streams", str(error))]
    signals, what = recordings(max(size.batches))
    sides: dict[str, tuple[float, Callable[[], None]]] = {}
    for batch in size.batches:
        pool = Pool(FeatureLstm(), batch, size.device)
        sides[f"W1 {batch}"] = (batch * CHUNK_S, pool.step)
        for kind in (*kinds, None):
            recogniser = Recogniser(bundle, kind, signals[:batch], size.device)
            sides[f"{kind} {batch}"] = (batch * CHUNK_S * CHUNKS_A_RUN, recogniser.advance)
    for _, work in sides.values():
        work()
    taken = alternating({name: _rate(signal_s, work) for name, (signal_s, work) in sides.items()}, size.rounds)
    best = {
        side: max((taken[f"{side} {b}"] for b in size.batches), key=statistics.median) for side in ("W1", *kinds, None)
    }
    rows = []
    for kind in (*kinds, None):
        name = f"W2 speech, {kind} decoder" if kind else "W2 speech, network alone"
        ratio = median_ratio(best[kind], best["W1"])
        value = statistics.median(best[kind])
        reach = REACH if kind == bundle.settings["decoder"]["kind"] else None
        rows.append(Row(name, value, "streams", "W1 engine", value / ratio, reach, note=f"{what}, bf16"))
    return rows
