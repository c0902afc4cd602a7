"""Attention over a bounded past: chunked equals whole, what it looks at, and that its state does not grow."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.attention import PastAttention

WIDTH = 6


def attention(span: int = 4, stride: int = 1) -> PastAttention:
    torch.manual_seed(0)
    return PastAttention(WIDTH, span, keys=5, stride=stride).double().eval()


def frames(rows: int, count: int) -> Tensor:
    return torch.randn(rows, count, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def by_definition(model: PastAttention, x: Tensor) -> Tensor:
    """One row (F, H): each frame attends to itself and to the last kept ones before it."""
    out = []
    for at in range(len(x)):
        before = [i for i in range(at) if i % model.stride == 0][-model.span :]
        seen = x[[*before, at]]
        scores = model.key(seen) @ model.query(x[at]) / model.keys**0.5
        out.append(x[at] + model.out(scores.softmax(0) @ model.value(seen)))
    return torch.stack(out)


@pytest.mark.parametrize(("span", "stride"), [(1, 1), (4, 1), (3, 2), (30, 1), (2, 5)])
def test_a_frame_attends_to_itself_and_to_the_kept_ones_before_it(span: int, stride: int) -> None:
    model, x = attention(span, stride), frames(1, 17)
    out, _ = model(x, torch.tensor([17]), model.init_state(1))
    torch.testing.assert_close(out[0], by_definition(model, x[0]), rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=5), stride=st.integers(1, 3))
def test_any_chunking_equals_the_whole_signal(sizes: list[int], stride: int) -> None:
    model, x = attention(3, stride), frames(2, sum(sizes))
    whole, end = model(x, torch.full((2,), x.shape[1]), model.init_state(2))
    state, parts = model.init_state(2), []
    for part in x.split(sizes, dim=1):
        out, state = model(part, torch.full((2,), part.shape[1]), state)
        parts.append(out)
    torch.testing.assert_close({"out": torch.cat(parts, 1), **state}, {"out": whole, **end}, rtol=0, atol=1e-12)


def test_ragged_rows_are_those_rows_alone_whatever_stands_in_the_padding() -> None:
    model, x = attention(), frames(3, 6)
    lengths = torch.tensor([6, 0, 3])
    x[1], x[2, 3:] = torch.nan, torch.nan
    out, state = model(x, lengths, model.init_state(3))
    for row, length in enumerate(lengths.tolist()):
        alone, end = model(x[row : row + 1, :length], torch.tensor([length]), model.init_state(1))
        torch.testing.assert_close(out[row : row + 1, :length], alone, rtol=0, atol=1e-12)
        assert not out[row, length:].any()
        for name, leaf in end.items():
            torch.testing.assert_close(state[name][row : row + 1], leaf, rtol=0, atol=1e-12)


def test_the_state_of_a_long_stream_is_as_large_as_that_of_a_short_one() -> None:
    model = attention(4)
    _, state = model(frames(1, 50), torch.tensor([50]), model.init_state(1))
    assert {name: leaf.shape for name, leaf in state.items()} == {
        name: leaf.shape for name, leaf in model.init_state(1).items()
    }
    assert (state["kept"].item(), state["seen"].item()) == (4, 50)


@pytest.mark.parametrize(("span", "stride"), [(0, 1), (4, 0)])
def test_a_span_or_stride_of_nothing_is_refused(span: int, stride: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PastAttention(WIDTH, span, stride=stride)
