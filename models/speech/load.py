"""The decoder that belongs to a packaged speech model, made from the `decoder:` part of its `model.yaml`.

decoder:
  kind: beam            # or greedy
  lm: lm.npz            # the word n-gram, in the model's folder; its words are the lexicon
  search: {lm_weight: 1.2, word_score: 0.5, beam: 32}
  endpointing: {silence_frames: 20, longest_frames: 667}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from models.bundle import Bundle
from models.contract import ModelError
from models.speech import ngram
from models.speech.decoder import (
    BeamDecoder,
    Decoder,
    Endpointing,
    GreedyDecoder,
    Search,
)
from models.speech.lexicon import lexicon_of

Kind = Literal["beam", "greedy"]


def load_decoder(bundle: Bundle, kind: Kind | None = None) -> Decoder[Any]:
    """Build the decoder of a model; `kind` overrules its `model.yaml`. Its state is opaque to the caller.

    Raises ModelError, naming the file and the setting, when the settings do not fit or the language model is missing.
    """
    settings: Mapping[str, Any] = bundle.settings.get("decoder") or {}
    where = bundle.folder / "model.yaml"
    wanted = kind or settings.get("kind", "beam")
    try:
        endpointing = Endpointing(**settings.get("endpointing", {}))
        search = Search(**settings.get("search", {}))
    except TypeError as error:
        raise ModelError(f"{where}: decoder: {error}") from error
    if wanted == "greedy":
        return GreedyDecoder(endpointing)
    if wanted != "beam":
        raise ModelError(f"{where}: decoder: unknown kind {wanted!r}: known are beam, greedy")
    model = ngram.load(bundle.folder / str(settings.get("lm", "lm.npz")))
    return BeamDecoder(model, lexicon_of(model), search, endpointing)
