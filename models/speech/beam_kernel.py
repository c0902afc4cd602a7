"""The beam search of `models.speech.beam` in machine code: all frames of a call at once, no Python object touched.

Compiled when it is imported, in some seconds or from numba's cache. Nothing here checks bounds: indices are checked
where tables are made (`models.speech.ngram`) and states restored (`models.speech.beam_state`). Scalar double precision
in a fixed order: the same bits on every run, however the frames were cut.

In one file, for the cache knows that file alone. `n` counts the beam's prefixes, `known` the histories.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.speech.beam_tables import Language, Limits, Tables, Trie
from models.speech.beam_work import KEPT_HISTORIES, MOST_NATS, Beam, Drafts, Floats, Heard, Ints, Pasts, Room
from models.speech.compiled import compiled, inlined, types
from models.speech.lexicon import ROOT
from models.speech.ngram import END
from models.speech.text import BLANK, SPACE

Plain = tuple[Any, ...]
"""A named tuple's values: numba takes a plain tuple apart at half the cost."""

HISTORY, NODE, START, LAST = range(4)  # columns of a prefix's integers
CLOSED, OPEN, HEARD, LARGEST = range(4)  # columns of its masses: ending in blank, in its label; LARGEST in drafts alone
PARENT, WORD, CONTEXT, WORD_START, WORD_END = range(5)  # columns of a history

_FEW = 128
_SPREAD = 0x1E3779B97F4A7C15  # multiplicative hashing: 2**64 / golden ratio, kept positive in 64 bits


@inlined
def find(keys: Ints, low: int, high: int, key: int) -> int:
    """Where a key lies in sorted keys[low:high], or -1."""
    end = high
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low if low < end and keys[low] == key else -1


@inlined
def score(language: Language, context: int, word: int) -> float:
    """Natural log of P(word | context), as `NGram.score`."""
    size, starts, keys = language.size, language.bigram_start, language.bigram_keys
    first, last = context // size, context % size
    backed_off = 0.0
    pair = find(keys, starts[first], starts[first + 1], context)
    if pair >= 0:
        low, high = language.trigram_start[pair], language.trigram_start[pair + 1]
        triple = find(language.trigram_keys, low, high, pair * size + word)
        if triple >= 0:
            return np.float64(language.trigram[triple])
        backed_off = np.float64(language.bigram_backoff[pair])
    pair = find(keys, starts[last], starts[last + 1], last * size + word)
    if pair >= 0:
        return backed_off + np.float64(language.bigram[pair])
    return backed_off + np.float64(language.unigram_backoff[last]) + np.float64(language.unigram[word])


@inlined
def word_nats(tables: Tables, context: int, node: int) -> float:
    """What a finished word adds to its prefix, which was paid the look-ahead in advance."""
    trie, limits = tables.trie, tables.limits
    told: float = score(tables.language, context, trie.word[node]) - trie.ahead[node]
    return limits.lm_weight * told + limits.word_score


@inlined
def link(pasts: Pasts, number: int) -> None:
    """Enter a history, from which none has grown, among those grown from its parent."""
    parent = pasts.ints[number, PARENT]
    pasts.first[number] = -1
    pasts.sibling[number] = pasts.first[parent]
    pasts.first[parent] = number


@inlined
def enter(room: Room, beam_index: Ints, beam_mass: Floats, past_index: Ints, past_confidence: Floats) -> None:
    """Copy a state to where there is room for more."""
    beam, pasts = room.beam, room.pasts
    for row in range(len(beam_index)):
        for column in range(4):
            beam.ints[row, column] = beam_index[row, column]
        for column in range(3):
            beam.mass[row, column] = beam_mass[row, column]
    pasts.first[0] = -1
    for number in range(len(past_index)):
        for column in range(5):
            pasts.ints[number, column] = past_index[number, column]
        pasts.confidence[number] = past_confidence[number]
        if number > 0:
            link(pasts, number)


@inlined
def grow(tables: Tables, room: Room, row: int, known: int) -> int:
    """The history of a prefix with its word finished; written behind the `known` ones unless it is among them."""
    beam, pasts, size = room.beam, room.pasts, tables.language.size
    history, node = beam.ints[row, HISTORY], beam.ints[row, NODE]
    word = tables.trie.word[node]
    number: int = pasts.first[history]
    while number >= 0 and pasts.ints[number, WORD] != word:
        number = pasts.sibling[number]
    if number >= 0:
        return number
    pasts.ints[known, PARENT], pasts.ints[known, WORD] = history, word
    pasts.ints[known, CONTEXT] = pasts.ints[history, CONTEXT] % size * size + word
    pasts.ints[known, WORD_START], pasts.ints[known, WORD_END] = beam.ints[row, START], beam.ints[row, LAST] + 1
    pasts.confidence[known] = math.exp(beam.mass[row, HEARD] / tables.trie.letters[node])
    link(pasts, known)
    return known


@inlined
def add(
    drafts: Drafts, count: int, key: int, mask: int, ints: tuple[int, int, int, int], mass: tuple[float, float, float]
) -> int:
    """Give mass to a prefix; how it was heard is remembered from the largest part. Returns the number of drafts."""
    history, node, start, last = ints
    closed, opened, heard = mass
    slot = (key * _SPREAD >> 32) & mask
    while drafts.slots[slot] >= 0:
        row = drafts.slots[slot]
        if drafts.ints[row, NODE] == node and drafts.ints[row, HISTORY] == history:
            drafts.mass[row, CLOSED] += closed
            drafts.mass[row, OPEN] += opened
            if closed + opened > drafts.mass[row, LARGEST]:
                drafts.mass[row, LARGEST], drafts.mass[row, HEARD] = closed + opened, heard
                drafts.ints[row, START], drafts.ints[row, LAST] = start, last
            return count
        slot = (slot + 1) & mask
    drafts.slots[slot] = count
    drafts.ints[count, HISTORY], drafts.ints[count, NODE] = history, node
    drafts.ints[count, START], drafts.ints[count, LAST] = start, last
    drafts.mass[count, CLOSED], drafts.mass[count, OPEN] = closed, opened
    drafts.mass[count, HEARD], drafts.mass[count, LARGEST] = heard, closed + opened
    return count + 1


@inlined
def clear(slots: Ints, drafts: int) -> int:
    """Empty as many slots as so many drafts fill by half at most. Returns the mask of their numbers."""
    size = 64
    while size < 2 * drafts:
        size *= 2
    for slot in range(size):
        slots[slot] = -1
    return size - 1


@inlined
def draft(tables: Tables, room: Room, n: int, known: int, labels: int, frame: int) -> tuple[int, int]:
    """Every prefix stays or grows by each probable label. Returns the numbers of drafts and of histories."""
    trie, beam, heard, drafts = tables.trie, room.beam, room.heard, room.drafts
    nodes, mask, count = len(trie.word), clear(drafts.slots, n * (labels + 2)), 0
    blank, space = heard.prob[BLANK], heard.prob[SPACE]
    for row in range(n):
        history, node = beam.ints[row, HISTORY], beam.ints[row, NODE]
        start, last, sure = beam.ints[row, START], beam.ints[row, LAST], beam.mass[row, HEARD]
        closed, opened, own = beam.mass[row, CLOSED], beam.mass[row, OPEN], trie.label[node]
        mass, key = closed + opened, history * nodes
        # spaces before a word change nothing
        stay = mass * space if node == ROOT else opened * heard.prob[own]
        count = add(drafts, count, key + node, mask, (history, node, start, last), (mass * blank, stay, sure))
        if space > 0.0 and trie.word[node] >= 0:
            grown = grow(tables, room, row, known)
            known = max(known, grown + 1)
            come = mass * space * math.exp(word_nats(tables, room.pasts.ints[history, CONTEXT], node))
            count = add(drafts, count, grown * nodes, mask, (grown, ROOT, frame, frame), (0.0, come, 0.0))
        for at in range(labels):
            label = heard.label[at]
            child = int(trie.children[node, label])
            if child > 0:
                come = (closed if label == own else mass) * heard.prob[label] * trie.gain[child]
                ints = (history, child, frame if node == ROOT else start, frame)
                count = add(drafts, count, key + child, mask, ints, (0.0, come, sure + heard.nats[label]))
    return count, known


@inlined
def place(order: Ints, total: Floats, count: int) -> None:
    """Sort few: each goes behind as many as are larger. Quadratic, but the processor has no branch to guess."""
    for at in range(count):
        order[1, at] = -1
    for at in range(count):
        mass, to = total[0, at], 0
        for other in range(count):
            to += total[0, other] > mass
        while order[1, to] >= 0:  # taken by an equal one that came before
            to += 1
        order[1, to] = order[0, at]


@inlined
def rank(order: Ints, total: Floats, count: int) -> int:
    """Sort order[0] by falling total[0], equal ones as they were. Returns the row of `order` that holds the result."""
    if count <= _FEW:
        place(order, total, count)
        return 1
    side, width = 0, 1
    while width < count:  # a merge sort
        for low in range(0, count, 2 * width):
            left, middle, high = low, min(low + width, count), min(low + 2 * width, count)
            right = middle
            for at in range(low, high):
                if left < middle and (right >= high or total[side, left] >= total[side, right]):
                    order[1 - side, at], total[1 - side, at] = order[side, left], total[side, left]
                    left += 1
                else:
                    order[1 - side, at], total[1 - side, at] = order[side, right], total[side, right]
                    right += 1
        side, width = 1 - side, 2 * width
    return side


@inlined
def prune(room: Room, count: int, limits: Limits, n: int) -> int:
    """Write the best drafts to the beam, scaled so that the best has mass 1. Returns how many.

    Where none has any mass, no word of the lexicon can go on: the beam of n stays as it was.
    """
    beam, drafts, total, best = room.beam, room.drafts, room.drafts.total, 0.0
    for row in range(count):
        total[0, row] = drafts.mass[row, CLOSED] + drafts.mass[row, OPEN]
        best = max(best, total[0, row])
    kept, scale = 0, 1.0 / best
    if not 0.0 < scale < math.inf:
        return n
    for row in range(count):
        if total[0, row] >= best * limits.floor:
            drafts.order[0, kept], total[0, kept] = row, total[0, row]
            kept += 1
    side, n = rank(drafts.order, total, kept), min(kept, limits.beam)
    for row in range(n):
        chosen = drafts.order[side, row]
        for column in range(4):
            beam.ints[row, column] = drafts.ints[chosen, column]
        beam.mass[row, CLOSED] = drafts.mass[chosen, CLOSED] * scale
        beam.mass[row, OPEN] = drafts.mass[chosen, OPEN] * scale
        beam.mass[row, HEARD] = drafts.mass[chosen, HEARD]
    return n


@inlined
def collect(room: Room, n: int, known: int) -> int:
    """Keep only the histories that some prefix still stands on. Returns how many."""
    beam, pasts, moved = room.beam, room.pasts, room.pasts.moved
    for number in range(known):
        moved[number] = -1
    moved[0] = 0
    for row in range(n):
        history = beam.ints[row, HISTORY]
        while moved[history] < 0:
            moved[history] = 0
            history = pasts.ints[history, PARENT]
    kept, pasts.first[0] = 1, -1
    for number in range(1, known):
        if moved[number] == 0:
            moved[number] = kept
            for column in range(5):
                pasts.ints[kept, column] = pasts.ints[number, column]
            pasts.ints[kept, PARENT] = moved[pasts.ints[number, PARENT]]
            pasts.confidence[kept] = pasts.confidence[number]
            link(pasts, kept)
            kept += 1
    for row in range(n):
        beam.ints[row, HISTORY] = moved[beam.ints[row, HISTORY]]
    return kept


@inlined
def loudest(log_probs: NDArray[np.float32], at: int) -> int:
    """The most probable label of a frame, the first of equals; -1 when some value is no log probability."""
    top = 0
    for label in range(log_probs.shape[1]):
        if not log_probs[at, label] <= MOST_NATS:  # or not a number
            return -1
        if log_probs[at, label] > log_probs[at, top]:
            top = label
    return top


@inlined
def listen(log_probs: NDArray[np.float32], at: int, limits: Limits, heard: Heard) -> int:
    """Write what a frame says to `heard`. Returns the number of probable labels."""
    count = 0
    for label in range(log_probs.shape[1]):
        nats = np.float64(log_probs[at, label])
        heard.prob[label] = 0.0
        if label != BLANK and nats > -limits.label_nats:
            heard.label[count] = label
            heard.prob[label], heard.nats[label] = math.exp(nats), nats
            count += 1
    heard.prob[BLANK] = math.exp(np.float64(log_probs[at, BLANK]) - limits.blank_nats)
    return count


@inlined
def hear(
    tables: Tables, room: Room, n: int, known: int, log_probs: NDArray[np.float32], at: int, frame: int
) -> tuple[int, int]:
    """One frame. Returns the numbers of prefixes and of histories."""
    beam = room.beam
    if math.exp(np.float64(log_probs[at, BLANK])) > tables.limits.skip_blank:
        for row in range(n):  # a certain blank: no last label goes on
            beam.mass[row, CLOSED] += beam.mass[row, OPEN]
            beam.mass[row, OPEN] = 0.0
        return n, known
    labels = listen(log_probs, at, tables.limits, room.heard)
    count, known = draft(tables, room, n, known, labels, frame)
    return prune(room, count, tables.limits, n), known


def _array(kind: Any, dimensions: int = 1) -> Any:
    return types.Array(kind, dimensions, "C")


_INTS, _FLOATS = _array(types.int64), _array(types.float64)
_INDEX, _MASS = _array(types.int64, 2), _array(types.float64, 2)
_STARTS, _NATS = _array(types.int32), _array(types.float32)
_TABLES = (  # the fields of Tables
    types.Tuple([_array(types.int32, 2), _STARTS, _STARTS, _STARTS, _FLOATS, _FLOATS]),
    types.Tuple([types.int64, _NATS, _NATS, _STARTS, _INTS, _NATS, _NATS, _STARTS, _INTS, _NATS]),
    types.Tuple([types.float64, types.float64, types.int64, *[types.float64] * 4]),
)
_ROOM = (  # the fields of Room
    types.Tuple([_INDEX, _MASS]),
    types.Tuple([_INDEX, _FLOATS, _INTS, _INTS, _INTS]),
    types.Tuple([_INDEX, _MASS, _MASS, _INTS, _INDEX]),
    types.Tuple([_INTS, _FLOATS, _FLOATS]),
)
_CLOCK = (types.int64, types.int64, types.int64)
_STATE = (_INDEX, _MASS, _INDEX, _FLOATS)


@compiled(types.UniTuple(types.int64, 5)(*_TABLES, *_ROOM, *_CLOCK, *_STATE, _array(types.float32, 2)))
def search(
    trie: Plain,
    language: Plain,
    limits: Plain,
    beam: Plain,
    pasts: Plain,
    drafts: Plain,
    heard: Plain,
    frame: int,
    onset: int,
    silent_frames: int,
    beam_index: Ints,
    beam_mass: Floats,
    past_index: Ints,
    past_confidence: Floats,
    log_probs: NDArray[np.float32],
) -> tuple[int, int, int, int, int]:
    """Go on over (F, V) more frames. Beam and histories are left in the room; returns the clock and their numbers.

    It stops early where the room might not do, and before a frame that holds something that is no log probability.
    """
    tables = Tables(Trie(*trie), Language(*language), Limits(*limits))
    room = Room(Beam(*beam), Pasts(*pasts), Drafts(*drafts), Heard(*heard))
    enter(room, beam_index, beam_mass, past_index, past_confidence)
    n, known = len(beam_index), len(past_index)
    for at in range(len(log_probs)):
        top = loudest(log_probs, at)
        if top < 0 or known + n > len(room.pasts.confidence):
            break
        n, known = hear(tables, room, n, known, log_probs, at, frame)
        if top <= SPACE:
            silent_frames += 1
        else:
            onset, silent_frames = frame if onset < 0 else onset, 0
        frame += 1
        if known > KEPT_HISTORIES:
            known = collect(room, n, known)
    return frame, onset, silent_frames, n, known


@compiled(types.void(*_TABLES, _INDEX, _MASS, _INDEX, _FLOATS))
def close(
    trie: Plain,
    language: Plain,
    limits: Plain,
    beam_index: Ints,
    beam_mass: Floats,
    past_index: Ints,
    masses: Floats,
) -> None:
    """Write each prefix's mass as a whole sentence to masses, (n,): 0 where its last word is unfinished."""
    tables = Tables(Trie(*trie), Language(*language), Limits(*limits))
    size, weight = tables.language.size, tables.limits.lm_weight
    for row in range(len(beam_index)):
        node, context, nats = beam_index[row, NODE], past_index[beam_index[row, HISTORY], CONTEXT], 0.0
        word = tables.trie.word[node]
        masses[row] = 0.0
        if node != ROOT and word < 0:
            continue
        if node != ROOT:
            nats = word_nats(tables, context, node)
            context = context % size * size + word
        end = math.exp(nats + weight * score(tables.language, context, END))
        masses[row] = (beam_mass[row, CLOSED] + beam_mass[row, OPEN]) * end
