"""The words a decoder can write, as a trie of labels with each node's best word score below it.

Nodes are integers; 0 is the root. A node's look-ahead is the highest unigram log probability of the words below it:
it lets a language model speak about a word before the word is finished.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.speech.ngram import NGram
from models.speech.text import VOCABULARY, decode, encode

ROOT = 0


class Lexicon:
    """N nodes in arrays, numbered in the order in which their letters are first met.

    children: (N, V) int32, label to node, 0 where there is none; word: (N,) int32, the language model's word that ends
    there, or -1; label, parent, letters (from the root): (N,) int32; look_ahead: (N,) float64, natural log.
    """

    def __init__(self, spellings: Sequence[tuple[str, int]], scores: Sequence[float]) -> None:
        """spellings: normalised word and its index; scores: natural log probability per spelling."""
        nodes = _Nodes()
        for (spelling, word), score in zip(spellings, scores, strict=True):
            nodes.add(spelling, word, score)
        self.word = np.array(nodes.word, dtype=np.int32)
        self.label = np.array(nodes.label, dtype=np.int32)
        self.parent = np.array(nodes.parent, dtype=np.int32)
        self.letters = np.array(nodes.letters, dtype=np.int32)
        self.look_ahead = np.array(nodes.look_ahead, dtype=np.float64)
        self.children = np.zeros((len(self.word), VOCABULARY), dtype=np.int32)
        self.children[self.parent[1:], self.label[1:]] = np.arange(1, len(self.word))

    def spelling(self, node: int) -> str:
        """The letters from the root to a node."""
        labels = []
        while node != ROOT:
            labels.append(int(self.label[node]))
            node = int(self.parent[node])
        return decode(labels[::-1])


class _Nodes:
    """The trie while it grows."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, int], int] = {}
        self.word, self.label, self.parent, self.letters = [-1], [0], [ROOT], [0]
        self.look_ahead = [float("-inf")]

    def add(self, spelling: str, word: int, score: float) -> None:
        node = ROOT
        for letters, label in enumerate(encode(spelling), start=1):
            below = self.known.setdefault((node, label), len(self.word))
            if below == len(self.word):
                self.word.append(-1)
                self.label.append(label)
                self.parent.append(node)
                self.letters.append(letters)
                self.look_ahead.append(score)
            node = below
            self.look_ahead[node] = max(self.look_ahead[node], score)
        self.word[node] = word


def lexicon_of(model: NGram) -> Lexicon:
    """All words of a language model that the alphabet can write."""
    spelled = [(word, number) for number, word in enumerate(model.words) if not word.startswith("<")]
    return Lexicon(spelled, [float(model.tables.unigram[number]) for _, number in spelled])
