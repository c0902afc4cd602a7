"""The words a decoder can write, as a trie of labels with each node's best word score below it.

Nodes are integers; 0 is the root. A node's look-ahead is the highest unigram log probability of the words below it:
it lets a language model speak about a word before the word is finished.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.speech.ngram import NGram
from models.speech.text import decode, encode

ROOT = 0


class Lexicon:
    """Per node: `children` (label to node), `word` (the language model's word that ends there, or -1), `label`,
    `parent` and `look_ahead` (natural log).
    """

    def __init__(self, spellings: Sequence[tuple[str, int]], scores: Sequence[float]) -> None:
        """spellings: normalised word and its index; scores: natural log probability per spelling."""
        self.children: list[dict[int, int]] = [{}]
        self.word: list[int] = [-1]
        self.label: list[int] = [0]
        self.parent: list[int] = [ROOT]
        self.look_ahead: list[float] = [float("-inf")]
        for (spelling, word), score in zip(spellings, scores, strict=True):
            self._add(spelling, word, score)

    def spelling(self, node: int) -> str:
        """The letters from the root to a node."""
        labels = []
        while node != ROOT:
            labels.append(self.label[node])
            node = self.parent[node]
        return decode(labels[::-1])

    def depth(self, node: int) -> int:
        """Letters from the root to a node."""
        return len(self.spelling(node))

    def _add(self, spelling: str, word: int, score: float) -> None:
        node = ROOT
        for label in encode(spelling):
            below = self.children[node].get(label)
            if below is None:
                below = len(self.children)
                self.children[node][label] = below
                self.children.append({})
                self.word.append(-1)
                self.label.append(label)
                self.parent.append(node)
                self.look_ahead.append(float("-inf"))
            node = below
            self.look_ahead[node] = max(self.look_ahead[node], score)
        self.word[node] = word


def lexicon_of(model: NGram) -> Lexicon:
    """All words of a language model that the alphabet can write."""
    spelled = [(word, number) for number, word in enumerate(model.words) if not word.startswith("<")]
    return Lexicon(spelled, [float(model.tables.unigram[number]) for _, number in spelled])
