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
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.contract import ModelError
from models.speech.beam_state import DecoderState, begun, restored
from models.speech.beam_tables import Search, tables_of
from models.speech.beam_work import Room, room_for
from models.speech.hypothesis import Clock, Endpointing, Hypothesis, Word
from models.speech.lexicon import ROOT, Lexicon
from models.speech.ngram import NGram
from models.speech.text import VOCABULARY

__all__ = ["BeamDecoder", "DecoderState", "Search"]

Plain = tuple[Any, ...]


class BeamDecoder:
    """Streaming beam search; its own attributes never change with what it hears, so threads may share it."""

    def __init__(
        self, model: NGram, lexicon: Lexicon, search: Search | None = None, endpointing: Endpointing | None = None
    ) -> None:
        """Compiles the search unless it was before. Raises ModelError where numba is missing."""
        try:
            from models.speech import beam_kernel  # here, so that who never searches needs no numba
        except ImportError as error:
            raise ModelError("the beam decoder needs numba: pip install numba; or use decoder kind: greedy") from error
        self.model, self.lexicon = model, lexicon
        self.search = search or Search()
        self.endpointing = endpointing or Endpointing()
        self._tables = tuple(tuple(table) for table in tables_of(model, lexicon, self.search))
        self._search: Callable[..., tuple[int, int, int, int, int]] = beam_kernel.search
        self._close: Callable[..., None] = beam_kernel.close
        self._spare: list[tuple[Room, tuple[Plain, ...]]] = []

    def initial(self) -> DecoderState:
        """A stream that has heard nothing."""
        return begun(Clock(), self.model.initial)

    def next_segment(self, state: DecoderState) -> DecoderState:
        """Begin a new segment at the frame where the last one ended."""
        return begun(state.clock.restarted(), self.model.initial)

    def restore(self, arrays: Mapping[str, NDArray[Any] | int]) -> DecoderState:
        """The state that `DecoderState.to_arrays` wrote. Raises ValueError for anything else."""
        return restored(arrays, letters=self.lexicon.letters, words=self.model.size)

    def is_endpoint(self, state: DecoderState) -> bool:
        """Whether the segment is over here."""
        return self.endpointing(state.clock)

    def least_frames(self, state: DecoderState) -> int:
        """How many frames the segment goes on at least."""
        return self.endpointing.least_frames(state.clock)

    def advance(self, state: DecoderState, log_probs: NDArray[np.float32]) -> DecoderState:
        """The state after (F, V) more frames of natural log probabilities; `state` is left as it is.

        A frame in which no word of the lexicon can go on is passed over. Raises ValueError for other shapes and types,
        and for values that are no log probabilities.
        """
        frames, clock = self._checked(log_probs), state.clock
        room, plain_room = self._room(state)
        frame, onset, silent_frames, prefixes, histories = self._search(
            *self._tables,
            *plain_room,
            clock.frame,
            clock.onset,
            clock.silent_frames,
            state.beam_index,
            state.beam_mass,
            state.past_index,
            state.past_confidence,
            frames,
        )
        new = _copied(room, Clock(frame, onset, silent_frames), prefixes, histories)
        self._spare.append((room, plain_room))
        done = frame - clock.frame
        if done == len(frames):
            return new
        if not room.holds(prefixes, histories):
            return self.advance(new, frames[done:])
        raise ValueError("log_probs: a value is above 0 or not a number")

    def partial(self, state: DecoderState) -> Hypothesis:
        """The best prefix so far; its last word may be unfinished."""
        return self._prefix(state, 0)

    def final(self, state: DecoderState) -> Hypothesis:
        """The best sentence: every word finished, the language model's sentence end counted.

        When no prefix ends in a whole word, the best one without its unfinished word.
        """
        sentences: dict[tuple[int, int], float] = {}
        best: dict[tuple[int, int], int] = {}
        prefixes = zip(state.beam_index.tolist(), self.closed_masses(state).tolist(), strict=True)
        for row, ((history, node, _, _), mass) in enumerate(prefixes):
            # With or without a space behind it, a sentence is the same: both masses are its own.
            if node == ROOT:
                parent, word = state.past_index[history, :2].tolist()
            else:
                parent, word = history, int(self.lexicon.word[node])
            sentences[parent, word] = sentences.get((parent, word), 0.0) + mass
            best.setdefault((parent, word), row)
        likeliest = max(sentences, key=lambda sentence: sentences[sentence])
        if sentences[likeliest] <= 0.0:
            return Hypothesis(tuple(self._words(state, state.beam_index.item(0, 0))))
        return self._prefix(state, best[likeliest])

    def closed_masses(self, state: DecoderState) -> NDArray[np.float64]:
        """(n,) mass of each prefix of the beam as a whole sentence; 0 where its last word is unfinished."""
        masses = np.empty(len(state.beam_index))
        self._close(*self._tables, state.beam_index, state.beam_mass, state.past_index, masses)
        return masses

    def _room(self, state: DecoderState) -> tuple[Room, tuple[Plain, ...]]:
        """Room that no other call is using, also as plain tuples: a spare one unless this state needs more."""
        prefixes, histories = len(state.beam_index), len(state.past_index)
        try:
            spare = self._spare.pop()  # at once, so that no two threads get the same
        except IndexError:
            pass
        else:
            if spare[0].holds(prefixes, histories):
                return spare
        room = room_for(max(prefixes, self.search.beam), histories)
        return room, tuple(tuple(part) for part in room)

    def _checked(self, log_probs: NDArray[np.float32]) -> NDArray[np.float32]:
        """As the compiled search reads them: it looks at no bounds."""
        if log_probs.dtype != np.float32 or log_probs.ndim != 2 or log_probs.shape[1] != VOCABULARY:
            given = f"{log_probs.dtype} {log_probs.shape}"
            raise ValueError(f"log_probs: {given} is not float32 (frames, {VOCABULARY})")
        return log_probs if log_probs.flags.carray else np.array(log_probs, order="C")

    def _prefix(self, state: DecoderState, row: int) -> Hypothesis:
        """The words of one prefix of the beam, the last perhaps unfinished."""
        history, node, start, last = state.beam_index[row].tolist()
        words = self._words(state, history)
        if node != ROOT:
            text = self.lexicon.spelling(node)
            words.append(Word(text, start, last + 1, math.exp(state.beam_mass.item(row, 2) / len(text))))
        return Hypothesis(tuple(words))

    def _words(self, state: DecoderState, history: int) -> list[Word]:
        words = []
        while history != 0:
            parent, word, _, start, end = state.past_index[history].tolist()
            words.append(Word(self.model.words[word], start, end, state.past_confidence.item(history)))
            history = parent
        return words[::-1]


def _copied(room: Room, clock: Clock, prefixes: int, histories: int) -> DecoderState:
    """The state that a search left in its room, which other calls will use."""
    return DecoderState(
        clock,
        room.beam.ints[:prefixes].copy(),
        room.beam.mass[:prefixes].copy(),
        room.pasts.ints[:histories].copy(),
        room.pasts.confidence[:histories].copy(),
    )
