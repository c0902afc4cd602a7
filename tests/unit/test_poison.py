"""What `make chaos` takes for poison: no decoder of ours can read it, whichever seed draws it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from streamer.codecs.audio import AudioDecoder
from streamer.codecs.base import Decoder
from streamer.codecs.events import EventDecoder
from streamer.errors import Malformed
from streamer.options import InputOptions, PipelineOptions
from streamer.records import Record
from tests.chaos.history import Fed, History
from tests.chaos.poison import poisoned

GOOD = 40


@pytest.mark.parametrize(
    ("topic", "decoder"),
    [("sensors", EventDecoder(["value"], missing="reject")), ("speech", AudioDecoder())],
    ids=["sensors", "speech"],
)
def test_poison_of_any_seed_is_malformed(topic: str, decoder: Decoder, tmp_path: Path) -> None:
    good = [Fed(topic, 0, b"key", b"", (), 0)] * GOOD
    pipelines = {topic: PipelineOptions(input=InputOptions(topic=topic), model="none")}
    history = History("both", pipelines, good, {}, {})
    read = []
    for seed in range(5):
        _, poison = poisoned(history, 60, random.Random(seed), tmp_path)
        records = [Record(one.topic, 0, n, 0, one.key, one.value, one.headers) for n, one in enumerate(poison)]
        decoded = decoder.decode(records)
        read += [record.headers for record, one in zip(records, decoded, strict=True) if not isinstance(one, Malformed)]
    assert read == []
