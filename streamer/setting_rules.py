"""What types cannot say of settings: ranges, names that must exist, topics that must not meet. Pure, on plain data.

It looks at the settings as they were written, so that a broken rule is listed beside a mistyped number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from streamer.mistakes import Mistake, Path, did_you_mean

_POSITIVE = (
    *("partitions", "rate_hz", "channels", "max_batch", "slots", "chunks_per_call", "threads", "ttl_s", "max_streams"),
    *(
        "max_lag_s",
        "commit_interval_ms",
        "snapshot_interval_ms",
        "snapshot_bytes_per_s",
        "max_inflight_bytes",
        "wait_s",
        "keep_snapshots_s",
    ),
)
_NOT_NEGATIVE = (
    *("zero_fill_limit_s", "zero_fill_limit_records", "partial_every_ms", "cool_down_s", "pre_roll_s", "hang_over_s"),
)
_SHARES = ("fire_at", "resolve_at")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_OUTPUTS = ("transcripts", "predictions", "alerts", "streams", "deadletters", "voiced")  # the last only of a gate
_DEFAULT_SLOTS, _DEFAULT_MAX_BATCH, _DEFAULT_PARTITIONS, _DEFAULT_PREFIX = 256, 64, 4, "shadow."


def broken_rules(data: Mapping[str, Any]) -> list[Mistake]:
    """Every rule that the merged, not yet validated settings break; what has a wrong type is passed over."""
    pipelines = data.get("pipelines")
    found: list[Mistake] = []
    if isinstance(pipelines, dict):
        for name, pipeline in pipelines.items():
            if isinstance(pipeline, dict):
                found += _pipeline_rules(("pipelines", str(name)), pipeline)
        found += _shared_topics(pipelines)
        found += _shadow_rules(pipelines)
    names = [str(name) for name in pipelines] if isinstance(pipelines, dict) else ["speech"]
    feeds = data.get("feeds")
    for index, feed in enumerate(feeds if isinstance(feeds, list) else []):
        wanted = feed.get("pipeline") if isinstance(feed, dict) else None
        if isinstance(wanted, str) and wanted not in names:
            found.append(Mistake(("feeds", index, "pipeline"), f"no pipeline {wanted!r}{did_you_mean(wanted, names)}"))
    return found


def _pipeline_rules(path: Path, pipeline: Mapping[str, Any]) -> Iterator[Mistake]:
    name = str(path[-1])
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        yield Mistake(path, "a pipeline's name has letters, digits, - and _ only: it becomes part of a group's name")
    yield from _numbers(path, pipeline)
    engine = _mapping(pipeline, "engine")
    slots, batch = engine.get("slots", _DEFAULT_SLOTS), engine.get("max_batch", _DEFAULT_MAX_BATCH)
    if isinstance(slots, int) and isinstance(batch, int) and 0 < slots < batch:
        where = "slots" if "slots" in engine else "max_batch"
        yield Mistake((*path, "engine", where), f"slots ({slots}) must be at least max_batch ({batch})")
    alert = _mapping(pipeline, "alert")
    fire, resolve = alert.get("fire_at"), alert.get("resolve_at")
    if isinstance(fire, int | float) and isinstance(resolve, int | float) and resolve > fire:
        yield Mistake((*path, "alert", "resolve_at"), f"must not be above fire_at ({fire})")
    yield from _topic_rules(path, pipeline)


def _topic_rules(path: Path, pipeline: Mapping[str, Any]) -> Iterator[Mistake]:
    outputs = _mapping(pipeline, "outputs")
    source = _mapping(pipeline, "input").get("topic")
    named = [((*path, "input", "topic"), source)]
    named += [((*path, "outputs", role), outputs[role]) for role in _OUTPUTS if role in outputs]
    for place, topic in named:
        if isinstance(topic, str) and not _TOPIC.fullmatch(topic):
            yield Mistake(place, f"{topic!r} is no topic name: 1 to 249 letters, digits, dots, - and _")
    for role in _OUTPUTS if pipeline.get("gate") else _OUTPUTS[:-1]:
        if outputs.get(role, role) == source:
            yield Mistake((*path, "input", "topic"), f"{source!r} is also where this pipeline's {role} go")


def _shared_topics(pipelines: Mapping[str, Any]) -> Iterator[Mistake]:
    """Pipelines may read one topic together; then they must agree on its partitions."""
    first: dict[str, tuple[str, Any]] = {}
    for name, pipeline in pipelines.items():
        options = _mapping(pipeline, "input") if isinstance(pipeline, dict) else {}
        topic, partitions = options.get("topic"), options.get("partitions", _DEFAULT_PARTITIONS)
        if not isinstance(topic, str):
            continue
        other, count = first.setdefault(topic, (str(name), partitions))
        if count != partitions:
            place = ("pipelines", str(name), "input", "partitions" if "partitions" in options else "topic")
            yield Mistake(place, f"pipeline {other!r} says topic {topic!r} has {count} partitions, not {partitions}")


def _shadow_rules(pipelines: Mapping[str, Any]) -> Iterator[Mistake]:
    """What a shadow writes nobody else reads or writes, but for other shadows."""
    used: dict[str, str] = {}
    for name, pipeline in pipelines.items():
        if isinstance(pipeline, dict):
            used |= {topic: f"pipeline {str(name)!r} writes" for topic in _written(pipeline)}
            used[str(_mapping(pipeline, "input").get("topic"))] = f"pipeline {str(name)!r} reads"
    for name, pipeline in pipelines.items():
        shadow = _mapping(pipeline, "shadow") if isinstance(pipeline, dict) else {}
        prefix = shadow.get("prefix", _DEFAULT_PREFIX)
        if not shadow or not isinstance(prefix, str):
            continue
        place = ("pipelines", str(name), "shadow", "prefix" if "prefix" in shadow else "model")
        for topic in (prefix + live for live in _written(pipeline)):
            wrong = "is no topic name: 1 to 249 letters, digits, dots, - and _"
            if not _TOPIC.fullmatch(topic) or (wrong := used.get(topic, "")):
                yield Mistake(place, f"the shadow would write to {topic!r}, which {wrong}")
                break


def _written(pipeline: Mapping[str, Any]) -> list[str]:
    """The names of a pipeline's output topics."""
    outputs = _mapping(pipeline, "outputs")
    roles = _OUTPUTS if pipeline.get("gate") else _OUTPUTS[:-1]
    return [topic for role in roles if isinstance(topic := outputs.get(role, role), str)]


def _numbers(path: Path, data: Mapping[str, Any]) -> Iterator[Mistake]:
    for name, value in data.items():
        place = (*path, str(name))
        if isinstance(value, dict):
            yield from _numbers(place, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if name in _POSITIVE and not value > 0:
                yield Mistake(place, f"must be above 0, not {value}")
            elif name in _NOT_NEGATIVE and not value >= 0:
                yield Mistake(place, f"must not be below 0, not {value}")
            elif name in _SHARES and not 0 <= value <= 1:
                yield Mistake(place, f"is a score between 0 and 1, not {value}")


def _mapping(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    return value if isinstance(value, dict) else {}
