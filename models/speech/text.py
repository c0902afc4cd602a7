"""The recognizer's alphabet, and how written English becomes it.

Index 0 is the CTC blank, 1 the space, 2-27 the letters a-z, 28 the apostrophe.
"""

from __future__ import annotations

import re

BLANK = 0
SPACE = 1
ALPHABET = " abcdefghijklmnopqrstuvwxyz'"
VOCABULARY = 1 + len(ALPHABET)

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_SPOKEN = {
    "mr.": "mister",
    "mrs.": "missus",
    "dr.": "doctor",
    "etc.": "et cetera",
    "st.": "saint",
    "&": "and",
    "%": " percent",
}
_INDEX = {letter: position + 1 for position, letter in enumerate(ALPHABET)}


def normalise(written: str) -> str:
    """Lower-case words of a-z and apostrophe, one space between them; what is not spoken is dropped."""
    text = written.lower().replace("\u2019", "'").replace("\u2018", "'")
    for short, spoken in _SPOKEN.items():
        text = text.replace(short, spoken)
    text = re.sub(r"[^a-z']+", " ", text)
    words = (word.strip("'") if word.startswith("'") else word for word in text.split())
    return " ".join(word for word in words if word.strip("'"))


def encode(text: str) -> list[int]:
    """Label indices of normalised text. Raises KeyError for a character outside the alphabet."""
    return [_INDEX[letter] for letter in text]


def decode(labels: list[int]) -> str:
    """Text of label indices without blanks. Raises IndexError for an index outside the alphabet."""
    return "".join(ALPHABET[label - 1] for label in labels)
