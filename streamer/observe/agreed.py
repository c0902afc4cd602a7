"""The figures of a shadow's agreement, said for people and as plain data for machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from streamer.observe.agreement import Figures


def lines_of(figures: Figures) -> list[str]:
    """One line for each kind of message that there was, then what bears on all of them."""
    return list(_lines(figures))


def _lines(figures: Figures) -> Iterator[str]:
    finals, predictions, alerts = figures.finals, figures.predictions, figures.alerts
    if finals.live or finals.only_shadow:
        yield (
            f"finals: {_share(finals.share_same)} of {finals.live:,} identical, {_share(figures.word_error_rate)} of "
            f"{figures.words:,} words wrong, {finals.only_live:,} only live, {finals.only_shadow:,} only shadow"
        )
    if predictions.live or predictions.only_shadow:
        yield (
            f"predictions: {predictions.same:,} matched, {predictions.only_live:,} only live, "
            f"{predictions.only_shadow:,} only shadow"
        )
        for name, gap in figures.gaps.items():
            yield f"  {name}: differs by {gap.mean:.3g} on average, {gap.maximum:.3g} at most"
    if alerts.live or alerts.only_shadow:
        yield f"alerts: {alerts.same:,} both, {alerts.only_live:,} only live, {alerts.only_shadow:,} only shadow"
    if figures.joined_late:
        yield f"{figures.joined_late:,} streams had begun before the shadow heard them: they differ for that alone"
    if figures.given_up:
        yield f"{figures.given_up:,} messages waited too long for the other side's and are not compared"


def line_of(pipeline: str, figures: Figures, failure: str) -> str:
    """All of it in one line."""
    said = "; ".join(map(str.strip, lines_of(figures))) or "nothing to compare yet"
    return f"shadow of {pipeline}: {f'ended: {failure}' if failure else said}"


def plain(figures: Figures) -> dict[str, Any]:
    """Everything as plain data; shares are null before there is anything to share."""
    gaps = {name: {"mean": gap.mean, "max": gap.maximum, "count": gap.count} for name, gap in figures.gaps.items()}
    return {
        "finals": {**asdict(figures.finals), "identical": figures.finals.share_same},
        "words": figures.words,
        "wrong_words": figures.wrong_words,
        "word_error_rate": figures.word_error_rate,
        "predictions": asdict(figures.predictions),
        "differences": gaps,
        "alerts": asdict(figures.alerts),
        "joined_late": figures.joined_late,
        "given_up": figures.given_up,
    }


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
