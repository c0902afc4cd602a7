"""What a soak prints: what was served, every quantity with its rise and its limit, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from tests.soak.run import Plan, Result
from tests.soak.trend import FEWEST_POINTS, Finding, Limits, judge


def findings(result: Result, limits: Limits) -> list[Finding]:
    """All quantities of both sides, none where the process ended too soon to show any."""
    if result.wrong and min(len(result.inside), len(result.outside)) < 2 * FEWEST_POINTS + 2:
        return []
    return [finding for samples in (result.inside, result.outside) for finding in judge(samples, limits)]


def told(plan: Plan, result: Result, found: Sequence[Finding]) -> str:
    """The whole of it. The last line is the verdict."""
    seconds = result.outside[-1]["seconds"]
    fed = sum(result.fed.values())
    log = "Kafka, exactly once" if plan.kafka else "SQLite"
    head = (
        f"{result.what}; {log}; {seconds / 60:.1f} minutes\n"
        + ", ".join(f"{n:,} records of {name}" for name, n in result.fed.items())
        + f": {fed / seconds:,.0f} a second"
    )
    lost = "\n".join(result.wrong) or "nothing lost, nothing doubled"
    return "\n\n".join([head, table(found), lost, verdict(result.wrong, found)])


def table(found: Sequence[Finding]) -> str:
    """A line a quantity."""
    rows: list[tuple[str, ...]] = [("in the second half", "median", "highest", "rise", "may rise by", "")]
    for finding in found:
        limit = "" if finding.limit is None else _number(finding.limit)
        says = "" if finding.limit is None else "right" if finding.right else "WRONG"
        rows.append((finding.name, *map(_number, (finding.level, finding.most, finding.rise)), limit, says))
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def verdict(wrong: Sequence[str], found: Sequence[Finding]) -> str:
    """The last line."""
    grown = [finding.name for finding in found if not finding.right]
    reasons = [*(["something is lost or doubled"] if wrong else []), *(f"{name} grows" for name in grown)]
    return f"verdict: {'WRONG: ' + ', '.join(reasons) if reasons else 'right'}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
