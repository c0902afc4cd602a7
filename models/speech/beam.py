"""CTC prefix beam search over a lexicon with a word n-gram, frame by frame, its hypotheses plain data.

A prefix is (history of finished words, trie node of the word begun). Its mass is kept linear and rescaled every
frame; the language model's factors are multiplied in where a prefix grows, which is exact, since a factor depends on
the prefix alone. A frame that is blank beyond `skip_blank` only closes repeats; that depends on the frame alone, so
chunking changes nothing. All arithmetic is scalar double precision in a fixed order: the same on every machine.

Sources: A. Hannun et al., First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent
DNNs, 2014 (prefix search with a language model); S. Ortmanns et al., Language-Model Look-Ahead, 1996.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.speech.hypothesis import Clock, Endpointing, Hypothesis, Word
from models.speech.lexicon import ROOT, Lexicon
from models.speech.ngram import END, NGram
from models.speech.text import BLANK, SPACE

_KEPT_HISTORIES = 192


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


class Path(NamedTuple):  # made some thousand times a second: a frozen dataclass costs four times as much
    """One prefix: `history` (index), `node`, mass ending in blank and in its last label, and how it was heard.

    start, last: frames of the begun word's first and latest letter; heard: sum of its letters' log probabilities.
    """

    history: int
    node: int
    blank: float
    label: float
    start: int
    last: int
    heard: float

    @property
    def mass(self) -> float:
        return self.blank + self.label


class Past(NamedTuple):
    """A finished word behind an earlier history; entry 0 is the segment's beginning with `word` -1."""

    parent: int
    word: int
    context: int
    start: int
    end: int
    confidence: float


@dataclass(frozen=True, slots=True)
class DecoderState:
    """Everything a segment's search knows; the beam is sorted, best first."""

    clock: Clock
    beam: tuple[Path, ...]
    pasts: tuple[Past, ...]

    def to_arrays(self) -> dict[str, NDArray[Any] | int]:
        """Plain data that `from_arrays` restores bit for bit."""
        return {
            "frame": self.clock.frame,
            "onset": self.clock.onset,
            "silent_frames": self.clock.silent_frames,
            "beam_index": np.array([(p.history, p.node, p.start, p.last) for p in self.beam], dtype=np.int64),
            "beam_mass": np.array([(p.blank, p.label, p.heard) for p in self.beam], dtype=np.float64),
            "past_index": np.array([(h.parent, h.word, h.context, h.start, h.end) for h in self.pasts], np.int64),
            "past_confidence": np.array([h.confidence for h in self.pasts], dtype=np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any] | int]) -> DecoderState:
        """The state that `to_arrays` wrote."""
        clock = Clock(int(arrays["frame"]), int(arrays["onset"]), int(arrays["silent_frames"]))
        index, mass = np.asarray(arrays["beam_index"]).tolist(), np.asarray(arrays["beam_mass"]).tolist()
        beam = (
            Path(history, node, blank, label, start, last, heard)
            for (history, node, start, last), (blank, label, heard) in zip(index, mass, strict=True)
        )
        behind, sure = np.asarray(arrays["past_index"]).tolist(), np.asarray(arrays["past_confidence"]).tolist()
        pasts = (
            Past(parent, word, context, start, end, confidence)
            for (parent, word, context, start, end), confidence in zip(behind, sure, strict=True)
        )
        return cls(clock, tuple(beam), tuple(pasts))


@dataclass(slots=True)
class _Draft:
    """A prefix while its frame is being worked on; `best` is the largest mass that came in at once."""

    history: int
    node: int
    blank: float
    label: float
    best: float
    start: int
    last: int
    heard: float


@dataclass(slots=True)
class _Pasts:
    """The histories while a chunk is being worked on."""

    entries: list[Past]
    known: dict[tuple[int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known = {(past.parent, past.word): number for number, past in enumerate(self.entries)}

    def grown(self, path: Path, word: int, model: NGram, letters: int) -> int:
        """The history of `path` with its word finished, made on first sight."""
        key = (path.history, word)
        number = self.known.get(key)
        if number is None:
            number = self.known[key] = len(self.entries)
            context = model.following(self.entries[path.history].context, word)
            confidence = math.exp(path.heard / letters)
            self.entries.append(Past(path.history, word, context, path.start, path.last + 1, confidence))
        return number


class BeamDecoder:
    """Streaming beam search; its own attributes never change with what it hears."""

    def __init__(
        self, model: NGram, lexicon: Lexicon, search: Search | None = None, endpointing: Endpointing | None = None
    ) -> None:
        self.model, self.lexicon = model, lexicon
        self.search = search or Search()
        self.endpointing = endpointing or Endpointing()
        weight, ahead = self.search.lm_weight, [0.0, *lexicon.look_ahead[1:]]  # the root looks nowhere
        self._gain = [math.exp(weight * (ahead[n] - ahead[lexicon.parent[n]])) for n in range(len(ahead))]
        self._ahead = ahead
        self._letters = [lexicon.depth(n) if lexicon.word[n] >= 0 else 0 for n in range(len(ahead))]
        self._floor = math.exp(-self.search.beam_nats)

    def initial(self) -> DecoderState:
        """A stream that has heard nothing."""
        return self._begin(Clock())

    def next_segment(self, state: DecoderState) -> DecoderState:
        """Begin a new segment at the frame where the last one ended."""
        return self._begin(state.clock.restarted())

    def restore(self, arrays: Mapping[str, NDArray[Any] | int]) -> DecoderState:
        """The state that `DecoderState.to_arrays` wrote."""
        return DecoderState.from_arrays(arrays)

    def is_endpoint(self, state: DecoderState) -> bool:
        """Whether the segment is over here."""
        return self.endpointing(state.clock)

    def least_frames(self, state: DecoderState) -> int:
        """How many frames the segment goes on at least."""
        return self.endpointing.least_frames(state.clock)

    def advance(self, state: DecoderState, log_probs: NDArray[np.float32]) -> DecoderState:
        """The state after (F, V) more frames of natural log probabilities; `state` is left as it is."""
        clock, beam = state.clock, list(state.beam)
        pasts = _Pasts(list(state.pasts))
        for row, top in zip(log_probs.tolist(), log_probs.argmax(axis=1).tolist(), strict=True):
            if math.exp(row[BLANK]) > self.search.skip_blank:
                beam = [p._replace(blank=p.mass, label=0.0) if p.label else p for p in beam]
            else:
                beam = self._frame(beam, pasts, row, clock.frame)
            clock = clock.heard(top)
            if len(pasts.entries) > _KEPT_HISTORIES:
                beam, pasts = _collected(beam, pasts)
        return DecoderState(clock, tuple(beam), tuple(pasts.entries))

    def partial(self, state: DecoderState) -> Hypothesis:
        """The best prefix so far; its last word may be unfinished."""
        best = state.beam[0]
        words = self._words(state, best.history)
        if best.node != ROOT:
            text = self.lexicon.spelling(best.node)
            words.append(Word(text, best.start, best.last + 1, math.exp(best.heard / len(text))))
        return Hypothesis(tuple(words))

    def final(self, state: DecoderState) -> Hypothesis:
        """The best sentence: every word finished, the language model's sentence end counted.

        When no prefix ends in a whole word, the best one without its unfinished word.
        """
        sentences: dict[tuple[int, int], float] = {}
        best: dict[tuple[int, int], Path] = {}
        for path in state.beam:
            # With or without a space behind it, a sentence is the same: both masses are its own.
            past, word = state.pasts[path.history], self.lexicon.word[path.node]
            sentence = (past.parent, past.word) if path.node == ROOT else (path.history, word)
            sentences[sentence] = sentences.get(sentence, 0.0) + self.closed_mass(state, path)
            best.setdefault(sentence, path)
        likeliest = max(sentences, key=lambda sentence: sentences[sentence])
        if sentences[likeliest] <= 0.0:
            return Hypothesis(tuple(self._words(state, state.beam[0].history)))
        path = best[likeliest]
        words = self._words(state, path.history)
        if path.node != ROOT:
            text = self.lexicon.spelling(path.node)
            confidence = math.exp(path.heard / self._letters[path.node])
            words.append(Word(text, path.start, path.last + 1, confidence))
        return Hypothesis(tuple(words))

    def _begin(self, clock: Clock) -> DecoderState:
        start = Path(0, ROOT, 1.0, 0.0, clock.frame, clock.frame, 0.0)
        return DecoderState(clock, (start,), (Past(-1, -1, self.model.initial, clock.frame, clock.frame, 1.0),))

    def _frame(self, beam: list[Path], pasts: _Pasts, row: list[float], frame: int) -> list[Path]:
        """One step of the search: every prefix stays or grows by each probable label."""
        least = -self.search.label_nats
        labels = [(label, math.exp(p), p) for label, p in enumerate(row) if p > least and label != BLANK]
        heard = {label: p for label, p, _ in labels}
        blank, space = math.exp(row[BLANK] - self.search.blank_nats), heard.get(SPACE, 0.0)
        drafts: dict[tuple[int, int], _Draft] = {}
        children, label_of = self.lexicon.children, self.lexicon.label
        for path in beam:
            history, node, mass = path.history, path.node, path.blank + path.label
            if node == ROOT:  # spaces before a word change nothing
                _add(drafts, path, history, node, mass * blank, mass * space, path.start, path.last, path.heard)
            else:
                stay = path.label * heard.get(label_of[node], 0.0)
                _add(drafts, path, history, node, mass * blank, stay, path.start, path.last, path.heard)
                if space and self.lexicon.word[node] >= 0:
                    grown, factor = self._finish(path, pasts)
                    _add(drafts, path, grown, ROOT, 0.0, mass * space * factor, frame, frame, 0.0)
            below = children[node]
            for label, p, log_p in labels:
                child = below.get(label)
                if child is not None:
                    come = (path.blank if label == label_of[node] else mass) * p * self._gain[child]
                    start = frame if node == ROOT else path.start
                    _add(drafts, path, history, child, 0.0, come, start, frame, path.heard + log_p)
        return self._pruned(drafts)

    def _finish(self, path: Path, pasts: _Pasts) -> tuple[int, float]:
        """The history with the word finished, and the language model's factor for it."""
        word = self.lexicon.word[path.node]
        score = self.model.score(pasts.entries[path.history].context, word)
        nats = self.search.lm_weight * (score - self._ahead[path.node]) + self.search.word_score
        return pasts.grown(path, word, self.model, self._letters[path.node]), math.exp(nats)

    def _pruned(self, drafts: dict[tuple[int, int], _Draft]) -> list[Path]:
        best = max(d.blank + d.label for d in drafts.values())
        least = best * self._floor
        kept = [d for d in drafts.values() if d.blank + d.label >= least]
        kept.sort(key=lambda d: -(d.blank + d.label))
        scale = 1.0 / best
        return [
            Path(d.history, d.node, d.blank * scale, d.label * scale, d.start, d.last, d.heard)
            for d in kept[: self.search.beam]
        ]

    def closed_mass(self, state: DecoderState, path: Path) -> float:
        """Mass of a prefix of the beam as a whole sentence; 0 where its last word is unfinished."""
        context, nats = state.pasts[path.history].context, 0.0
        if path.node != ROOT:
            word = self.lexicon.word[path.node]
            if word < 0:
                return 0.0
            nats = self.search.lm_weight * (self.model.score(context, word) - self._ahead[path.node])
            nats += self.search.word_score
            context = self.model.following(context, word)
        return path.mass * math.exp(nats + self.search.lm_weight * self.model.score(context, END))

    def _words(self, state: DecoderState, history: int) -> list[Word]:
        words = []
        while history != 0:
            past = state.pasts[history]
            words.append(Word(self.model.words[past.word], past.start, past.end, past.confidence))
            history = past.parent
        return words[::-1]


def _add(
    drafts: dict[tuple[int, int], _Draft],
    path: Path,
    history: int,
    node: int,
    blank: float,
    label: float,
    start: int,
    last: int,
    heard: float,
) -> None:
    """Give mass to a prefix; how it was heard is remembered from the largest part."""
    draft = drafts.get((history, node))
    mass = blank + label
    if draft is None:
        drafts[history, node] = _Draft(history, node, blank, label, mass, start, last, heard)
        return
    draft.blank += blank
    draft.label += label
    if mass > draft.best:
        draft.best, draft.start, draft.last, draft.heard = mass, start, last, heard


def _collected(beam: list[Path], pasts: _Pasts) -> tuple[list[Path], _Pasts]:
    """Only the histories that some prefix still stands on. Depends on frames alone, not on chunks."""
    live = {0}
    for path in beam:
        history = path.history
        while history not in live:
            live.add(history)
            history = pasts.entries[history].parent
    order = sorted(live)
    moved = {old: new for new, old in enumerate(order)} | {-1: -1}
    entries = [pasts.entries[old]._replace(parent=moved[pasts.entries[old].parent]) for old in order]
    return [path._replace(history=moved[path.history]) for path in beam], _Pasts(entries)
