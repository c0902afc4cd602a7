"""How good is the forecaster: `python -m models.sensor.evaluate [--model NAME] [--out FILE]`.

Every NAB file is read once, event by event, strictly causally and with one setting for all files; the result is JSON:
pinball loss against persistence, coverage of the 80 % band, alerts, windows hit, false alerts, and the benchmark's
own score beside that of a windowed Gaussian run through the same scorer (its published score is 39.6, so the scorer
can be checked). Files that the model was trained on are reported apart from those held out.

Shape legend: N files, T events of one file, Q quantiles.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models import bundle
from models.contract import StreamModel
from models.sensor import corpus, nab
from models.sensor.corpus import Recording
from models.sensor.hysteresis import QUIET, AlertRule, advance, rule_from, with_threshold
from models.sensor.network import LEVELS, MEDIAN, pinball

_CHUNK_EVENTS = 256
_LOW, _HIGH = LEVELS.index(0.1), LEVELS.index(0.9)
_GAUSSIAN_EVENTS, _GAUSSIAN_RENEWED = 6400, 100  # of the benchmark's own windowed Gaussian


@dataclass(frozen=True, slots=True)
class Run:
    """One recording through the model. expected: (T, Q), forecast before the event; score: (T,)."""

    recording: Recording
    expected: NDArray[np.float32]
    score: NDArray[np.float32]


def run_all(model: StreamModel, recordings: Sequence[Recording]) -> list[Run]:
    """All recordings as rows of one batch, in chunks, the state carried."""
    lengths = torch.tensor([len(recording.value) for recording in recordings])
    x = torch.full((len(recordings), int(lengths.max()), 1), torch.nan)
    for row, recording in enumerate(recordings):
        x[row, : len(recording.value), 0] = torch.from_numpy(recording.value).float()
    state = model.init_state(len(recordings))
    expected: list[torch.Tensor] = []
    score: list[torch.Tensor] = []
    with torch.inference_mode():
        for start in range(0, x.shape[1], _CHUNK_EVENTS):
            chunk = x[:, start : start + _CHUNK_EVENTS]
            outputs, state = model.step(chunk, (lengths - start).clamp(0, chunk.shape[1]), state)
            expected.append(outputs["expected"])
            score.append(outputs["score"])
    all_expected, all_scores = torch.cat(expected, dim=1).numpy(), torch.cat(score, dim=1).numpy()
    sizes = [len(recording.value) for recording in recordings]
    return [
        Run(recording, all_expected[row, :size], all_scores[row, :size])
        for row, (recording, size) in enumerate(zip(recordings, sizes, strict=True))
    ]


def firings(run: Run, rule: AlertRule) -> NDArray[np.bool_]:
    """(T,) true at the events where an alert fires."""
    state, fired = QUIET, np.zeros(len(run.score), dtype=np.bool_)
    for index, (time_ms, score) in enumerate(zip(run.recording.time_ms.tolist(), run.score.tolist(), strict=True)):
        state, event = advance(rule, state, time_ms, score)
        fired[index] = event is not None and event.status == "firing"
    return fired


def forecast_quality(run: Run) -> dict[str, float]:
    """Loss of one file over all events but the first, in the file's mean absolute change, and its coverage."""
    value = torch.from_numpy(run.recording.value).float()
    quantiles, before = torch.from_numpy(run.expected)[1:], value[:-1]
    unit = value.diff().abs().mean().clamp(min=1e-9)
    inside = (value[1:] >= quantiles[:, _LOW]) & (value[1:] <= quantiles[:, _HIGH])
    loss = pinball(value[1:], quantiles).mean(0) / unit  # (Q,)
    persisted = pinball(value[1:], before.unsqueeze(1).expand_as(quantiles)).mean(0) / unit
    return {
        "pinball": float(loss.mean()),
        "pinball_persistence": float(persisted.mean()),
        "median_pinball": float(loss[MEDIAN]),
        "median_pinball_persistence": float(persisted[MEDIAN]),
        "coverage_80": float(inside.float().mean()),
    }


def alert_quality(run: Run, rule: AlertRule) -> dict[str, Any]:
    """What the rule's alerts hit and miss after the probation."""
    fired = np.flatnonzero(firings(run, rule))
    fired = fired[fired >= nab.probation_events(len(run.score))]
    windows = nab.windows_of(run.recording)
    hit = [bool(((fired >= first) & (fired <= last)).any()) for first, last in windows]
    false = [int(e) for e in fired if not any(first <= e <= last for first, last in windows)]
    return {"events": len(run.score), "alerts": len(fired), "windows": len(windows), "windows_hit": sum(hit)} | {
        "false_alerts": len(false)
    }


def summary(runs: Sequence[Run], rule: AlertRule) -> dict[str, float]:
    """Means and sums over files, and the benchmark's three profiles."""
    forecasts = [forecast_quality(run) for run in runs]
    alerts = [alert_quality(run, rule) for run in runs]
    moving = [f for f in forecasts if f["pinball_persistence"] > 0]
    recordings, detected = [run.recording for run in runs], [firings(run, rule) for run in runs]
    events = sum(a["events"] for a in alerts)
    return {
        "files": len(runs),
        "pinball_over_persistence": _mean(f["pinball"] / f["pinball_persistence"] for f in moving),
        "median_over_persistence": _mean(f["median_pinball"] / f["median_pinball_persistence"] for f in moving),
        "coverage_80": _mean(f["coverage_80"] for f in forecasts),
        "windows": sum(a["windows"] for a in alerts),
        "windows_hit": sum(a["windows_hit"] for a in alerts),
        "alerts": sum(a["alerts"] for a in alerts),
        "false_alerts_per_1000": 1000 * sum(a["false_alerts"] for a in alerts) / events,
        "nab_standard": nab.score(recordings, detected),
        "nab_low_false_alarms": nab.score(recordings, detected, nab.REWARD_LOW_FALSE_ALARMS),
        "nab_low_misses": nab.score(recordings, detected, nab.REWARD_LOW_MISSES),
    }


def best_threshold(runs: Sequence[Run], rule: AlertRule) -> float:
    """The threshold with the best standard score on the training half; the rest of the rule is scaled along."""
    chosen = [run for run in runs if run.recording.training]
    recordings = [run.recording for run in chosen]
    candidates = [round(0.3 + 0.01 * step, 2) for step in range(50)]

    def score_at(fire_at: float) -> float:
        return nab.score(recordings, [firings(run, with_threshold(rule, fire_at)) for run in chosen])

    return max(candidates, key=score_at)


def windowed_gaussian(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """The benchmark's simplest real rival, by its description: (T,) how far a value is in a normal law's tail.

    The law is that of the last 6400 events before it, renewed at every event until they are there and at every 100th
    from then on.
    """
    moved = value - value[0]
    sums = np.concatenate([[0.0], np.cumsum(moved)])
    squares = np.concatenate([[0.0], np.cumsum(moved**2)])
    end = np.arange(len(value))
    late = end > _GAUSSIAN_EVENTS
    end[late] = _GAUSSIAN_EVENTS + (end[late] - _GAUSSIAN_EVENTS) // _GAUSSIAN_RENEWED * _GAUSSIAN_RENEWED
    start = np.maximum(end - _GAUSSIAN_EVENTS, 0)
    count = np.maximum(end - start, 1)
    mean = (sums[end] - sums[start]) / count
    spread = np.sqrt(np.maximum((squares[end] - squares[start]) / count - mean**2, 0.0))
    z = np.abs(moved - mean) / np.where(spread > 0, spread, 1e-6)
    tail = torch.special.ndtr(torch.from_numpy(-z)).numpy()
    return np.where(end > 0, 1.0 - tail, 0.0)


def best_of_scores(
    recordings: Sequence[Recording], detector: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> float:
    """The best standard score of a detector over thresholds on all files, as the benchmark itself reports it."""
    scores = [detector(recording.value) for recording in recordings]
    thresholds = [1.0 - 10.0 ** (-digits / 4) for digits in range(4, 52)]
    return max(nab.score(recordings, [s >= threshold for s in scores]) for threshold in thresholds)


def report(model: StreamModel, rule: AlertRule, recordings: Sequence[Recording]) -> dict[str, Any]:
    """Everything that is printed."""
    runs = run_all(model, recordings)
    trained = [run for run in runs if run.recording.training]
    held_out = [run for run in runs if not run.recording.training]
    return {
        "rule": {"fire_at": rule.fire_at, "resolve_at": rule.resolve_at, "cool_down_s": rule.cool_down_s},
        "all": summary(runs, rule),
        "held_out": summary(held_out, rule),
        "training_half": summary(trained, rule),
        "best_fire_at_on_training_half": best_threshold(runs, rule),
        "windowed_gaussian_nab_standard": best_of_scores(recordings, windowed_gaussian),
        "per_file": {run.recording.name: forecast_quality(run) | alert_quality(run, rule) for run in runs},
    }


def main() -> None:
    """Evaluate a packaged model on the NAB files of the data folder and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="machine-forecaster", help="a model of the zoo or a folder")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    folder = corpus.data_folder() / "nab"
    if not folder.is_dir():
        parser.error(f"no NAB files in {folder}: set STREAMER_DATA to the folder that has nab/")
    torch.set_num_threads(1)
    packed = bundle.load(options.model)
    recordings = corpus.read_nab(folder)
    made = json.dumps(report(packed.model, rule_from(packed.settings["alert"]), recordings), indent=2)
    if options.out:
        options.out.write_text(made + "\n", encoding="utf-8")
    print(made)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


if __name__ == "__main__":
    main()
