"""What the compiled search reads: lexicon, language model and settings as arrays and numbers, never written to.

Each is passed whole, so the field types here and the signatures in `models.speech.beam_kernel` must agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.contract import ModelError
from models.speech.lexicon import Lexicon
from models.speech.ngram import NGram


@dataclass(frozen=True, slots=True)
class Search:
    """How wide to search and how much to trust the language model.

    lm_weight: factor on its log probabilities; word_score: added per word (natural log); beam: prefixes kept;
    beam_nats: how far below the best a prefix may lie; label_nats: how improbable a label may be in a frame;
    skip_blank: a blank more probable than this is taken as certain; blank_nats: taken off the blank's log probability,
    a prior that CTC learns too high from little data (H. Sak et al. 2015 divide by the labels' priors alike).
    """

    lm_weight: float = 1.0
    word_score: float = 0.5
    beam: int = 32
    beam_nats: float = 14.0
    label_nats: float = 7.0
    skip_blank: float = 0.999
    blank_nats: float = 0.0

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise ModelError(f"search: a beam of {self.beam} keeps no prefix")


class Trie(NamedTuple):
    """The lexicon's N nodes. children: (N, V) int32, 0 where there is none; label, word, letters: (N,) int32;
    ahead: (N,) float64, look-ahead, 0 at the root; gain: (N,) float64, factor on the mass that comes to a node."""

    children: NDArray[np.int32]
    label: NDArray[np.int32]
    word: NDArray[np.int32]
    letters: NDArray[np.int32]
    ahead: NDArray[np.float64]
    gain: NDArray[np.float64]


class Language(NamedTuple):
    """The n-gram of `size` words as in `ngram.Tables`; the bigrams of a first word w lie in
    [bigram_start[w], bigram_start[w + 1]), the trigrams of a bigram likewise."""

    size: int
    unigram: NDArray[np.float32]
    unigram_backoff: NDArray[np.float32]
    bigram_start: NDArray[np.int32]
    bigram_keys: NDArray[np.int64]
    bigram: NDArray[np.float32]
    bigram_backoff: NDArray[np.float32]
    trigram_start: NDArray[np.int32]
    trigram_keys: NDArray[np.int64]
    trigram: NDArray[np.float32]


class Limits(NamedTuple):
    """`Search` as numbers of fixed types; floor: the share of the best mass that a prefix must have."""

    lm_weight: float
    word_score: float
    beam: int
    floor: float
    label_nats: float
    skip_blank: float
    blank_nats: float


class Tables(NamedTuple):
    """All that a search reads but its state."""

    trie: Trie
    language: Language
    limits: Limits


def tables_of(model: NGram, lexicon: Lexicon, search: Search) -> Tables:
    """What the compiled search reads. Raises ModelError when the lexicon's words are another model's."""
    if lexicon.word.max() >= model.size:
        raise ModelError(f"the lexicon writes word {lexicon.word.max()}, the language model has {model.size} words")
    return Tables(trie_of(lexicon, search.lm_weight), language_of(model), limits_of(search))


def trie_of(lexicon: Lexicon, lm_weight: float) -> Trie:
    """The nodes of a lexicon, its look-ahead weighted."""
    ahead = lexicon.look_ahead.copy()
    ahead[0] = 0.0  # the root looks nowhere
    # math.exp and not numpy's, which is vectorised differently from machine to machine
    gain = np.array([math.exp(nats) for nats in (lm_weight * (ahead - ahead[lexicon.parent])).tolist()])
    return Trie(lexicon.children, lexicon.label, lexicon.word, lexicon.letters, ahead, gain)


def language_of(model: NGram) -> Language:
    """The arrays of a language model."""
    t = model.tables
    return Language(
        model.size,
        t.unigram,
        t.unigram_backoff,
        model.bigram_start,
        t.bigram_keys,
        t.bigram,
        t.bigram_backoff,
        model.trigram_start,
        t.trigram_keys,
        t.trigram,
    )


def limits_of(search: Search) -> Limits:
    """The settings with the types that the compiled search wants."""
    return Limits(
        float(search.lm_weight),
        float(search.word_score),
        int(search.beam),
        math.exp(-search.beam_nats),
        float(search.label_nats),
        float(search.skip_blank),
        float(search.blank_nats),
    )
