"""Heads: distributions that are ones, and losses that are least where they ought to be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributions

from models import heads

HIDDEN = 6


def top(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_quantiles_never_cross(seed: int) -> None:
    torch.manual_seed(seed)
    head = heads.Quantiles(HIDDEN, (0.05, 0.25, 0.5, 0.75, 0.95)).double()
    quantiles = head(top(4, 3, seed=seed))
    assert quantiles.shape == (4, 3, 5)
    assert bool((quantiles.diff(dim=-1) > 0).all())


def test_the_pinball_loss_is_least_at_the_quantile() -> None:
    head = heads.Quantiles(HIDDEN, (0.1, 0.5, 0.9))
    sample = torch.randn(20_001, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    right = torch.quantile(sample, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))

    def mean_loss(quantiles: Tensor) -> Tensor:
        return head.loss(quantiles.expand(len(sample), 3), sample).mean(0)

    for off in (-0.05, 0.05):
        assert bool((mean_loss(right) < mean_loss(right + off)).all())


@pytest.mark.parametrize("levels", [(0.1, 0.9), (0.5, 0.1, 0.9), (0.1, 0.5, 0.5), (0.0, 0.5, 1.0)])
def test_levels_that_are_none_are_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="odd number of rising levels"):
        heads.Quantiles(HIDDEN, levels)


def test_a_gaussians_loss_is_torchs_negative_log_density() -> None:
    head = heads.Gaussian(HIDDEN).double()
    said, target = head(top(5)), torch.randn(5, dtype=torch.float64)
    torch.testing.assert_close(
        head.loss(said, target), -distributions.Normal(said.mean, said.deviation).log_prob(target)
    )


def test_a_mixtures_loss_and_mean_are_torchs() -> None:
    head = heads.Mixture(HIDDEN, 3).double()
    said, target = head(top(5)), torch.randn(5, dtype=torch.float64)
    theirs = distributions.MixtureSameFamily(
        distributions.Categorical(logits=said.log_weights), distributions.Normal(said.parts.mean, said.parts.deviation)
    )
    torch.testing.assert_close(head.loss(said, target), -theirs.log_prob(target))
    torch.testing.assert_close(said.mean, theirs.mean)


def test_frames_are_tagged_each_by_itself() -> None:
    head = heads.Classes(HIDDEN, 4).double()
    frames, tags = top(2, 3), torch.tensor([[0, 3, 1], [2, 2, 0]])
    logits = head(frames)
    assert logits.shape == (2, 3, 4)
    torch.testing.assert_close(head.loss(logits, tags), -logits.log_softmax(-1).gather(-1, tags[..., None])[..., 0])


def test_a_signal_is_classified_by_each_rows_own_last_frame() -> None:
    frames = top(2, 4)
    assert torch.equal(heads.last(frames, torch.tensor([4, 2])), torch.stack([frames[0, 3], frames[1, 1]]))
