"""A beam state that comes back from a log: it can be searched on, or is refused by name. Nothing else may happen."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.speech import ngram
from models.speech.beam import BeamDecoder, Search
from models.speech.lexicon import lexicon_of
from models.speech.text import VOCABULARY, encode

Saved = dict[str, Any]
ARRAYS = ("beam_index", "beam_mass", "past_index", "past_confidence")
WORDS = 7  # four and the three that every model has
INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 60)
FLOATS = st.floats() | st.sampled_from([0.0, 1.0, 5e-324, 1e300])


@cache
def decoder() -> BeamDecoder:
    model = ngram.estimate([["a", "ab", "b"], ["ba", "ab", "a"]], ["a", "ab", "b", "ba"], trigram_cut=0)
    return BeamDecoder(model, lexicon_of(model), Search(beam=8))


@cache
def frames() -> NDArray[np.float32]:
    """Posteriors of nothing in particular, (F, V)."""
    logits = np.full((60, VOCABULARY), -9.0)
    logits[:, [0, *encode(" ab")]] = np.random.default_rng(0).normal(0.0, 3.0, (60, 4))
    scaled: NDArray[np.float64] = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return scaled.astype(np.float32)


def saved(at: int = 30) -> Saved:
    """A dump that nobody else holds."""
    state = decoder().advance(decoder().initial(), frames()[:at])
    return {name: np.array(value) if name in ARRAYS else value for name, value in state.to_arrays().items()}


def with_value(name: str, at: tuple[int, ...], value: float) -> Saved:
    changed = saved()
    changed[name][at] = value
    return changed


def test_a_dump_holds_what_the_cases_below_change() -> None:
    dump = saved()
    assert dump["frame"] == 30
    assert len(dump["beam_index"]) == 8
    assert len(dump["past_index"]) > 5


@pytest.mark.parametrize(
    ("name", "at", "value", "reason"),
    [
        ("beam_index", (0, 0), -1, "a history is none of"),
        ("beam_index", (0, 0), 10_000, "a history is none of"),
        ("beam_index", (7, 1), 2**62, "a node is none of the lexicon's"),
        ("beam_index", (7, 1), -1, "a node is none of the lexicon's"),
        ("beam_index", (1, 2), -5, "frames do not lie in order"),
        ("beam_index", (1, 3), 31, "frames do not lie in order"),
        ("beam_mass", (0, 0), -0.1, "a mass is not from 0 to 1"),
        ("beam_mass", (0, 1), np.nan, "a mass is not from 0 to 1"),
        ("beam_mass", (0, 1), np.inf, "a mass is not from 0 to 1"),
        ("beam_mass", (0, 2), np.nan, "a word begun has no log probability"),
        ("beam_mass", (0, 2), 800.0, "a word begun has no log probability"),
        ("past_index", (0, 0), 0, "history 0 is no beginning"),
        ("past_index", (0, 2), WORDS**2, "history 0 is no beginning"),
        ("past_index", (3, 0), 3, "a history does not lie behind its parent"),
        ("past_index", (3, 0), -1, "a history does not lie behind its parent"),
        ("past_index", (3, 1), WORDS, "a word is none of the 7"),
        ("past_index", (3, 1), -1, "a word is none of the 7"),
        ("past_index", (3, 2), -WORDS, "a context does not follow"),
        ("past_index", (3, 4), 2**60, "frames do not lie in order"),
        ("past_confidence", (3,), 1.5, "is not from 0 to 1"),
        ("past_confidence", (3,), np.nan, "is not from 0 to 1"),
    ],
)
def test_a_number_out_of_range_is_refused(name: str, at: tuple[int, ...], value: float, reason: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: {reason}"):
        decoder().restore(with_value(name, at, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frame", -1),
        ("frame", 2**63),
        ("frame", 2.0),
        ("frame", None),
        ("onset", 30),
        ("onset", -2),
        ("silent_frames", 31),
        ("silent_frames", -1),
        ("silent_frames", True),
        ("beam_index", np.zeros((0, 4), np.int64)),
        ("beam_index", np.zeros((8, 5), np.int64)),
        ("beam_index", np.zeros((8, 4), np.int32)),
        ("beam_index", [[0, 0, 0, 0]] * 8),
        ("beam_mass", np.zeros((8, 3))),
        ("beam_mass", np.ones((7, 3)) / 4),
        ("beam_mass", np.ones((8, 3), np.float32) / 4),
        ("past_index", np.zeros((0, 5), np.int64)),
        ("past_index", np.zeros(5, np.int64)),
        ("past_confidence", np.ones(2)),
        ("past_confidence", np.ones((8, 1))),
    ],
)
def test_another_shape_or_type_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"frame|onset|beam|past"):
        decoder().restore({**saved(), name: value})


@pytest.mark.parametrize("name", ["frame", "onset", "silent_frames", *ARRAYS])
def test_a_missing_part_is_refused_by_name(name: str) -> None:
    dump = saved()
    del dump[name]
    with pytest.raises(ValueError, match=name):
        decoder().restore(dump)


@pytest.mark.parametrize("foreign", [None, [], [1, 2], "state", 7])
def test_what_is_no_map_is_no_state(foreign: Any) -> None:
    with pytest.raises(ValueError, match="is no state"):
        decoder().restore(foreign)


def test_a_restored_state_shares_no_memory_with_what_it_was_restored_from() -> None:
    dump = saved()
    state = decoder().restore(dump)
    dump["beam_index"][:] = 2**62
    assert state == decoder().restore(saved())


def goes_on(dump: Saved) -> bool:
    """Whether a dump is taken; if so, everything that a decoder can do is done with it."""
    try:
        state = decoder().restore(dump)
    except ValueError:
        return False
    for chunk in (frames()[30:33], frames()[33:]):
        decoder().partial(state)
        decoder().final(state)
        decoder().is_endpoint(state)
        assert decoder().least_frames(state) >= 1
        state = decoder().advance(state, chunk)
    assert decoder().restore(state.to_arrays()) == state
    return True


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_dump_with_any_numbers_changed_is_refused_or_can_be_searched_on(data: st.DataObject) -> None:
    dump = saved()
    for _ in range(data.draw(st.integers(1, 4))):
        array = dump[data.draw(st.sampled_from(ARRAYS))]
        at = tuple(data.draw(st.integers(0, size - 1)) for size in array.shape)
        array[at] = data.draw(INTEGERS if array.dtype == np.int64 else FLOATS)
    goes_on(dump)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_dump_whose_rows_were_shuffled_dropped_or_doubled_is_refused_or_can_be_searched_on(
    data: st.DataObject,
) -> None:
    dump = saved()
    for names in data.draw(st.lists(st.sampled_from([ARRAYS[:2], ARRAYS[2:], *((name,) for name in ARRAYS)]))):
        rows = data.draw(st.lists(st.integers(0, len(dump[names[0]]) - 1), max_size=40)) if len(dump[names[0]]) else []
        for name in names:
            dump[name] = dump[name][[row for row in rows if row < len(dump[name])]]
    goes_on(dump)


@pytest.mark.parametrize("at", [0, 1, 13, 30])
def test_every_state_that_the_search_gives_is_taken_back(at: int) -> None:
    assert goes_on(saved(at))
