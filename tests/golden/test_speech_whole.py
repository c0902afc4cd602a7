"""Promise 1 against a referee that shares no streaming code: plain torch over the whole signal, a textbook decoder.

Features by torch.stft and one nn.LSTM call (`models.speech.offline`), a prefix beam search in plain Python
(`tests.golden.textbook_ctc`). The shipped search prunes, the referee's beam of 600 hardly does: on what is spoken
clearly both find the same sentence; on what is not the shipped search may miss the likeliest one, a wider one must not.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import cast

import pytest
import torch
from numpy import float32
from numpy.typing import NDArray

from models.speech import offline
from models.speech.evaluate import flushed
from models.speech.load import load_decoder
from models.speech.model import CtcLstm
from tests.golden.textbook_ctc import TextbookDecoder, read_trigram
from tests.hearing import SPEAKS, finals, packaged, pcm_of, records, said

CLEAR = [
    ("one two three four five", "en-us"),
    ("zero nine eight", "en-gb"),
    ("seven six two", "en-gb-scotland"),
    ("the man was very tired", "en-us"),
    ("where is the key", "en-us"),
    ("he went to the door", "en-us"),
    ("she was looking at him", "en-us+f4"),
    ("he gave her the letter", "en-us"),
]
UNCLEAR = "we had bread and cheese for lunch beside the river", "en-us+f4"


@cache
def referee() -> TextbookDecoder:
    search = packaged().settings["decoder"]["search"]
    model = read_trigram(packaged().folder / "lm.npz")
    return TextbookDecoder(model, lm_weight=search["lm_weight"], blank_nats=search["blank_nats"], beam=600)


def heard_whole(text: str, voice: str) -> NDArray[float32]:
    """Log probabilities (F, V) of a spoken sentence as a record holds it, by plain torch over all of it."""
    signal = torch.from_numpy(flushed(pcm_of(said(text, voice)).astype(float32) / float32(32768)))
    return cast(NDArray[float32], offline.log_probs(cast(CtcLstm, packaged().model), signal).numpy())


@SPEAKS
@pytest.mark.parametrize(("text", "voice"), CLEAR)
async def test_a_stream_of_records_is_written_as_the_referee_writes_the_whole_signal(text: str, voice: str) -> None:
    streamed = await finals(records(pcm_of(said(text, voice)), [1_600] * 100))
    assert [final.text for final in streamed] == [referee().best_sentence(heard_whole(text, voice).tolist())]


@SPEAKS
def test_a_wider_search_finds_in_unclear_speech_what_the_referee_finds() -> None:
    log_probs = heard_whole(*UNCLEAR)
    shipped = packaged().settings["decoder"]
    search = shipped["search"] | {"beam": 400, "beam_nats": 25.0, "label_nats": 14.0}
    decoder = load_decoder(replace(packaged(), settings={"decoder": shipped | {"search": search}}))
    best = referee().best_sentence(log_probs.tolist())
    assert decoder.final(decoder.advance(decoder.initial(), log_probs)).text == best
