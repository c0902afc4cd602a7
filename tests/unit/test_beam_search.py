"""The compiled beam search: the same bits as the search in plain Python, from any state, on any threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models import bundle
from models.contract import ModelError
from models.speech import beam_kernel, ngram
from models.speech.beam import BeamDecoder, Search
from models.speech.beam_tables import language_of
from models.speech.beam_work import KEPT_HISTORIES
from models.speech.lexicon import lexicon_of
from models.speech.load import load_decoder
from models.speech.ngram import NGram
from models.speech.text import BLANK, VOCABULARY, encode
from tests.unit.beam_reference import ReferenceSearch

LogProbs = NDArray[np.float32]
SENTENCES = ["a bad cab", "add a bead", "be a cad", "a cab a day", "dad bade a bee", "abba be bad", "a bee"]
LETTERS = encode(" abcdey")
WIDE = Search(beam=700, beam_nats=500.0, label_nats=60.0)


@cache
def model() -> NGram:
    sentences = [sentence.split() for sentence in SENTENCES]
    return ngram.estimate(sentences, sorted({word for sentence in sentences for word in sentence}), trigram_cut=0)


def pair(search: Search) -> tuple[BeamDecoder, ReferenceSearch]:
    lexicon = lexicon_of(model())
    return BeamDecoder(model(), lexicon, search), ReferenceSearch(model(), lexicon, search)


def normalised(logits: NDArray[np.float64]) -> LogProbs:
    scaled: NDArray[np.float64] = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return scaled.astype(np.float32)


def babble(frames: int, seed: int) -> LogProbs:
    """Somebody who may be saying anything that the lexicon's letters write; (F, V)."""
    draw = np.random.default_rng(seed)
    logits = np.full((frames, VOCABULARY), -9.0)
    logits[:, LETTERS] = draw.normal(0.0, 3.0, (frames, len(LETTERS)))
    logits[:, BLANK] = draw.normal(2.0, 4.0, frames)
    return normalised(logits)


def mumbled(text: str, seed: int) -> LogProbs:
    """Somebody who says `text` unclearly, each letter twice as likely as a few others; (F, V)."""
    path = [label for one in encode(text) for label in (one, one, BLANK)]
    logits = np.random.default_rng(seed).normal(0.0, 2.0, (len(path), VOCABULARY))
    logits[np.arange(len(path)), path] += 5.0
    return normalised(logits)


SEARCHES = st.builds(
    Search,
    lm_weight=st.floats(0.0, 2.0),
    word_score=st.floats(-2.0, 2.0),
    beam=st.integers(1, 40),
    beam_nats=st.floats(1.0, 40.0),
    label_nats=st.floats(1.0, 20.0),
    skip_blank=st.sampled_from([0.9, 0.999, 2.0]),
    blank_nats=st.floats(0.0, 3.0),
)


@settings(deadline=None, max_examples=60)
@given(search=SEARCHES, seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 60), max_size=10))
def test_whatever_the_settings_the_state_has_the_bits_of_the_search_in_plain_python(
    search: Search, seed: int, cuts: list[int]
) -> None:
    decoder, reference = pair(search)
    log_probs = babble(60, seed)
    state = decoder.initial()
    for chunk in np.split(log_probs, sorted(cuts)):
        state = decoder.advance(state, chunk)
    assert state == reference.advance(decoder.initial(), log_probs)


def test_minutes_of_speech_whose_histories_are_collected_many_times_have_the_same_bits() -> None:
    decoder, reference = pair(Search(beam=12))
    state = expected = decoder.initial()
    for seed in range(6):
        log_probs = babble(400, seed)
        state, expected = decoder.advance(state, log_probs), reference.advance(expected, log_probs)
        assert state == expected
    assert int(state.past_index[:, 0].max()) > 100


def test_a_segment_of_more_words_than_a_call_has_room_for_has_the_same_bits() -> None:
    decoder, reference = pair(Search(beam=5))
    log_probs = mumbled("a bad cab " * 150, seed=0)
    state = decoder.advance(decoder.initial(), log_probs)
    assert len(state.past_index) > 2 * (KEPT_HISTORIES + decoder.search.beam)
    assert state == reference.advance(decoder.initial(), log_probs)


def test_a_state_of_a_wider_search_goes_on_in_a_narrower_one() -> None:
    wide, _ = pair(WIDE)
    narrow, reference = pair(Search(beam=4))
    state = narrow.restore(wide.advance(wide.initial(), babble(6, seed=1)).to_arrays())
    assert len(state.beam_index) > 100
    assert narrow.advance(state, babble(20, seed=2)) == reference.advance(state, babble(20, seed=2))


@pytest.mark.parametrize("seed", range(3))
def test_the_shipped_lexicon_and_language_model_give_the_same_bits(seed: int) -> None:
    decoder = load_decoder(bundle.load("speech-en"))
    assert isinstance(decoder, BeamDecoder)
    reference = ReferenceSearch(decoder.model, decoder.lexicon, decoder.search)
    log_probs = mumbled("the man was very tired and it was late in the evening", seed)
    state = decoder.advance(decoder.initial(), log_probs)
    assert state == reference.advance(decoder.initial(), log_probs)
    assert len(decoder.final(state).words) > 5


@settings(deadline=None)
@given(st.data())
def test_the_compiled_language_model_scores_as_the_one_in_python(data: st.DataObject) -> None:
    language, size = language_of(model()), model().size
    context, word = data.draw(st.integers(0, size * size - 1)), data.draw(st.integers(0, size - 1))
    assert beam_kernel.score(language, context, word) == model().score(context, word)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 1e-300]) | st.floats(0.0, 1.0), max_size=400))
def test_ranking_is_by_falling_mass_and_equal_masses_keep_their_order(masses: list[float]) -> None:
    total, order = np.tile(np.array(masses), (2, 1)), np.tile(np.arange(len(masses)), (2, 1))
    side = beam_kernel.rank(order, total, len(masses))
    assert order[side].tolist() == np.argsort(-np.array(masses), kind="stable").tolist()


def test_threads_that_share_a_decoder_find_what_each_would_find_alone() -> None:
    decoder, _ = pair(Search(beam=20))
    streams = [babble(300, seed) for seed in range(8)]
    alone = [decoder.advance(decoder.initial(), log_probs) for log_probs in streams]

    def spoken(log_probs: LogProbs) -> object:
        state = decoder.initial()
        for start in range(0, len(log_probs), 3):
            state = decoder.advance(state, log_probs[start : start + 3])
        return state

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(spoken, streams)) == alone


def test_a_frame_in_which_no_word_can_go_on_is_passed_over() -> None:
    decoder, _ = pair(Search())
    state = decoder.advance(decoder.initial(), babble(10, seed=0))
    impossible = np.full((1, VOCABULARY), -np.inf, np.float32)
    impossible[0, encode("q")] = 0.0
    passed = decoder.advance(state, impossible)
    assert passed == replace(state, clock=state.clock.heard(*encode("q")))
    assert decoder.advance(passed, babble(10, seed=1)) != passed


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.5])
@pytest.mark.parametrize("at", [(0, 0), (1, VOCABULARY - 1)])
def test_a_value_that_is_no_log_probability_is_refused(value: float, at: tuple[int, int]) -> None:
    decoder, _ = pair(Search())
    log_probs = babble(3, seed=0)
    log_probs[at] = value
    with pytest.raises(ValueError, match="log_probs: a value is above 0 or not a number"):
        decoder.advance(decoder.initial(), log_probs)


@pytest.mark.parametrize(
    "log_probs",
    [
        np.zeros((3, VOCABULARY), np.float64),
        np.zeros((3, VOCABULARY - 1), np.float32),
        np.zeros((3, VOCABULARY + 1), np.float32),
        np.zeros(VOCABULARY, np.float32),
        np.zeros((1, 3, VOCABULARY), np.float32),
    ],
)
def test_log_probabilities_of_another_type_or_shape_are_refused(log_probs: LogProbs) -> None:
    decoder, _ = pair(Search())
    with pytest.raises(ValueError, match=r"log_probs: .* is not float32 \(frames, 29\)"):
        decoder.advance(decoder.initial(), log_probs)


def test_log_probabilities_may_lie_in_memory_as_they_like() -> None:
    decoder, _ = pair(Search())
    log_probs = babble(30, seed=0)
    expected = decoder.advance(decoder.initial(), log_probs)
    read_only = log_probs.copy()
    read_only.flags.writeable = False
    for laid in (np.asfortranarray(log_probs), np.repeat(log_probs, 2, axis=0)[::2], read_only):
        assert decoder.advance(decoder.initial(), laid) == expected


def test_a_beam_that_keeps_no_prefix_is_refused() -> None:
    with pytest.raises(ModelError, match="a beam of 0 keeps no prefix"):
        Search(beam=0)


def test_a_lexicon_of_another_language_model_is_refused() -> None:
    small = ngram.estimate([["a", "bad"], ["a"]], ["a", "bad"])
    with pytest.raises(ModelError, match="the lexicon writes word 1"):
        BeamDecoder(small, lexicon_of(model()))
