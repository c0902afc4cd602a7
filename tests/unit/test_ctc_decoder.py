"""The streaming CTC decoders: equal to brute force, blind to chunking, pure, and their state is plain data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.contract import ModelError
from models.speech import ngram
from models.speech.beam import BeamDecoder, Search
from models.speech.decoder import Decoder
from models.speech.greedy import GreedyDecoder
from models.speech.hypothesis import Clock, Endpointing
from models.speech.lexicon import lexicon_of
from models.speech.ngram import END, NGram
from models.speech.text import BLANK, SPACE, VOCABULARY, decode, encode

LogProbs = NDArray[np.float32]
SENTENCES = ["a b", "ab a", "b ab", "ab", "a a b", "ba", "b", "ab b a", "a b"]
EVERYTHING = Search(lm_weight=0.7, word_score=0.3, beam=10_000, beam_nats=500.0, label_nats=60.0, skip_blank=2.0)


@pytest.fixture(scope="module")
def model() -> NGram:
    sentences = [sentence.split() for sentence in SENTENCES]
    return ngram.estimate(sentences, ["a", "ab", "b", "ba"], trigram_cut=0)


def posteriors(frames: int, seed: int, labels: tuple[int, ...] = (0, 1, 2, 3), sharpness: float = 1.5) -> LogProbs:
    """Random (F, V) log probabilities that use some labels only; the others are as good as impossible."""
    logits = np.full((frames, VOCABULARY), -80.0)
    logits[:, labels] = np.random.default_rng(seed).normal(0.0, sharpness, (frames, len(labels)))
    scaled: NDArray[np.float64] = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return scaled.astype(np.float32)


def logarithms(rows: NDArray[np.float64]) -> LogProbs:
    scaled: NDArray[np.float64] = np.log(rows)
    return scaled.astype(np.float32)


def said(text: str, frames_per_label: int = 2, sure: float = 0.98) -> LogProbs:
    """Posteriors of somebody who says `text` clearly: each label, then a blank."""
    path = [label for one in encode(text) for label in [one] * (frames_per_label - 1) + [BLANK]]
    rows = np.full((len(path), VOCABULARY), (1 - sure) / (VOCABULARY - 1))
    rows[np.arange(len(path)), path] = sure
    return logarithms(rows)


def silence(frames: int) -> LogProbs:
    rows = np.full((frames, VOCABULARY), 1e-6)
    rows[:, BLANK] = 1 - 28e-6
    return logarithms(rows)


def brute_force(model: NGram, search: Search, log_probs: LogProbs) -> dict[str, float]:
    """Score of every sentence over the lexicon: all label paths summed, then the language model."""
    masses: dict[str, float] = {}
    for path in itertools.product(range(4), repeat=len(log_probs)):
        text = decode([label for label, _ in itertools.groupby(path) if label != BLANK])
        words = text.split()
        if all(word in model.index for word in words):
            nats = sum(float(log_probs[frame, label]) for frame, label in enumerate(path))
            masses[" ".join(words)] = masses.get(" ".join(words), 0.0) + math.exp(nats)
    return {text: math.log(mass) + spoken_score(model, search, text.split()) for text, mass in masses.items()}


def spoken_score(model: NGram, search: Search, words: list[str]) -> float:
    context, nats = model.initial, 0.0
    for word in words:
        number = model.index[word]
        nats += search.lm_weight * model.score(context, number) + search.word_score
        context = model.following(context, number)
    return nats + search.lm_weight * model.score(context, END)


@pytest.mark.parametrize("seed", range(12))
def test_an_unpruned_beam_finds_the_sentence_that_brute_force_over_all_paths_finds(model: NGram, seed: int) -> None:
    log_probs = posteriors(6, seed)
    scores = brute_force(model, EVERYTHING, log_probs)
    decoder = BeamDecoder(model, lexicon_of(model), EVERYTHING)
    found = decoder.final(decoder.advance(decoder.initial(), log_probs)).text
    assert scores[found] == pytest.approx(max(scores.values()), abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_masses_of_the_beam_are_in_the_proportions_of_brute_force(model: NGram, seed: int) -> None:
    log_probs = posteriors(5, seed)
    scores = brute_force(model, EVERYTHING, log_probs)
    decoder = BeamDecoder(model, lexicon_of(model), EVERYTHING)
    state = decoder.advance(decoder.initial(), log_probs)
    masses: dict[str, float] = {}
    for row, mass in enumerate(decoder.closed_masses(state)):
        alone = replace(state, beam_index=state.beam_index[[row]], beam_mass=state.beam_mass[[row]])
        text = decoder.final(alone).text
        masses[text] = masses.get(text, 0.0) + mass
    best = max(scores, key=lambda text: scores[text])
    for text, score in scores.items():
        assert masses[text] / masses[best] == pytest.approx(math.exp(score - scores[best]), rel=1e-6)


def in_chunks(decoder: Decoder[Any], log_probs: LogProbs, cuts: list[int]) -> Any:
    """The state after all frames, cut at the given places."""
    state = decoder.initial()
    for chunk in np.split(log_probs, sorted(cuts)):
        state = decoder.advance(state, chunk)
    return state


KINDS = pytest.mark.parametrize("kind", ["beam", "greedy"])


def decoder_of(kind: str, model: NGram) -> Decoder[Any]:
    return BeamDecoder(model, lexicon_of(model), Search(beam=6)) if kind == "beam" else GreedyDecoder()


@KINDS
@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(0, 40), max_size=8), seed=st.integers(0, 5))
def test_any_chunking_gives_exactly_the_same_state(model: NGram, kind: str, cuts: list[int], seed: int) -> None:
    decoder, log_probs = decoder_of(kind, model), posteriors(40, seed, sharpness=3.0)
    assert in_chunks(decoder, log_probs, cuts) == in_chunks(decoder, log_probs, [])


@KINDS
def test_any_chunking_of_minutes_of_speech_gives_exactly_the_same_state(model: NGram, kind: str) -> None:
    decoder = decoder_of(kind, model)
    log_probs = np.concatenate([posteriors(500, seed, sharpness=3.0) for seed in range(3)])
    whole, chunked = in_chunks(decoder, log_probs, []), in_chunks(decoder, log_probs, list(range(0, 1_500, 7)))
    assert chunked == whole
    assert len(decoder.final(whole).words) > 100


@KINDS
@pytest.mark.parametrize("at", [0, 1, 17, 40])
def test_a_restored_state_is_the_same_state_and_goes_on_the_same(model: NGram, kind: str, at: int) -> None:
    decoder, log_probs = decoder_of(kind, model), posteriors(40, 3, sharpness=3.0)
    state = decoder.advance(decoder.initial(), log_probs[:at])
    restored = decoder.restore(state.to_arrays())
    assert restored == state
    assert decoder.advance(restored, log_probs[at:]) == decoder.advance(state, log_probs[at:])


@KINDS
def test_a_saved_state_is_numpy_arrays_of_numbers_and_integers(model: NGram, kind: str) -> None:
    decoder = decoder_of(kind, model)
    saved = decoder.advance(decoder.initial(), said("ab a")).to_arrays()
    assert all(isinstance(v, int) or v.dtype in (np.dtype(np.int64), np.dtype(np.float64)) for v in saved.values())


@KINDS
def test_advancing_leaves_the_old_state_as_it_was(model: NGram, kind: str) -> None:
    decoder = decoder_of(kind, model)
    state = decoder.advance(decoder.initial(), said("ab"))
    before = decoder.restore(state.to_arrays())
    decoder.advance(state, said(" b a"))
    assert state == before


@KINDS
def test_clear_speech_is_written_as_it_was_said(model: NGram, kind: str) -> None:
    decoder = decoder_of(kind, model)
    state = decoder.advance(decoder.initial(), said("ab b a"))
    assert decoder.final(state).text == "ab b a"
    assert decoder.partial(state).text == "ab b a"


@KINDS
def test_words_carry_the_frames_where_they_were_heard_and_their_confidence(model: NGram, kind: str) -> None:
    decoder = decoder_of(kind, model)
    state = decoder.advance(decoder.initial(), np.concatenate([silence(10), said("ab b")]))
    first, second = decoder.final(state).words
    assert (first.text, first.start_frame, first.end_frame) == ("ab", 10, 13)
    assert (second.text, second.start_frame, second.end_frame) == ("b", 16, 17)
    assert first.confidence == pytest.approx(0.98, abs=1e-4)


@KINDS
def test_a_doubled_letter_needs_a_blank_between(model: NGram, kind: str) -> None:
    model = ngram.estimate([["abba"], ["aba"]], ["abba", "aba"], trigram_cut=0)
    decoder = decoder_of(kind, model)
    assert decoder.final(decoder.advance(decoder.initial(), said("abba"))).text == "abba"
    held = np.repeat(said("aba", frames_per_label=2), 3, axis=0)
    assert decoder.final(decoder.advance(decoder.initial(), held)).text == "aba"


def test_the_language_model_decides_what_the_sound_leaves_open() -> None:
    likely = ngram.estimate([["cold", "tea"]] * 9 + [["cold", "sea"]], ["cold", "sea", "tea"], trigram_cut=0)
    decoder = BeamDecoder(likely, lexicon_of(likely))
    unclear = said("cold tea")
    frame = 2 * len("cold ")
    t, s = encode("ts")
    unclear[frame, [s, t]] = math.log(0.5), math.log(0.48)
    assert decoder.final(decoder.advance(decoder.initial(), unclear)).text == "cold tea"
    assert GreedyDecoder().final(GreedyDecoder().advance(GreedyDecoder().initial(), unclear)).text == "cold sea"


def test_a_letter_just_weaker_than_the_blank_is_written_once_the_blank_is_discounted(model: NGram) -> None:
    (letter,) = encode("b")
    rows = silence(5)
    rows[2, [BLANK, letter]] = math.log(0.8), math.log(0.2)
    plain = Search(lm_weight=0.0, word_score=0.0)
    for blank_nats, expected in ((0.0, ""), (3.0, "b")):
        decoder = BeamDecoder(model, lexicon_of(model), replace(plain, blank_nats=blank_nats))
        assert decoder.final(decoder.advance(decoder.initial(), rows)).text == expected


def test_the_beam_writes_only_words_of_its_lexicon(model: NGram) -> None:
    decoder = BeamDecoder(model, lexicon_of(model))
    state = decoder.advance(decoder.initial(), posteriors(200, 1, labels=(0, 1, 2, 3, 4)))
    assert {word.text for word in decoder.final(state).words} <= {"a", "ab", "b", "ba"}


@KINDS
def test_nothing_said_is_an_empty_hypothesis_without_an_endpoint(model: NGram, kind: str) -> None:
    decoder = decoder_of(kind, model)
    state = decoder.advance(decoder.initial(), silence(2_000))
    assert decoder.final(state).words == ()
    assert not decoder.is_endpoint(state)


@KINDS
def test_a_segment_ends_after_twenty_silent_frames_behind_words(model: NGram, kind: str) -> None:
    decoder = decoder_of(kind, model)
    state = decoder.advance(decoder.initial(), said("ab"))  # its last frame is silent already
    assert not decoder.is_endpoint(decoder.advance(state, silence(18)))
    assert decoder.is_endpoint(decoder.advance(state, silence(19)))


def test_a_segment_without_pauses_ends_when_it_is_too_long(model: NGram) -> None:
    decoder = BeamDecoder(model, lexicon_of(model), endpointing=Endpointing(silence_frames=20, longest_frames=60))
    speech = said("ab a " * 8)
    assert not decoder.is_endpoint(decoder.advance(decoder.initial(), speech[:59]))
    assert decoder.is_endpoint(decoder.advance(decoder.initial(), speech[:60]))


@KINDS
def test_the_next_segment_knows_no_words_of_the_last_but_its_frames_go_on(model: NGram, kind: str) -> None:
    decoder = decoder_of(kind, model)
    state = decoder.next_segment(decoder.advance(decoder.initial(), np.concatenate([said("ab"), silence(30)])))
    assert decoder.final(state).words == ()
    (word,) = decoder.final(decoder.advance(state, said("b"))).words
    assert (word.text, word.start_frame) == ("b", 34)


def test_the_state_of_a_long_segment_stays_small(model: NGram) -> None:
    decoder = BeamDecoder(model, lexicon_of(model), Search(beam=16))
    state = decoder.initial()
    for seed in range(10):
        state = decoder.advance(state, posteriors(300, seed, sharpness=3.0))
        assert len(state.beam_index) <= 16


def test_probabilities_of_the_next_word_sum_to_one_in_every_kind_of_context(model: NGram) -> None:
    words = [number for number, word in enumerate(model.words) if word != "<s>"]
    contexts = [model.initial]
    for sentence in (["a"], ["a", "b"], ["b", "b"], ["ba", "ba"]):
        context = model.initial
        for word in sentence:
            context = model.following(context, model.index[word])
        contexts.append(context)
    for context in contexts:
        assert sum(math.exp(model.score(context, word)) for word in words) == pytest.approx(1.0, abs=1e-3)


def test_a_saved_language_model_scores_as_before(model: NGram, tmp_path: Path) -> None:
    model.save(tmp_path / "lm.npz")
    loaded = ngram.load(tmp_path / "lm.npz")
    assert loaded.words == model.words
    for context in (model.initial, model.following(model.initial, model.index["a"])):
        for word in range(model.size):
            assert loaded.score(context, word) == pytest.approx(model.score(context, word), abs=0.01)


def test_a_file_that_is_no_language_model_is_named_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "lm.npz"
    path.write_bytes(b"no numbers here")
    with pytest.raises(ModelError, match=r"lm\.npz: not a language model"):
        ngram.load(path)


@pytest.mark.parametrize(
    ("name", "damaged", "reason"),
    [
        ("bigram", lambda table: table[:-1], "bigram has the shape"),
        ("unigram_backoff", lambda table: np.append(table, table), "unigram_backoff has the shape"),
        ("bigram_steps", lambda table: table * 0, "bigram_keys are not sorted"),
        ("trigram_steps", lambda table: table + 10**9, "trigram_keys are not sorted numbers below"),
    ],
)
def test_tables_that_do_not_fit_each_other_are_no_language_model(
    model: NGram, tmp_path: Path, name: str, damaged: Callable[[NDArray[Any]], NDArray[Any]], reason: str
) -> None:
    path = tmp_path / "lm.npz"
    model.save(path)
    with np.load(path) as file:
        tables = dict(file)
    np.savez(path, **{**tables, name: damaged(tables[name])})
    with pytest.raises(ModelError, match=rf"lm\.npz: not a language model: {reason}"):
        ngram.load(path)


def test_spaces_alone_are_no_words(model: NGram) -> None:
    rows = silence(9)
    rows[3, SPACE], rows[3, BLANK] = math.log(0.9), math.log(0.1)
    for decoder in (decoder_of("beam", model), decoder_of("greedy", model)):
        assert decoder.final(decoder.advance(decoder.initial(), rows)).words == ()


@given(st.lists(st.sampled_from([BLANK, SPACE, SPACE + 1]), max_size=60), st.integers(1, 6), st.integers(1, 12))
def test_no_segment_is_over_before_the_frames_it_goes_on_at_least(
    labels: list[int], silence: int, longest: int
) -> None:
    endpointing, clock = Endpointing(silence, longest), Clock()
    for at in range(len(labels)):
        least, later = endpointing.least_frames(clock), clock
        for label in labels[at : at + least - 1]:
            later = later.heard(label)
            assert not endpointing(later)
        clock = clock.heard(labels[at])
        if endpointing(clock):
            clock = clock.restarted()
