"""What the demo says, and the voice that says it: neither is in the speech model's training data."""

from __future__ import annotations

DEMO_VOICE = "en-us+f3"
"""The espeak-ng voice that is kept out of training."""

DEMO_SENTENCES: tuple[str, ...] = (
    "good morning and welcome to the live demonstration",
    "please open the window because the room is getting warm",
    "my sister will arrive at the station in the evening",
    "the old pump in the basement is making a strange noise",
    "we had bread and cheese for lunch beside the river",
    "do not forget to call the doctor before five",
    "the children were playing in the garden until it was dark",
    "I would like a cup of coffee with milk",
    "the train to the city leaves in seven minutes",
    "she read the letter twice and put it in her pocket",
    "turn the machine off when the red light comes on",
    "thank you for listening and have a pleasant day",
)
"""Everyday sentences written for this project."""
