"""A textbook CTC prefix beam search over whole sentences, in plain Python: the referee of the streaming decoder.

It shares no code with it. Prefixes are strings, the lexicon is a set of their beginnings, the language model a
dictionary of n-grams in ARPA's back-off form, and the beam so wide that pruning decides nothing.

Source: A. Hannun et al., First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent DNNs,
2014, algorithm 1, with the language model's factor at the end of each word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LETTERS = " abcdefghijklmnopqrstuvwxyz'"
"""Labels 1, 2, ...; label 0 is the blank."""


@dataclass(frozen=True)
class Trigram:
    """Natural log probabilities and back-off weights, by words."""

    probability: dict[tuple[str, ...], float]
    backoff: dict[tuple[str, ...], float]

    def score(self, words: Sequence[str], word: str) -> float:
        """log P(word | words), by the longest n-gram that is known."""
        known = ("<s>", "<s>", *words)
        context, weight = known[-2:], 0.0
        while (*context, word) not in self.probability:
            weight += self.backoff.get(context, 0.0)
            context = context[1:]
        return weight + self.probability[*context, word]


def read_trigram(path: Path) -> Trigram:
    """The packaged language model, from its arrays: n-grams are sorted keys, stored as differences."""
    with np.load(path) as file:
        words = file["words"].tobytes().decode("ascii").split("\n")
        pairs = [divmod(int(key), len(words)) for key in np.cumsum(file["bigram_steps"], dtype=np.int64)]
        triples = [divmod(int(key), len(words)) for key in np.cumsum(file["trigram_steps"], dtype=np.int64)]
        one, one_backoff = file["unigram"].astype(float), file["unigram_backoff"].astype(float)
        two, two_backoff = file["bigram"].astype(float), file["bigram_backoff"].astype(float)
        three = file["trigram"].astype(float)
    twice = [(words[first], words[second]) for first, second in pairs]
    probability: dict[tuple[str, ...], float] = {(word,): float(p) for word, p in zip(words, one, strict=True)}
    probability |= {pair: float(p) for pair, p in zip(twice, two, strict=True)}
    probability |= {(*twice[n], words[word]): float(p) for (n, word), p in zip(triples, three, strict=True)}
    # The opening is a context, not an event: nothing ever says "<s>" with a probability.
    probability.pop(("<s>", "<s>"), None)
    backoff: dict[tuple[str, ...], float] = {(word,): float(w) for word, w in zip(words, one_backoff, strict=True)}
    backoff |= {pair: float(w) for pair, w in zip(twice, two_backoff, strict=True)}
    return Trigram(probability, backoff)


class TextbookDecoder:
    """lm_weight: exponent of the language model; blank_nats: taken off the blank's log probability; beam: prefixes."""

    def __init__(self, model: Trigram, *, lm_weight: float, blank_nats: float, beam: int) -> None:
        self._model = model
        self._lm_weight = lm_weight
        self._blank_nats = blank_nats
        self._beam = beam
        self._words = {key[0] for key in model.probability if len(key) == 1 and not key[0].startswith("<")}
        self._beginnings = {word[:n] for word in self._words for n in range(1, len(word) + 1)}

    def best_sentence(self, log_probs: Sequence[Sequence[float]]) -> str:
        """The likeliest words of (F, V) natural log probabilities."""
        beam = {"": (1.0, 0.0)}  # prefix to its mass ending in a blank, and in its last letter
        for row in log_probs:
            beam = self._pruned(self._extended(beam, row))
        sentences: dict[str, float] = {}
        for prefix, masses in beam.items():
            *words, last = prefix.split(" ")
            if last and last not in self._words:
                continue
            told = [*words, last] if last else words
            factor = self._factor(words, last) * self._factor(told, "</s>")
            text = " ".join(told)
            sentences[text] = sentences.get(text, 0.0) + sum(masses) * factor
        return max(sentences, key=lambda text: sentences[text])

    def _extended(self, beam: dict[str, tuple[float, float]], row: Sequence[float]) -> dict[str, tuple[float, float]]:
        blank = math.exp(row[0] - self._blank_nats)
        grown: dict[str, tuple[float, float]] = {}

        def add(prefix: str, in_blank: float, in_label: float) -> None:
            before = grown.get(prefix, (0.0, 0.0))
            grown[prefix] = (before[0] + in_blank, before[1] + in_label)

        for prefix, (in_blank, in_label) in beam.items():
            mass = in_blank + in_label
            add(prefix, mass * blank, 0.0)
            words, _, begun = prefix.rpartition(" ")
            for letter, log_p in zip(LETTERS, row[1:], strict=True):
                p = math.exp(log_p)
                if letter == " ":
                    if not begun:  # spaces before a word are one
                        add(prefix, 0.0, mass * p)
                    elif begun in self._words:
                        add(prefix + " ", 0.0, mass * p * self._factor(words.split(), begun))
                    continue
                if begun.endswith(letter):  # a repetition is the same letter, a blank between makes it another
                    add(prefix, 0.0, in_label * p)
                if begun + letter in self._beginnings:
                    add(prefix + letter, 0.0, (in_blank if begun.endswith(letter) else mass) * p)
        return grown

    def _factor(self, words: Sequence[str], word: str) -> float:
        return math.exp(self._lm_weight * self._model.score(words, word)) if word else 1.0

    def _pruned(self, grown: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        kept = sorted(grown.items(), key=lambda item: -sum(item[1]))[: self._beam]
        scale = 1.0 / sum(kept[0][1])
        return {prefix: (in_blank * scale, in_label * scale) for prefix, (in_blank, in_label) in kept}
