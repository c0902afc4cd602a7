"""The beam search in plain Python, with dictionaries and sorted(): what the compiled one must equal bit for bit.

It makes the same additions and multiplications in the same order, and shares with the compiled search only the
lexicon, the language model and the layout of a state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.speech.beam import DecoderState, Search
from models.speech.lexicon import ROOT, Lexicon
from models.speech.ngram import NGram
from models.speech.text import BLANK, SPACE

KEPT_HISTORIES = 192


@dataclass(frozen=True)
class Prefix:
    """A history's number and a trie node; mass by ending; frames of the begun word's letters, their log probability."""

    history: int
    node: int
    start: int
    last: int
    closed: float
    opened: float
    heard: float


@dataclass(frozen=True)
class Past:
    """A finished word behind an earlier history."""

    parent: int
    word: int
    context: int
    start: int
    end: int
    confidence: float


class Drafts:
    """The prefixes of the next frame, in the order in which they are first given mass."""

    def __init__(self) -> None:
        self.prefixes: dict[tuple[int, int], Prefix] = {}
        self.largest: dict[tuple[int, int], float] = {}

    def add(self, new: Prefix) -> None:
        key, mass = (new.history, new.node), new.closed + new.opened
        if key not in self.prefixes:
            self.prefixes[key], self.largest[key] = new, mass
            return
        old = self.prefixes[key]
        told = new if mass > self.largest[key] else old
        self.largest[key] = max(mass, self.largest[key])
        self.prefixes[key] = replace(told, closed=old.closed + new.closed, opened=old.opened + new.opened)


class ReferenceSearch:
    """`advance` of a beam decoder."""

    def __init__(self, model: NGram, lexicon: Lexicon, search: Search) -> None:
        self.model, self.lexicon, self.search = model, lexicon, search

    def advance(self, state: DecoderState, log_probs: NDArray[np.float32]) -> DecoderState:
        """The state after (F, V) more frames."""
        clock, (beam, pasts) = state.clock, unpacked(state)
        for row in log_probs:
            if math.exp(row[BLANK]) > self.search.skip_blank:
                beam = [replace(p, closed=p.closed + p.opened, opened=0.0) for p in beam]
            else:
                beam = self._pruned(self._drafts(beam, pasts, row.tolist(), clock.frame), beam)
            clock = clock.heard(int(row.argmax()))
            if len(pasts) > KEPT_HISTORIES:
                beam, pasts = collected(beam, pasts)
        return packed(replace(state, clock=clock), beam, pasts)

    def _drafts(self, beam: list[Prefix], pasts: list[Past], row: list[float], frame: int) -> list[Prefix]:
        probable = {label: p for label, p in enumerate(row) if label != BLANK and p > -self.search.label_nats}
        prob = {label: math.exp(p) for label, p in probable.items()}
        blank, space = math.exp(row[BLANK] - self.search.blank_nats), prob.get(SPACE, 0.0)
        drafts = Drafts()
        for p in beam:
            mass, own = p.closed + p.opened, int(self.lexicon.label[p.node])
            stay = mass * space if p.node == ROOT else p.opened * prob.get(own, 0.0)
            drafts.add(replace(p, closed=mass * blank, opened=stay))
            if space > 0.0 and self.lexicon.word[p.node] >= 0:
                history, factor = self._finished(p, pasts)
                drafts.add(Prefix(history, ROOT, frame, frame, 0.0, mass * space * factor, 0.0))
            for label, nats in probable.items():
                child = int(self.lexicon.children[p.node, label])
                if child != ROOT:
                    come = (p.closed if label == own else mass) * prob[label] * self._gain(p.node, child)
                    start = frame if p.node == ROOT else p.start
                    drafts.add(Prefix(p.history, child, start, frame, 0.0, come, p.heard + nats))
        return list(drafts.prefixes.values())

    def _ahead(self, node: int) -> float:
        return 0.0 if node == ROOT else float(self.lexicon.look_ahead[node])

    def _gain(self, node: int, child: int) -> float:
        return math.exp(self.search.lm_weight * (self._ahead(child) - self._ahead(node)))

    def _finished(self, p: Prefix, pasts: list[Past]) -> tuple[int, float]:
        word, context = int(self.lexicon.word[p.node]), pasts[p.history].context
        nats = self.search.lm_weight * (self.model.score(context, word) - self._ahead(p.node)) + self.search.word_score
        for number, past in enumerate(pasts):
            if (past.parent, past.word) == (p.history, word):
                return number, math.exp(nats)
        confidence = math.exp(p.heard / len(self.model.words[word]))
        pasts.append(Past(p.history, word, self.model.following(context, word), p.start, p.last + 1, confidence))
        return len(pasts) - 1, math.exp(nats)

    def _pruned(self, drafts: list[Prefix], before: list[Prefix]) -> list[Prefix]:
        best = max(p.closed + p.opened for p in drafts)
        if best == 0.0 or math.isinf(1.0 / best):
            return before
        least, scale = best * math.exp(-self.search.beam_nats), 1.0 / best
        kept = [p for p in drafts if p.closed + p.opened >= least]
        kept.sort(key=lambda p: -(p.closed + p.opened))
        return [replace(p, closed=p.closed * scale, opened=p.opened * scale) for p in kept[: self.search.beam]]


def collected(beam: list[Prefix], pasts: list[Past]) -> tuple[list[Prefix], list[Past]]:
    """Only the histories that some prefix still stands on."""
    live = {0}
    for p in beam:
        history = p.history
        while history not in live:
            live.add(history)
            history = pasts[history].parent
    moved = {old: new for new, old in enumerate(sorted(live))} | {-1: -1}
    kept = [replace(pasts[old], parent=moved[pasts[old].parent]) for old in sorted(live)]
    return [replace(p, history=moved[p.history]) for p in beam], kept


def unpacked(state: DecoderState) -> tuple[list[Prefix], list[Past]]:
    """A state's beam and histories."""
    prefixes = np.column_stack([state.beam_index.astype(object), state.beam_mass.astype(object)]).tolist()
    pasts = np.column_stack([state.past_index.astype(object), state.past_confidence.astype(object)]).tolist()
    return [Prefix(*row) for row in prefixes], [Past(*row) for row in pasts]


def packed(state: DecoderState, beam: list[Prefix], pasts: list[Past]) -> DecoderState:
    """`state` with another beam and other histories."""
    return replace(
        state,
        beam_index=np.array([(p.history, p.node, p.start, p.last) for p in beam], np.int64),
        beam_mass=np.array([(p.closed, p.opened, p.heard) for p in beam], np.float64),
        past_index=np.array([(p.parent, p.word, p.context, p.start, p.end) for p in pasts], np.int64),
        past_confidence=np.array([p.confidence for p in pasts], np.float64),
    )
