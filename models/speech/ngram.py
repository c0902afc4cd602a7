"""A small backed-off word trigram: `python -m models.speech.ngram --out FILE` builds it.

Interpolated Kneser-Ney (Chen and Goodman 1999, one discount per order) written in back-off form, kept as sorted
integer keys with their log probabilities, so that the whole model is a few numpy arrays in one compressed npz file.
A context is one integer, so that it can be stored in a decoder's state as it is.

All log probabilities are natural. Words are indices: 0 is the sentence start, 1 its end, 2 any unknown word.
"""

from __future__ import annotations

import argparse
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.contract import ModelError
from models.speech import corpora
from models.speech.text import DIGITS, normalise

START, END, UNKNOWN = 0, 1, 2
_SPECIAL = ("<s>", "</s>", "<unk>")


@dataclass(frozen=True, slots=True)
class Tables:
    """The arrays of a model with V words.

    unigram, unigram_backoff: (V,) float32. bigram_keys: (n2,) int64 sorted, first * V + second; bigram, and
    bigram_backoff: (n2,) float32. trigram_keys: (n3,) int64 sorted, index of the bigram * V + third; trigram: (n3,).
    """

    unigram: NDArray[np.float32]
    unigram_backoff: NDArray[np.float32]
    bigram_keys: NDArray[np.int64]
    bigram: NDArray[np.float32]
    bigram_backoff: NDArray[np.float32]
    trigram_keys: NDArray[np.int64]
    trigram: NDArray[np.float32]


class NGram:
    """Scores words in context. A context is `first * V + second`, the last two words; `initial` is two starts.

    bigram_start: (V + 1,) int32, the bigrams of first word w lie in [bigram_start[w], bigram_start[w + 1]);
    trigram_start: (n2 + 1,) int32, the trigrams of a bigram likewise.
    """

    def __init__(self, words: Sequence[str], tables: Tables) -> None:
        """Raises ValueError when the tables do not fit each other: compiled code reads them unchecked."""
        self.words = tuple(words)
        self.tables = tables
        self.index = {word: number for number, word in enumerate(self.words)}
        self.size = len(self.words)
        self.initial = START * self.size + START
        _check(tables, self.size)
        self.bigram_start = _starts(tables.bigram_keys, self.size, self.size)
        self.trigram_start = _starts(tables.trigram_keys, len(tables.bigram_keys), self.size)

    def following(self, context: int, word: int) -> int:
        """The context after `word`."""
        return context % self.size * self.size + word

    def score(self, context: int, word: int) -> float:
        """Natural log of P(word | context)."""
        tables, last = self.tables, context % self.size
        pair = _find(tables.bigram_keys, context)
        backed_off = 0.0
        if pair >= 0:
            triple = _find(tables.trigram_keys, pair * self.size + word)
            if triple >= 0:
                return float(tables.trigram[triple])
            backed_off = float(tables.bigram_backoff[pair])
        pair = _find(tables.bigram_keys, last * self.size + word)
        if pair >= 0:
            return backed_off + float(tables.bigram[pair])
        return backed_off + float(tables.unigram_backoff[last]) + float(tables.unigram[word])

    def save(self, path: Path) -> None:
        """One compressed npz; keys as differences, probabilities as float16 (error below 0.01 nats)."""
        tables = self.tables
        np.savez_compressed(
            path,
            words=np.frombuffer("\n".join(self.words).encode("ascii"), dtype=np.uint8),
            unigram=tables.unigram.astype(np.float16),
            unigram_backoff=tables.unigram_backoff.astype(np.float16),
            bigram_steps=np.diff(tables.bigram_keys, prepend=0).astype(np.uint32),
            bigram=tables.bigram.astype(np.float16),
            bigram_backoff=tables.bigram_backoff.astype(np.float16),
            trigram_steps=np.diff(tables.trigram_keys, prepend=0),
            trigram=tables.trigram.astype(np.float16),
        )


def load(path: Path) -> NGram:
    """The model that `NGram.save` wrote. Raises ModelError, naming the file, when it is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            words = file["words"].tobytes().decode("ascii").split("\n")
            tables = Tables(
                unigram=file["unigram"].astype(np.float32),
                unigram_backoff=file["unigram_backoff"].astype(np.float32),
                bigram_keys=np.cumsum(file["bigram_steps"], dtype=np.int64),
                bigram=file["bigram"].astype(np.float32),
                bigram_backoff=file["bigram_backoff"].astype(np.float32),
                trigram_keys=np.cumsum(file["trigram_steps"], dtype=np.int64),
                trigram=file["trigram"].astype(np.float32),
            )
        return NGram(words, tables)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: not a language model: {error}") from error


def _check(tables: Tables, size: int) -> None:
    """Raises ValueError, naming the table that does not fit."""
    pairs, triples = len(tables.bigram_keys), len(tables.trigram_keys)
    for name, length in {
        "unigram": size,
        "unigram_backoff": size,
        "bigram": pairs,
        "bigram_backoff": pairs,
        "trigram": triples,
    }.items():
        if getattr(tables, name).shape != (length,):
            raise ValueError(f"{name} has the shape {getattr(tables, name).shape}, not ({length},)")
    for name, keys, limit in (
        ("bigram_keys", tables.bigram_keys, size * size),
        ("trigram_keys", tables.trigram_keys, pairs * size),
    ):
        if len(keys) and (keys[0] < 0 or keys[-1] >= limit or (keys[1:] <= keys[:-1]).any()):
            raise ValueError(f"{name} are not sorted numbers below {limit}")


def _starts(keys: NDArray[np.int64], rows: int, size: int) -> NDArray[np.int32]:
    """Where the keys of each row begin, (rows + 1,); a key is its row times `size` plus something below `size`."""
    return np.searchsorted(keys, np.arange(rows + 1, dtype=np.int64) * size).astype(np.int32)


def _find(keys: NDArray[np.int64], key: int) -> int:
    position = bisect_left(keys, key)
    return position if position < len(keys) and keys[position] == key else -1


def estimate(sentences: Iterable[Sequence[str]], words: Sequence[str], trigram_cut: int = 1) -> NGram:
    """A Kneser-Ney trigram over `words`; other words count as unknown.

    trigram_cut: trigrams seen no more often are left to the bigrams (their mass too).
    """
    vocabulary = (*_SPECIAL, *words)
    index = {word: number for number, word in enumerate(vocabulary)}
    threes: Counter[tuple[int, int, int]] = Counter()
    for sentence in sentences:
        line = [START, START, *(index.get(word, UNKNOWN) for word in sentence), END]
        threes.update(zip(line, line[1:], line[2:], strict=False))
    twos: Counter[tuple[int, int]] = Counter()
    for _, second, third in threes:
        twos[second, third] += 1  # in how many contexts: Kneser-Ney's continuation count
    for (first, second, third), count in threes.items():
        if first == second == START:
            twos[START, third] = max(twos[START, third], count)  # nothing stands before a start: real counts
    return NGram(vocabulary, _tables(threes, twos, len(vocabulary), trigram_cut))


def _tables(
    threes: Counter[tuple[int, int, int]], twos: Counter[tuple[int, int]], size: int, trigram_cut: int
) -> Tables:
    pairs = sorted(twos)
    first, second = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    pair_counts = np.array([twos[pair] for pair in pairs], dtype=np.float64)
    unigram = np.bincount(second, minlength=size).astype(np.float64) + 0.5  # half a context for words never seen
    unigram[[START, UNKNOWN]] = 1e-4
    unigram /= unigram.sum()
    bigram, backoff = _discounted(first, pair_counts, unigram[second], size, np.ones(len(pairs), dtype=bool))
    keys = first * size + second

    triples = sorted(threes)
    one, two, three = (np.array(column, dtype=np.int64) for column in zip(*triples, strict=True))
    counts = np.array([threes[triple] for triple in triples], dtype=np.float64)
    context = np.searchsorted(keys, one * size + two)
    # Two starts are the one context that is no bigram itself: the key (start, start) is added with no probability.
    opening = (one == START) & (two == START)
    keep = (counts > trigram_cut) & ~opening
    context[opening] = 0
    lower = bigram[np.searchsorted(keys, two * size + three)]
    trigram, pair_backoff = _discounted(context, np.where(opening, 0.0, counts), lower, len(pairs), keep)
    return Tables(
        unigram=np.log(unigram).astype(np.float32),
        unigram_backoff=np.log(backoff).astype(np.float32),
        bigram_keys=keys,
        bigram=np.log(bigram).astype(np.float32),
        bigram_backoff=np.log(pair_backoff).astype(np.float32),
        trigram_keys=context[keep] * size + three[keep],
        trigram=np.log(trigram[keep]).astype(np.float32),
    )


def _discounted(
    context: NDArray[np.int64],
    counts: NDArray[np.float64],
    lower: NDArray[np.float64],
    contexts: int,
    keep: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interpolated probabilities and each context's back-off weight; entries not kept give their mass to it."""
    once, twice = float((counts == 1).sum()), float((counts == 2).sum())
    discount = once / (once + 2 * twice) if once and twice else 0.5
    total = np.bincount(context, counts, contexts)
    kept = np.where(keep, np.maximum(counts - discount, 0.0), 0.0)
    left = total - np.bincount(context, kept, contexts)
    weight = np.where(total > 0, left / np.maximum(total, 1e-12), 1.0)
    probability = kept / np.maximum(total, 1e-12)[context] + weight[context] * lower
    # What the kept entries already hold of the lower order must not be given a second time.
    covered = np.bincount(context, np.where(keep, lower, 0.0), contexts)
    held = np.bincount(context, np.where(keep, probability, 0.0), contexts)
    backoff = np.clip(1.0 - held, 1e-6, None) / np.clip(1.0 - covered, 1e-6, None)
    return np.maximum(probability, 1e-12), np.where(total > 0, backoff, 1.0)


def digit_strings(count: int, seed: int) -> list[list[str]]:
    """Random digits as words, one to ten of them."""
    draw = random.Random(seed)
    return [draw.choices(DIGITS, k=draw.randint(1, 10)) for _ in range(count)]


def training_sentences() -> list[list[str]]:
    """War and Peace, tatoeba's English, kathleen's train texts and digit strings; nothing held out."""
    read = [u.text for u in corpora.kathleen("train")]
    written = [normalise(s) for s in (*corpora.war_and_peace(), *corpora.tatoeba())]
    held_out = corpora.held_out_texts() | {u.text for u in corpora.kathleen("validation")}
    prose = [text.split() for text in (*sorted(set(read)), *written) if text and text not in held_out]
    return prose + digit_strings(2_500, seed=0)


def vocabulary(sentences: Iterable[Sequence[str]], least: int) -> list[str]:
    """Words seen at least so often, and all of kathleen's."""
    counts = Counter(word for sentence in sentences for word in sentence)
    known = {word for u in corpora.kathleen("train") for word in u.text.split()} | set(DIGITS)
    return sorted(word for word, count in counts.items() if count >= least or word in known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the npz file to write")
    parser.add_argument("--least", type=int, default=1, help="how often a word must be seen to be known")
    parser.add_argument("--trigram-cut", type=int, default=1, help="trigrams seen no more often are left out")
    given = parser.parse_args()
    sentences = training_sentences()
    model = estimate(sentences, vocabulary(sentences, given.least), given.trigram_cut)
    model.save(given.out)
    tables = model.tables
    print(f"{model.size} words, {len(tables.bigram_keys)} bigrams, {len(tables.trigram_keys)} trigrams")


if __name__ == "__main__":
    main()
