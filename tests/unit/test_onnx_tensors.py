"""Reading weights out of an ONNX file, with messages written here byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from models import onnx_tensors
from models.contract import ModelError


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name: str, shape: list[int], values: list[float], data_field: int = 9) -> bytes:
    dims = b"".join(field(1, size) for size in shape)
    return dims + field(2, 1) + field(8, name.encode()) + field(data_field, struct.pack(f"<{len(values)}f", *values))


def write(path: Path, graph: bytes) -> Path:
    path.write_bytes(field(1, 8) + field(7, graph))
    return path


def test_initialisers_have_their_names_shapes_and_values(tmp_path: Path) -> None:
    graph = field(5, tensor("a", [2, 300], [0.5] * 600)) + field(5, tensor("b", [2], [1.0, -2.0], data_field=4))
    found = onnx_tensors.read(write(tmp_path / "m.onnx", graph))
    assert torch.equal(found["a"], torch.full((2, 300), 0.5))
    assert torch.equal(found["b"], torch.tensor([1.0, -2.0]))


def test_initialisers_of_a_branch_are_found(tmp_path: Path) -> None:
    branch = field(5, tensor("inner", [1], [3.0]))
    node = field(5, field(1, b"then_branch") + field(6, branch))
    assert onnx_tensors.read(write(tmp_path / "m.onnx", field(1, node)))["inner"].tolist() == [3.0]


def test_integers_are_passed_over(tmp_path: Path) -> None:
    whole = field(1, 1) + field(2, 7) + field(8, b"shape") + field(9, struct.pack("<q", 4))
    found = onnx_tensors.read(write(tmp_path / "m.onnx", field(5, whole) + field(5, tensor("a", [1], [1.0]))))
    assert list(found) == ["a"]


@pytest.mark.parametrize("damage", [b"", b"RIFF and so on", field(7, field(5, tensor("a", [4], [1.0])))])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(damage)
    with pytest.raises(ModelError, match=r"m\.onnx"):
        onnx_tensors.read(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", field(5, tensor("a", [2, 3], [0.5] * 6)))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ModelError, match="not an ONNX file"):
        onnx_tensors.read(path)
