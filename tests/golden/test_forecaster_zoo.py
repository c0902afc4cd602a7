"""The shipped machine forecaster: fixed outputs on a made-up pump, and alerts on a recording it never learnt from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models import bundle
from models.bundle import Bundle
from models.contract import Outputs
from models.sensor import corpus, nab
from models.sensor.evaluate import alert_quality, forecast_quality, run_all
from models.sensor.hysteresis import QUIET, AlertEvent, advance, rule_from
from models.sensor.network import LEVELS

FAULT = slice(900, 960)
needs_nab = pytest.mark.skipif(not (corpus.data_folder() / "nab").is_dir(), reason="no nab in the data folder")


@pytest.fixture(scope="module")
def packed() -> Bundle:
    return bundle.load("machine-forecaster")


def pump(faulty: bool) -> torch.Tensor:
    """1,200 temperatures (T,): a daily rhythm of 96 events, a quick one of 7.3, some roughness; 60 events too cold."""
    t = np.arange(1200)
    y = 70 + 5 * np.sin(2 * np.pi * t / 96) + 1.5 * np.sin(2 * np.pi * t / 7.3) + 0.4 * np.sin(0.37 * t**2)
    if faulty:
        y[FAULT] -= 18.0
    return torch.from_numpy(y).float()


def outputs_of(packed: Bundle, values: torch.Tensor) -> Outputs:
    """All outputs of one stream, without the batch dimension."""
    model = packed.model
    with torch.inference_mode():
        outputs, _ = model.step(values.reshape(1, -1, 1), torch.tensor([len(values)]), model.init_state(1))
    return {name: leaf[0] for name, leaf in outputs.items()}


def alerts_of(packed: Bundle, score: torch.Tensor) -> list[AlertEvent]:
    """The changes that the shipped rule makes of a score, five minutes between events."""
    rule, state, found = rule_from(packed.settings["alert"]), QUIET, []
    for index, value in enumerate(score.tolist()):
        state, event = advance(rule, state, index * 300_000, value)
        found += [event] if event else []
    return found


@pytest.mark.parametrize(
    ("event", "expected", "score"),
    [
        (100, [67.6803, 69.0034, 69.3832, 69.9488, 70.5086, 71.0275, 71.6736, 72.0698, 73.2761], 0.1152),
        (500, [71.9563, 73.4575, 74.0441, 74.9524, 75.8176, 76.6154, 77.4537, 77.8977, 78.6995], 0.2255),
        (905, [47.0539, 51.7762, 52.2252, 52.6422, 52.9777, 53.7424, 54.9855, 56.7135, 63.0247], 0.4983),
    ],
)
def test_the_shipped_weights_give_the_recorded_forecasts(
    packed: Bundle, event: int, expected: list[float], score: float
) -> None:
    outputs = outputs_of(packed, pump(faulty=True))
    torch.testing.assert_close(outputs["expected"][event], torch.tensor(expected), rtol=1e-4, atol=1e-3)
    assert outputs["score"][event].item() == pytest.approx(score, abs=1e-3)


def test_chunks_of_seven_give_the_same_as_the_whole(packed: Bundle) -> None:
    values, model = pump(faulty=True), packed.model
    state = model.init_state(1)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in model.signature.outputs}
    for chunk in values.split(7):
        outputs, state = model.step(chunk.reshape(1, -1, 1), torch.tensor([len(chunk)]), state)
        for name, parts in found.items():
            parts.append(outputs[name][0])
    whole = outputs_of(packed, values)
    for name, parts in found.items():
        torch.testing.assert_close(torch.cat(parts), whole[name], rtol=1e-5, atol=1e-5)


def test_a_healthy_pump_is_quiet_and_its_band_holds_four_values_in_five(packed: Bundle) -> None:
    values = pump(faulty=False)
    outputs = outputs_of(packed, values)
    assert alerts_of(packed, outputs["score"]) == []
    low, high = outputs["expected"][200:, LEVELS.index(0.1)], outputs["expected"][200:, LEVELS.index(0.9)]
    inside = (values[200:] >= low) & (values[200:] <= high)
    assert 0.75 < inside.double().mean().item() < 0.85


def test_a_fault_fires_at_once_and_resolves_after_it(packed: Bundle) -> None:
    fired, *more, resolved = alerts_of(packed, outputs_of(packed, pump(faulty=True))["score"])
    assert (fired.status, fired.severity, fired.time_ms) == ("firing", "major", FAULT.start * 300_000)
    assert all(event.status == "escalated" for event in more)
    assert resolved.status == "resolved"
    assert FAULT.stop <= resolved.time_ms / 300_000 < FAULT.stop + 60


def test_the_settings_name_the_levels_of_the_model(packed: Bundle) -> None:
    assert (packed.task, tuple(packed.settings["levels"])) == ("alert", LEVELS)


@pytest.mark.data
@needs_nab
def test_it_finds_the_holidays_in_the_taxi_rides_of_a_city(packed: Bundle) -> None:
    """Held out of training: marathon, Thanksgiving and Christmas lie in the first 8,700 half hours."""
    whole = next(r for r in corpus.read_nab(corpus.data_folder() / "nab") if r.name.endswith("nyc_taxi.csv"))
    events = 8700
    recording = corpus.Recording(
        whole.name, whole.time_ms[:events], whole.value[:events], whole.windows_ms[:3], whole.training
    )
    (run,) = run_all(packed.model, [recording])
    assert not recording.training
    alerts = alert_quality(run, rule_from(packed.settings["alert"]))
    assert (alerts["windows"], alerts["windows_hit"]) == (3, 3)
    assert alerts["false_alerts"] <= 1
    quality = forecast_quality(run)
    assert quality["median_pinball"] < 0.8 * quality["median_pinball_persistence"]
    assert 0.75 < quality["coverage_80"] < 0.85
    assert nab.windows_of(recording)[0] == (5839, 6045)
