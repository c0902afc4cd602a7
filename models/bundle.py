"""A packaged model: a folder with `model.yaml`, `weights.safetensors`, its card, and whatever its decoder needs.

models/zoo/<name>/
  model.yaml            name, version, architecture (a key of `ARCHITECTURES`), arguments, task, decoder settings
  weights.safetensors   named tensors; never a pickle
  CARD.md               data, licence, command, seed, score, limits
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from models import onnx_tensors
from models.contract import ModelError, StreamModel

ZOO = Path(__file__).parent / "zoo"

ARCHITECTURES: Mapping[str, str] = {
    "speech.ctc_lstm": "models.speech.model:CtcLstm",
    "speech.silero_vad": "models.speech.silero:SileroVad",
    "sensor.forecaster": "models.sensor.model:Forecaster",
}
"""Architecture name to `module:class`; the class is a StreamModel and an nn.Module, built from `arguments`."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded model with what names it in every message and state header.

    fingerprint: first 12 hex digits of the SHA-256 over the names, dtypes, shapes and bytes of all weights and over
    the architecture with its arguments. settings: the parsed `model.yaml`. folder: where the decoder's files lie.
    """

    name: str
    version: str
    fingerprint: str
    model: StreamModel
    task: str
    settings: Mapping[str, Any]
    folder: Path

    @property
    def tag(self) -> str:
        """`name-version@fingerprint`, which is in every message and state header."""
        return f"{self.name}-{self.version}@{self.fingerprint}"


def available() -> list[str]:
    """Names of the models in `models/zoo`."""
    return sorted(p.parent.name for p in ZOO.glob("*/model.yaml"))


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder of a model: a name in the zoo, or a path to a folder with a `model.yaml`."""
    for folder in (ZOO / name_or_path, Path(name_or_path)):
        if (folder / "model.yaml").is_file():
            return folder
    raise ModelError(f"no model {str(name_or_path)!r}: known are {', '.join(available()) or 'none'}, or give a folder")


def load(name_or_path: str | os.PathLike[str]) -> Bundle:
    """Build a model and fill it with its weights, on the CPU and in evaluation mode.

    Raises ModelError, naming the file and the tensor, when a weight is missing, unexpected or of another shape.
    """
    folder = find(name_or_path)
    settings = cast("dict[str, Any]", yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8")))
    for needed in ("name", "version", "architecture", "task"):
        if needed not in settings:
            raise ModelError(f"{folder / 'model.yaml'}: no {needed!r}")
    arguments = settings.get("arguments") or {}
    module = build(settings["architecture"], arguments)
    weights = weights_of(folder, settings)
    fit(module, weights, folder)
    module.eval().requires_grad_(False)
    return Bundle(
        name=settings["name"],
        version=str(settings["version"]),
        fingerprint=fingerprint(settings["architecture"], arguments, weights),
        model=cast(StreamModel, module),
        task=settings["task"],
        settings=settings,
        folder=folder,
    )


def wrap(
    model: StreamModel,
    *,
    name: str,
    version: str = "1",
    task: str = "prediction",
    settings: Mapping[str, Any] | None = None,
) -> Bundle:
    """A bundle around a model that lies in no folder: a user's own network.

    settings: what the task reads of a `model.yaml` (levels, alert rule, ...). The fingerprint covers the class and,
    for an nn.Module, its weights, so that saved states are never continued by another network.
    """
    weights = model.state_dict() if isinstance(model, nn.Module) else {}
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    tensors = {name: tensor.cpu() for name, tensor in weights.items()}
    return Bundle(name, version, fingerprint(kind, {}, tensors), model, task, settings or {}, Path())


def build(architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    """An untrained module of a named architecture."""
    if architecture not in ARCHITECTURES:
        raise ModelError(f"unknown architecture {architecture!r}: known are {', '.join(sorted(ARCHITECTURES))}")
    module_name, _, class_name = ARCHITECTURES[architecture].partition(":")
    make = cast(Callable[..., nn.Module], getattr(importlib.import_module(module_name), class_name))
    try:
        return make(**arguments)
    except TypeError as error:
        raise ModelError(f"{architecture}: arguments do not fit: {error}") from error


def weights_of(folder: Path, settings: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The named tensors of a model folder.

    `weights:` in `model.yaml` may name a file elsewhere, first found wins; `$NAME` and `${NAME}` are environment
    variables (a path with one that is not set is passed over), `package:name/path` is a file of an installed Python
    package, which is not imported. This is for weights that may not be redistributed. An `.onnx` file gives its
    initialisers; `onnx_names:` then says under which of them each tensor of the model is found.
    """
    candidates = [os.path.expandvars(str(c)) for c in settings.get("weights", ["weights.safetensors"])]
    for candidate in candidates:
        path = _located(folder, candidate)
        if path is None or not path.is_file():
            continue
        if path.suffix == ".onnx":
            return _renamed(onnx_tensors.read(path), settings.get("onnx_names") or {}, path)
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ModelError(f"{path}: not a safetensors file: {error}") from error
    raise ModelError(f"{folder}: no weights; looked for {', '.join(candidates)}")


def _located(folder: Path, candidate: str) -> Path | None:
    """Where a weight candidate would lie; None where its variable is not set or its package is not installed."""
    if "$" in candidate:
        return None
    if not candidate.startswith("package:"):
        return folder / candidate
    package, _, inside = candidate.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package)
    places = (spec.submodule_search_locations if spec else None) or []
    return next((Path(place) / inside for place in places), None)


def _renamed(tensors: Mapping[str, torch.Tensor], names: Mapping[str, str], path: Path) -> dict[str, torch.Tensor]:
    """The tensors that `names` asks for (the model's name to the file's), under the model's names."""
    if absent := sorted(set(names.values()) - tensors.keys()):
        raise ModelError(f"{path}: has no tensor {', '.join(absent)}")
    return {ours: tensors[theirs] for ours, theirs in names.items()} if names else dict(tensors)


def fit(module: nn.Module, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Fill `module`, or say every tensor that does not fit."""
    have = module.state_dict()
    wrong = [f"missing {n}" for n in have.keys() - weights.keys()]
    wrong += [f"unexpected {n}" for n in weights.keys() - have.keys()]
    wrong += [
        f"{n} is {tuple(weights[n].shape)}, the model wants {tuple(have[n].shape)}"
        for n in have.keys() & weights.keys()
        if weights[n].shape != have[n].shape
    ]
    if wrong:
        raise ModelError(f"{folder}: weights do not fit the model: {'; '.join(sorted(wrong))}")
    module.load_state_dict(dict(weights))


def fingerprint(architecture: str, arguments: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> str:
    """What the weights and the shape of a model hash to; a state made by one fingerprint fits no other."""
    digest = hashlib.sha256(yaml.safe_dump([architecture, dict(arguments)], sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
