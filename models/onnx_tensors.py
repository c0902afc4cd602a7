"""The float32 initialisers of an ONNX file, read without the onnx package.

Some networks are published only as ONNX though their weights are plain tensors. An ONNX file is one Protocol Buffers
message; only the few fields that hold weights are read (onnx.proto: ModelProto.graph 7; GraphProto.node 1,
initializer 5; NodeProto.attribute 5; AttributeProto.g 6; TensorProto.dims 1, data_type 2, float_data 4, name 8,
raw_data 9). The graph itself is not looked at, and nothing in the file is executed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from models.contract import ModelError

_FLOAT = 1  # TensorProto.DataType.FLOAT
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


def read(path: Path) -> dict[str, torch.Tensor]:
    """Name to float32 tensor, of the graph and the graphs inside it. Raises ModelError where it is no ONNX file."""
    try:
        found: dict[str, torch.Tensor] = {}
        for field, graph in _fields(memoryview(path.read_bytes())):
            if field == 7 and isinstance(graph, memoryview):
                found.update(_of_graph(graph))
    except (IndexError, ValueError) as error:
        raise ModelError(f"{path}: not an ONNX file: {error}") from error
    if not found:
        raise ModelError(f"{path}: an ONNX file without float32 initialisers, or none at all")
    return found


def _of_graph(graph: memoryview) -> Iterator[tuple[str, torch.Tensor]]:
    for field, part in _fields(graph):
        if field == 5 and isinstance(part, memoryview):
            yield from _tensor(part)
        elif field == 1 and isinstance(part, memoryview):
            for inner in _subgraphs(part):
                yield from _of_graph(inner)


def _subgraphs(node: memoryview) -> Iterator[memoryview]:
    """The graphs in a node's attributes: the branches of an If, the body of a Loop."""
    for field, attribute in _fields(node):
        if field == 5 and isinstance(attribute, memoryview):
            for inner, value in _fields(attribute):
                if inner == 6 and isinstance(value, memoryview):
                    yield value


def _tensor(message: memoryview) -> Iterator[tuple[str, torch.Tensor]]:
    """One pair for a float32 tensor, none for any other."""
    shape: list[int] = []
    kind, name, data = 0, "", b""
    for field, value in _fields(message):
        if isinstance(value, int):
            shape += [value] if field == 1 else []
            kind = value if field == 2 else kind
        elif field == 1:
            shape += [number for number, _ in _varints(value)]
        elif field == 8:
            name = bytes(value).decode()
        elif field in (4, 9):
            data += bytes(value)
    if kind == _FLOAT:
        yield name, torch.from_numpy(np.frombuffer(data, dtype="<f4").reshape(shape).copy())


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Field number and value: bytes of a length-delimited or fixed field, or the number of a varint."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == _VARINT:
            number, at = _varint(message, at)
            yield key >> 3, number
            continue
        if key & 7 == _BYTES:
            size, at = _varint(message, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(key & 7, -1)
        if size < 0 or at + size > len(message):
            raise ValueError(f"field {key >> 3} at byte {at} does not fit")
        yield key >> 3, message[at : at + size]
        at += size


def _varints(packed: memoryview) -> Iterator[tuple[int, int]]:
    at = 0
    while at < len(packed):
        number, at = _varint(packed, at)
        yield number, at


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A base-128 number and the place behind it."""
    number, shift = 0, 0
    while True:
        byte = message[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
