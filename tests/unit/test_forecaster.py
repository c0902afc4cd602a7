"""The forecaster as a streaming model, with random weights: what holds whatever it has learnt."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contract import Outputs, State, StreamModel
from models.sensor import normalizer
from models.sensor.model import LARGEST, Forecaster
from models.sensor.network import LEVELS, pinball
from models.sensor.signals import generate

EVENTS = 160  # past the warm-up of the score
CUTS = st.lists(st.integers(0, 60), max_size=8)


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    torch.manual_seed(5)
    return Forecaster(hidden=16).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def signals() -> torch.Tensor:
    """Six generated streams (6, 160), of every unit and with missing values."""
    rng = np.random.default_rng(11)
    rows = torch.from_numpy(np.stack([generate(rng, EVENTS) for _ in range(6)])).float()
    rows[0, ::7] = torch.nan
    rows[1, :5] = torch.nan
    rows[2, 80:120] = rows[2, 79]
    return rows


def run(forecaster: Forecaster, row: torch.Tensor, sizes: list[int]) -> tuple[Outputs, State]:
    """One stream (T,) or (T, C) in chunks of `sizes` and then what is left: all outputs, and the last state."""
    state, start = forecaster.init_state(1), 0
    found: dict[str, list[torch.Tensor]] = {name: [] for name in forecaster.signature.outputs}
    for size in [*sizes, len(row)]:
        chunk = row[start : start + size]
        x = chunk.reshape(1, len(chunk), forecaster.columns)
        outputs, state = forecaster.step(x, torch.tensor([len(chunk)]), state)
        assert outputs["lengths"].tolist() == [len(chunk)]
        for name, parts in found.items():
            parts.append(outputs[name][0])
        start += size
    return {name: torch.cat(parts) for name, parts in found.items()}, state


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], unit: float) -> None:
    """Equal within 1e-5, relative or in the stream's own unit."""
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        in_units = name in ("quantiles", "expected")
        torch.testing.assert_close(found[name], leaf, rtol=1e-5, atol=1e-5 * (unit if in_units else 1.0), msg=name)


def size_of(row: torch.Tensor) -> float:
    """The largest value of a stream: what an absolute tolerance is measured in."""
    return max(1e-6, float(row.nan_to_num().abs().max()))


def test_it_is_a_stream_model(forecaster: Forecaster) -> None:
    assert isinstance(forecaster, StreamModel)
    assert (forecaster.signature.input, forecaster.signature.samples_per_frame) == ("events", 1)
    assert forecaster.levels == LEVELS


@settings(max_examples=20, deadline=None)
@given(sizes=CUTS, row=st.integers(0, 5))
def test_any_cut_into_chunks_gives_the_same(
    forecaster: Forecaster, signals: torch.Tensor, sizes: list[int], row: int
) -> None:
    whole, state_whole = run(forecaster, signals[row], [])
    cut, state_cut = run(forecaster, signals[row], sizes)
    close(cut, whole, size_of(signals[row]))
    close(state_cut, state_whole, 1.0)


@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(0, EVENTS), min_size=6, max_size=6))
def test_a_row_does_not_depend_on_its_company(
    forecaster: Forecaster, signals: torch.Tensor, lengths: list[int]
) -> None:
    x = signals.clone()
    for row, length in enumerate(lengths):
        x[row, length:] = 1e12  # padding that nobody may look at
    together, states = forecaster.step(x.unsqueeze(2), torch.tensor(lengths), forecaster.init_state(6))
    for row, length in enumerate(lengths):
        alone, state = run(forecaster, signals[row, :length], [])
        close({name: together[name][row, :length] for name in alone}, alone, size_of(signals[row]))
        close({name: states[name][row] for name in state}, {name: leaf[0] for name, leaf in state.items()}, 1.0)


def test_a_row_without_events_keeps_its_state_bit_for_bit(forecaster: Forecaster, signals: torch.Tensor) -> None:
    x = signals.unsqueeze(2)
    _, state = forecaster.step(x, torch.full((6,), EVENTS), forecaster.init_state(6))
    kept = {name: leaf.clone() for name, leaf in state.items()}
    _, after = forecaster.step(x, torch.tensor([0, 3, 0, 0, 0, 0]), state)
    for name, leaf in kept.items():
        assert torch.equal(state[name], leaf)  # the state that went in is untouched
        assert torch.equal(after[name][2:], leaf[2:])
    assert not torch.equal(after["hidden"][1], kept["hidden"][1])


def test_a_step_without_events_gives_nothing(forecaster: Forecaster) -> None:
    state = forecaster.init_state(2)
    outputs, after = forecaster.step(torch.zeros(2, 0, 1), torch.zeros(2, dtype=torch.int64), state)
    assert outputs["quantiles"].shape == (2, 0, len(LEVELS))
    assert all(torch.equal(after[name], leaf) for name, leaf in state.items())


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=12))
def test_any_floats_give_finite_rising_quantiles_and_a_score_in_0_to_1(
    forecaster: Forecaster, values: list[float]
) -> None:
    outputs, state = run(forecaster, torch.tensor(values), [])
    assert all(torch.isfinite(leaf).all() for leaf in [*outputs.values(), *state.values()])
    assert (outputs["quantiles"].diff(dim=-1) >= 0).all()
    assert ((outputs["score"] >= 0) & (outputs["score"] <= 1)).all()


def test_what_is_expected_of_an_event_was_forecast_before_it(forecaster: Forecaster, signals: torch.Tensor) -> None:
    outputs, _ = run(forecaster, signals[3], [])
    assert torch.equal(outputs["expected"][1:], outputs["quantiles"][:-1])
    assert (outputs["expected"][0] == signals[3, 0]).all()


@pytest.mark.parametrize("missing", [math.nan, math.inf, -math.inf, 10 * LARGEST])
def test_a_missing_value_scores_0_and_moves_no_statistic(
    forecaster: Forecaster, signals: torch.Tensor, missing: float
) -> None:
    _, before = run(forecaster, signals[4], [])
    outputs, after = run(forecaster, torch.cat([signals[4], torch.tensor([missing])]), [])
    assert outputs["score"][-1] == 0
    moved = {name for name, leaf in before.items() if not torch.equal(after[name], leaf)}
    assert moved == {"input.gap", "hidden", "forecast"}  # the network is told that nothing came


def test_the_unit_of_measurement_does_not_matter(forecaster: Forecaster, signals: torch.Tensor) -> None:
    row = signals[5] / signals[5].nan_to_num().abs().max() * 100
    plain, _ = run(forecaster, row, [])
    scaled, _ = run(forecaster, row * 1024, [])
    torch.testing.assert_close(scaled["quantiles"], plain["quantiles"] * 1024, rtol=1e-4, atol=0.1)
    torch.testing.assert_close(scaled["score"], plain["score"], rtol=0, atol=1e-4)


def test_further_columns_are_seen_but_only_the_first_is_forecast() -> None:
    torch.manual_seed(3)
    two = Forecaster(columns=2, hidden=8).eval().requires_grad_(False)
    x = torch.randn(40, 2)
    plain, _ = run(two, x, [])
    other, _ = run(two, torch.stack([x[:, 0], x[:, 1].flip(0)], dim=1), [])
    lost, _ = run(two, torch.stack([x[:, 0], torch.full((40,), torch.nan)], dim=1), [])
    assert plain["quantiles"].shape == (40, len(LEVELS))
    assert not torch.allclose(plain["quantiles"], other["quantiles"])
    assert torch.isfinite(lost["quantiles"]).all()


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 2)])
def test_another_number_of_columns_is_refused(forecaster: Forecaster, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(B, T, 1\)"):
        forecaster.step(torch.zeros(shape), torch.tensor([4]), forecaster.init_state(1))


def test_the_layers_are_those_of_torch_over_the_whole_signal(forecaster: Forecaster) -> None:
    features, hidden = torch.randn(2, 30, 1, normalizer.FEATURES), torch.zeros(2, 2, 16)
    top, _ = forecaster.network(features, hidden)
    stacked = torch.nn.GRU(normalizer.FEATURES, 16, num_layers=2, batch_first=True)
    named: dict[str, torch.Tensor] = {}
    for index, layer in enumerate(forecaster.network.layers):
        named |= {name.replace("_l0", f"_l{index}"): leaf for name, leaf in layer.state_dict().items()}
    stacked.load_state_dict(named)
    torch.testing.assert_close(top, stacked(features[:, :, 0])[0], rtol=0, atol=1e-6)


def test_in_bfloat16_the_state_leaves_stay_float32_and_the_scores_stay_near(
    forecaster: Forecaster, signals: torch.Tensor
) -> None:
    rough = copy.deepcopy(forecaster).to(torch.bfloat16)
    lengths = torch.full((6,), EVENTS)
    x = signals.unsqueeze(2)
    expected, _ = forecaster.step(x, lengths, forecaster.init_state(6))
    found, state = rough.step(x, lengths, rough.init_state(6))
    assert {leaf.dtype for leaf in [*state.values(), found["score"], found["quantiles"]]} == {torch.float32}
    torch.testing.assert_close(found["score"], expected["score"], rtol=0, atol=0.1)


def test_the_first_values_make_plain_means(signals: torch.Tensor) -> None:
    values = signals[3, ~signals[3].isnan()][:32].double()
    state = normalizer.init_state(1, 1, torch.device("cpu"))
    for value in values.float():
        _, state = normalizer.advance(value.reshape(1, 1), torch.tensor([True]), state)
    means = values.cumsum(0) / torch.arange(1, 33)
    scale = (values[1:] - means[:-1]).abs().mean()
    torch.testing.assert_close(state["level"].double().item(), means[-1].item(), rtol=1e-4, atol=0)
    torch.testing.assert_close(state["change"].double().item(), values.diff().abs().mean().item(), rtol=1e-4, atol=0)
    torch.testing.assert_close(state["scale"].double().item(), scale.item(), rtol=1e-4, atol=0)


def test_the_pinball_loss_is_least_at_the_quantile() -> None:
    sample = torch.randn(20_000, generator=torch.Generator().manual_seed(2))
    true = torch.quantile(sample, torch.tensor(LEVELS))
    at_quantiles = pinball(sample, true.expand(len(sample), -1)).mean(0)
    for moved in (true - 0.3, true + 0.3):
        assert (pinball(sample, moved.expand(len(sample), -1)).mean(0) > at_quantiles).all()


def test_generated_signals_are_the_same_for_the_same_seed() -> None:
    one, other = (generate(np.random.default_rng(4), 500) for _ in range(2))
    assert np.array_equal(one, other, equal_nan=True)
    assert np.isfinite(one).mean() > 0.8
