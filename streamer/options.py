"""What can be chosen about one pipeline, as plain frozen dataclasses: the runtime takes these, the settings fill them.

They are validated where they come from outside (`streamer.settings`); this module imports nothing but the standard
library so that the engine can be used without pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

AUDIO_TTL_S = 300.0
EVENTS_TTL_S = 7 * 86_400.0
_STRICT: Mapping[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions:
    """Where a pipeline reads and how payloads are understood.

    topic, partitions: the input topic. rate_hz, channels: of audio records that do not say (`content-type` wins).
    columns, time, stream: fields of sensor events; no `time` means the record's timestamp, no `stream` its key; with
    `array` the columns name the elements of that one field.
    missing: what a NaN or absent column is: `hold` repeats the stream's last value, `mask` hands NaN to a model that
    knows missing values (to others it is `hold`), `reject` makes the record malformed.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    topic: str
    partitions: int = 4
    rate_hz: int = 16_000
    channels: int = 1
    columns: tuple[str, ...] = ("value",)
    array: str | None = None
    time: str | None = None
    stream: str | None = None
    missing: Literal["hold", "mask", "reject"] = "mask"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How a model is stepped.

    device: `auto` takes a GPU where there is one. max_batch: rows of one step. slots: streams whose state lies in the
    device's pool (at least max_batch); colder ones are spilled to host memory. deterministic: one padded batch shape,
    one chunk a stream and call, one thread count, so that a row's bits do not depend on its company.
    chunks_per_call: how many waiting chunks of one stream a call may hold outside deterministic mode.
    warm_up: step once before the first record is read, so that the first words are not the latest.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    device: str = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_batch: int = 64
    slots: int = 256
    deterministic: bool = False
    chunks_per_call: int = 8
    warm_up: bool = False
    threads: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """What happens to streams.

    ttl_s: a stream ends when its own next record is this much later in event time (None: 5 minutes for audio, a week
    for events); `end_early` also announces the end
    by the wall clock once the partition is read to its end. gap: what lost samples become: up to `zero_fill_limit_s`
    of silence (for events, up to `zero_fill_limit_records` missing values), else (or with `reset`) a reset and a mark,
    or the record goes to the dead letters. late: records that fill a gap after the fact, or are older than what was
    stepped. rate_change: a new sample rate inside a session.
    max_streams, max_host_bytes, at_max: how many streams may live, how much host memory spilled states may take, and
    whether at the limit a new stream is refused to the dead letters or the coldest one is ended.
    max_lag_s, at_max_lag: what a backlog older than this means.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    ttl_s: float | None = None
    end_early: bool = False
    gap: Literal["zero_fill", "reset", "dead_letter"] = "zero_fill"
    zero_fill_limit_s: float = 2.0
    zero_fill_limit_records: int = 64
    late: Literal["dead_letter", "accept"] = "dead_letter"
    rate_change: Literal["reset", "dead_letter"] = "reset"
    max_streams: int = 20_000
    max_host_bytes: int = 4_000_000_000
    at_max: Literal["refuse", "end_coldest"] = "refuse"
    max_lag_s: float | None = None
    at_max_lag: Literal["catch_up", "skip_to_live"] = "catch_up"

    def ttl_of(self, rate_hz: int) -> float:
        """The time to live, seconds, of a stream with this sample rate (0: events)."""
        if self.ttl_s is not None:
            return self.ttl_s
        return AUDIO_TTL_S if rate_hz else EVENTS_TTL_S


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitOptions:
    """When results become durable. commit_interval_ms is what a subscriber waits (up to five times that while the
    worker is behind), snapshot_interval_ms what a restart re-runs at most; snapshot_bytes_per_s staggers the snapshots;
    compress_states keeps states compressed that shrink by a tenth (a quarter of the bytes of speech for 0.3 ms of the
    engine's thread a state; networks' own numbers hardly shrink); max_inflight_bytes bounds what is read and not yet
    committed (partitions are paused above it); wait_s is how long a lost log is waited for before giving up.
    keep_snapshots_s: for how long every saved state is also kept in a topic of its own, so that a stream can be
    rewound to it (None: not at all). standby: keep the saved states of partitions that other workers own at hand, so
    that taking one over reads only what is new; it costs the memory of all of them."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    commit_interval_ms: int = 100
    snapshot_interval_ms: int = 5_000
    snapshot_bytes_per_s: int = 16_000_000
    compress_states: bool = False
    max_inflight_bytes: int = 64_000_000
    wait_s: float = 60.0
    keep_snapshots_s: float | None = None
    standby: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptOptions:
    """partial_every_ms: stream time between partial transcripts, 0 for none. decoder: `beam` or `greedy`."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    partial_every_ms: int = 300
    decoder: Literal["beam", "greedy"] = "beam"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertOptions:
    """fire_at, resolve_at: hysteresis on the score (None takes the model's own). cool_down_s: event time between a
    resolved alert and the next. predictions: whether every record's prediction is published too."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    fire_at: float | None = None
    resolve_at: float | None = None
    cool_down_s: float | None = None
    predictions: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GateOptions:
    """Voice activity before speech: a voice activity model sends only what is spoken on to the topic `outputs.voiced`.

    pre_roll_s: audio before the onset that is sent too; hang_over_s: how long it must be quiet until the gate closes.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    pre_roll_s: float = 0.3
    hang_over_s: float = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """The names of the output topics, and where dead letters too big for theirs are kept."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    transcripts: str = "transcripts"
    predictions: str = "predictions"
    alerts: str = "alerts"
    streams: str = "streams"
    deadletters: str = "deadletters"
    voiced: str = "voiced"
    spill_folder: str = "~/.local/state/streamer/deadletters"
    pass_headers: tuple[str, ...] = ("traceparent", "tracestate")

    def under(self, prefix: str) -> OutputOptions:
        """The same with `prefix` before the name of every topic."""
        names = ("transcripts", "predictions", "alerts", "streams", "deadletters", "voiced")
        return replace(self, **{name: prefix + getattr(self, name) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowOptions:
    """A candidate that runs beside the live model: the same input, decoder and options, states and topics of its own.

    model: a name in the zoo or a folder. prefix: what the names of its output topics have before the live ones'.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    model: str
    prefix: str = "shadow."


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineOptions:
    """One input topic, one model, its output topics. model: a name in the zoo or a folder.

    also: further versions of the model, for streams that were begun with them and for saved states that name them.
    watch_model_s: how often to look whether the model's files have changed; what is new is taken up without a restart
    (None: only at SIGHUP). at_model_change: streams that live at that time `finish` with the version that they have,
    or change over at their next record, from a fresh state (`reset`) or from one that has stepped through the latest
    `warm_up_s` of their input (`warm_up`). on_state_mismatch: what becomes of saved states that no version at hand can
    go on with: the worker stops (`refuse`), or the same as above.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    input: InputOptions
    model: str
    engine: EngineOptions = field(default_factory=EngineOptions)
    streams: StreamOptions = field(default_factory=StreamOptions)
    commit: CommitOptions = field(default_factory=CommitOptions)
    transcript: TranscriptOptions = field(default_factory=TranscriptOptions)
    alert: AlertOptions = field(default_factory=AlertOptions)
    gate: GateOptions | None = None
    shadow: ShadowOptions | None = None
    outputs: OutputOptions = field(default_factory=OutputOptions)
    on_state_mismatch: Literal["refuse", "reset", "warm_up"] = "refuse"
    also: tuple[str, ...] = ()
    watch_model_s: float | None = None
    at_model_change: Literal["finish", "reset", "warm_up"] = "finish"
    warm_up_s: float = 10.0


def shadow_of(options: PipelineOptions) -> PipelineOptions | None:
    """What a pipeline's shadow runs with, None where it has none.

    All that the live part has, but for its model and its topics. Saved states of another candidate begin afresh, for
    nobody depends on them; no other version is taken up, and no snapshots are kept.
    """
    if options.shadow is None:
        return None
    return replace(
        options,
        model=options.shadow.model,
        outputs=options.outputs.under(options.shadow.prefix),
        commit=replace(options.commit, keep_snapshots_s=None),
        shadow=None,
        also=(),
        watch_model_s=None,
        on_state_mismatch="reset",
    )
