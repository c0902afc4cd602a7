"""The shipped English recognizer: streaming equals offline, company does not matter, and what it writes.

The fixtures are sentences read by espeak-ng; where it is missing these tests are skipped with that reason.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import bundle
from models.contract import StreamModel, state_bytes
from models.speech import corpora
from models.speech.decoder import Decoder, Hypothesis
from models.speech.evaluate import (
    Errors,
    demo,
    digit_strings,
    flushed,
    offline_log_probs,
    sentences,
    streamed_log_probs,
    transcribed,
)
from models.speech.load import load_decoder
from models.speech.model import CtcLstm
from models.speech.synthesis import Reading, available, speak

SPEAKS = pytest.mark.skipif(not available("espeak-ng"), reason="espeak-ng, which reads the fixtures, is not installed")


def has_data() -> bool:
    try:
        return corpora.data_folder().is_dir()
    except FileNotFoundError:
        return False


NEEDS_DATA = pytest.mark.skipif(not has_data(), reason="the recordings of STREAMER_DATA are not here")

GOLDEN = {
    "one two three four five": "one two three four five",
    "the man was very tired": "the man was very tired",
}
"""What is said, and what the shipped weights write of it."""


@cache
def packaged() -> bundle.Bundle:
    return bundle.load("speech-en")


def model() -> CtcLstm:
    return cast(CtcLstm, packaged().model)


@cache
def decoder() -> Decoder[Any]:
    return load_decoder(packaged())


@cache
def fixture(text: str = "one two three four five", voice: str = "en-us", speed: float = 0.9) -> Tensor:
    """A synthesised sentence with the silence behind it, (n,)."""
    return torch.from_numpy(flushed(speak(Reading(text, "espeak-ng", voice, speed))))


def heard(signal: Tensor, sizes: list[int]) -> Hypothesis:
    """The transcript of a signal cut into chunks of `sizes`, the rest last."""
    state, words = model().init_state(1), decoder().initial()
    for size in [*sizes, len(signal)]:
        chunk, signal = signal[:size], signal[size:]
        outputs, state = model().step(chunk[None, :, None], torch.tensor([len(chunk)]), state)
        words = decoder().advance(words, outputs["log_probs"][0, : int(outputs["lengths"][0])].numpy())
    return decoder().final(words)


def test_the_model_keeps_the_contract_and_a_small_state() -> None:
    assert isinstance(packaged().model, StreamModel)
    signature = packaged().model.signature
    assert (signature.rate_hz, signature.chunk_samples, signature.samples_per_frame) == (16_000, 1_600, 480)
    assert state_bytes(packaged().model) == 3 * 512 * 2 * 4 + 719 * 4 + 8


@SPEAKS
def test_streaming_in_100_ms_chunks_equals_plain_torch_over_the_whole_signal() -> None:
    samples = fixture().numpy()
    streamed, whole = streamed_log_probs(model(), samples), offline_log_probs(model(), samples)
    frames = min(len(streamed), len(whole))
    assert abs(len(streamed) - len(whole)) <= 1
    torch.testing.assert_close(
        torch.from_numpy(streamed[:frames]).exp(), torch.from_numpy(whole[:frames]).exp(), atol=1e-5, rtol=0
    )


@SPEAKS
@settings(deadline=None, max_examples=8)
@given(sizes=st.lists(st.integers(1, 9_000), max_size=12))
def test_any_chunking_gives_the_same_words_at_the_same_times(sizes: list[int]) -> None:
    chunked, whole = heard(fixture(), sizes), heard(fixture(), [])
    assert chunked.text == whole.text
    assert [w.start_frame for w in chunked.words] == [w.start_frame for w in whole.words]
    assert [w.end_frame for w in chunked.words] == [w.end_frame for w in whole.words]


@SPEAKS
def test_a_stream_gets_the_same_posteriors_in_company_as_alone() -> None:
    signals = [fixture(), fixture("zero nine eight", "en-gb"), fixture("where is the key")]
    x = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True, padding_value=float("nan"))[..., None]
    lengths = torch.tensor([len(signal) for signal in signals])
    together, _ = model().step(x, lengths, model().init_state(3))
    for row, signal in enumerate(signals):
        alone, _ = model().step(signal[None, :, None], lengths[row : row + 1], model().init_state(1))
        frames = int(together["lengths"][row])
        assert frames == int(alone["lengths"][0])
        torch.testing.assert_close(
            together["log_probs"][row, :frames].exp(), alone["log_probs"][0, :frames].exp(), atol=1e-5, rtol=0
        )


@SPEAKS
@pytest.mark.parametrize("said", GOLDEN)
def test_a_synthesised_sentence_is_written_as_it_was_when_the_model_was_packaged(said: str) -> None:
    assert heard(fixture(said), [1_600] * 20).text == GOLDEN[said]


@SPEAKS
def test_silence_is_written_as_nothing() -> None:
    assert heard(torch.zeros(160_000), [1_600] * 100).text == ""


@SPEAKS
def test_the_demo_is_understood_though_its_voice_and_its_sentences_were_not_in_training() -> None:
    errors = Errors()
    for spoken in demo():
        errors.add(spoken.text.split(), transcribed(decoder(), streamed_log_probs(model(), spoken.samples)).split())
    assert errors.rate <= 0.25


@pytest.mark.data
@NEEDS_DATA
def test_unseen_read_sentences_are_no_worse_than_the_card_says() -> None:
    errors = Errors()
    for spoken in sentences(corpora.kathleen("dev")):
        errors.add(spoken.text.split(), transcribed(decoder(), streamed_log_probs(model(), spoken.samples)).split())
    assert errors.rate <= 0.5  # the card: 48.4 %


@pytest.mark.data
@NEEDS_DATA
def test_at_most_one_in_twenty_joined_digits_is_wrong() -> None:
    errors = Errors()
    for spoken in digit_strings("test"):
        errors.add(spoken.text.split(), transcribed(decoder(), streamed_log_probs(model(), spoken.samples)).split())
    assert errors.rate <= 0.05
