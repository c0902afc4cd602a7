"""The referee of the speech decoder, judged by the definition: the sum over all alignments, one by one."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import groupby, product

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden.textbook_ctc import LETTERS, TextbookDecoder, Trigram

WORDS = ("a", "ab", "ba", "bb")
HEARD = (0, 1, 2, 3)
"""Blank, space, a and b: the other labels have no probability here."""
PROBABILITIES = st.lists(st.integers(1, 9), min_size=4, max_size=4).map(lambda n: [v / sum(n) for v in n])
FRAMES = st.lists(PROBABILITIES, min_size=1, max_size=5)


@st.composite
def models(draw: st.DrawFn) -> Trigram:
    """Log probabilities of every word, and of some pairs and triples of words."""
    nats = st.floats(-4.0, -0.1)
    told = (*WORDS, "</s>")
    contexts = [("<s>", "<s>"), ("<s>", "a"), ("a", "bb"), ("ab", "ab")]
    probability: dict[tuple[str, ...], float] = {(word,): draw(nats) for word in told}
    probability |= {(c[1], word): draw(nats) for c in contexts[:2] for word in told[::2]}
    probability |= {(*context, word): draw(nats) for context in contexts for word in told[1::2]}
    backoff: dict[tuple[str, ...], float] = {(word,): draw(nats) for word in ("<s>", *WORDS)}
    return Trigram(probability, backoff | {context: draw(nats) for context in contexts})


def by_definition(model: Trigram, frames: list[list[float]], lm_weight: float, blank_nats: float) -> dict[str, float]:
    """Every sentence of known words with its whole mass: all label sequences that spell it, times the model's."""
    masses: dict[str, float] = defaultdict(float)
    for labels in product(HEARD, repeat=len(frames)):
        mass = math.prod(frame[label] for frame, label in zip(frames, labels, strict=True))
        mass *= math.exp(-blank_nats * labels.count(0))
        spelled = "".join(LETTERS[label - 1] for label, _ in groupby(labels) if label)
        words = spelled.split()
        if set(words) <= set(WORDS):
            nats = sum(model.score(words[:n], word) for n, word in enumerate([*words, "</s>"]))
            masses[" ".join(words)] += mass * math.exp(lm_weight * nats)
    return masses


@settings(max_examples=25, deadline=None)
@given(
    models(), st.lists(PROBABILITIES, min_size=1, max_size=5), st.sampled_from([0.0, 0.7]), st.sampled_from([0.0, 1])
)
def test_the_referee_finds_the_sentence_of_the_largest_sum_over_all_alignments(
    model: Trigram, frames: list[list[float]], lm_weight: float, blank_nats: float
) -> None:
    decoder = TextbookDecoder(model, lm_weight=lm_weight, blank_nats=blank_nats, beam=10_000)
    rows = [[math.log(p) for p in frame] + [-math.inf] * (len(LETTERS) - 3) for frame in frames]
    masses = by_definition(model, frames, lm_weight, blank_nats)
    assert math.isclose(masses[decoder.best_sentence(rows)], max(masses.values()), rel_tol=1e-9)
