"""The settings: a YAML file, environment variables `STREAMER_*`, `--set` on the command line, in rising precedence.

The only module that imports pydantic. Everything behind it takes the plain dataclasses of `streamer.options`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from streamer import mistakes
from streamer.errors import ConfigurationError
from streamer.mistakes import Mistake, Origins
from streamer.options import PipelineOptions
from streamer.setting_rules import broken_rules

Speed = Annotated[float, Field(gt=0)] | Literal["max"]
"""Times real time; `max` is as fast as the log takes it."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SqliteSettings(_Part):
    """The embedded log: one file on a local disk, which several processes may use at once."""

    kind: Literal["sqlite"] = "sqlite"
    path: str = "~/.local/state/streamer/log.db"


class MemorySettings(_Part):
    """A log inside the process; it is gone when the process ends."""

    kind: Literal["memory"]


class KafkaSettings(_Part):
    """Apache Kafka. Give `password` in the file or as STREAMER_LOG__PASSWORD, never on the command line."""

    kind: Literal["kafka"]
    bootstrap_servers: str = "localhost:9092"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    username: str | None = None
    password: SecretStr | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_key_password: SecretStr | None = None
    compression: Literal["gzip", "snappy", "lz4", "zstd"] | None = None
    request_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    session_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    rebalance_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    replication_factor: Annotated[int, Field(ge=-1)] = -1
    group_instance_id: str | None = None
    delivery: Literal["at_least_once", "exactly_once"] = "at_least_once"


def plain(secret: SecretStr | None) -> str | None:
    """What a secret is, for the client that must say it; it goes nowhere else."""
    return None if secret is None else secret.get_secret_value()


LogSettings = Annotated[SqliteSettings | MemorySettings | KafkaSettings, Field(discriminator="kind")]


class MicrophoneSettings(_Part):
    """A sound input. device: its name, a part of it, or its number in `python -m streamer devices`."""

    kind: Literal["microphone"]
    pipeline: str
    device: str | int | None = None
    stream: str | None = None
    buffer_s: Annotated[float, Field(gt=0)] = 10.0
    if_absent: Literal["fail", "demo"] = "fail"


class AudioFilesSettings(_Part):
    """Audio files and folders; every file is a stream."""

    kind: Literal["audio_files"]
    pipeline: str
    paths: Annotated[list[str], Field(min_length=1)]
    speed: Speed = 1.0


class TableSettings(_Part):
    """CSV, JSON Lines or Parquet files of sensor events. stream: the column that names the device."""

    kind: Literal["table"]
    pipeline: str
    paths: Annotated[list[str], Field(min_length=1)]
    columns: list[str] | None = None
    time: str | None = None
    stream: str | None = None
    speed: Speed = 1.0


class StdinSettings(_Part):
    """Standard input: raw little-endian PCM, or one JSON event a line."""

    kind: Literal["stdin"]
    pipeline: str
    format: Literal["s16le", "jsonl"] = "s16le"
    rate_hz: Annotated[int, Field(gt=0)] = 16_000
    channels: Annotated[int, Field(gt=0)] = 1
    stream: str = "stdin"


class ReplaySettings(_Part):
    """A file that `python -m streamer record` wrote."""

    kind: Literal["replay"]
    pipeline: str
    path: str
    speed: Speed = 1.0


class DemoSettings(_Part):
    """Streams that come with the project: recordings where STREAMER_DATA has them, else synthesised ones."""

    kind: Literal["demo"]
    pipeline: str
    streams: Literal["speech", "machines"] = "speech"


FeedSettings = MicrophoneSettings | AudioFilesSettings | TableSettings | StdinSettings | ReplaySettings | DemoSettings


DEFAULTS: Mapping[str, Any] = {
    "pipelines": {"speech": {"input": {"topic": "audio"}, "model": "speech-en"}},
    "feeds": [{"kind": "microphone", "pipeline": "speech", "if_absent": "demo"}],
}
"""What runs when nothing is said: the microphone's transcript, as a settings file would say it."""


class Settings(BaseSettings):
    """One process: a log, the pipelines it runs, and what feeds them. Without arguments: a microphone's transcript."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=mistakes.ENV_PREFIX, env_nested_delimiter="__", title="streamer"
    )

    application: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "streamer"
    log: LogSettings = Field(default_factory=SqliteSettings)
    pipelines: Annotated[dict[str, PipelineOptions], Field(min_length=1)] = Field(
        default=DEFAULTS["pipelines"], validate_default=True
    )
    feeds: list[Annotated[FeedSettings, Field(discriminator="kind")]] = Field(
        default=DEFAULTS["feeds"], validate_default=True
    )
    delivery: Literal["at_least_once"] = "at_least_once"

    def printable(self) -> dict[str, Any]:
        """Everything, defaults included, as plain data; secrets as asterisks."""
        return self.model_dump(mode="json")


def load_settings(path: str | os.PathLike[str] | None = None, overrides: Iterable[str] = ()) -> Settings:
    """Settings of a YAML file, the environment and `name.of.setting=value` overrides.

    Raises ConfigurationError that lists every mistake with its file and line, its dotted path, and what was probably
    meant. No path means the defaults.
    """
    origins = Origins() if path is None else mistakes.read_yaml(_read(Path(path)), str(path))
    found = mistakes.duplicate_keys(origins.root)
    data = {**DEFAULTS, **origins.data}
    environment, wrong = _environment()
    origins.environment = frozenset(name.upper() for name in os.environ)
    found += wrong
    data = mistakes.merge(data, environment)
    origins.overrides = dict(mistakes.parse_override(text) for text in overrides)
    for place, value in origins.overrides.items():
        found += _refused(place, value)
        try:
            data = mistakes.put(data, place, value)
        except KeyError:
            found.append(Mistake(place, "there is no such entry in the list; give the whole list instead"))
    data = _one_kind_of_log(data, origins.data)
    settings, wrong = _validate(data)
    mistakes.raise_for([*found, *wrong, *broken_rules(data)], origins)
    if settings is None:
        raise ConfigurationError("the settings are not usable")
    return settings


def json_schema() -> dict[str, Any]:
    """JSON Schema of the settings file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Settings.model_json_schema()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not a text file in UTF-8") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error


def _environment() -> tuple[dict[str, Any], list[Mistake]]:
    """What STREAMER_* variables say, and those of them that name no setting."""
    names = Settings.model_fields
    wrong = []
    for variable in os.environ:
        first, nested, _ = variable.removeprefix(mistakes.ENV_PREFIX).lower().partition("__")
        if variable.startswith(mistakes.ENV_PREFIX) and nested and first not in names:
            wrong.append(
                Mistake((), f"environment variable {variable} sets nothing{mistakes.did_you_mean(first, names)}")
            )
    try:
        return EnvSettingsSource(Settings)(), wrong
    except SettingsError as error:
        return {}, [*wrong, Mistake((), f"{error}; lists and mappings are written as JSON in variables")]


def _one_kind_of_log(data: dict[str, Any], file: Mapping[str, Any]) -> dict[str, Any]:
    """A log is sqlite unless it says otherwise; one of another kind than the file's forgets the file's path, servers
    and so on."""
    log, written = data.get("log"), file.get("log")
    if not isinstance(log, dict):
        return data
    log = {"kind": "sqlite", **log}
    if isinstance(written, dict) and log["kind"] != written.get("kind", "sqlite"):
        log = {name: value for name, value in log.items() if written.get(name) is not value}
    return data | {"log": log}


def _refused(place: mistakes.Path, value: object) -> list[Mistake]:
    if isinstance(value, dict):
        return [mistake for name, inner in value.items() for mistake in _refused((*place, str(name)), inner)]
    if not _is_secret(place):
        return []
    variable = f"{mistakes.ENV_PREFIX}{'__'.join(map(str, place)).upper()}"
    return [Mistake(place, f"everybody can read a command line: use {variable} or the settings file")]


def _is_secret(place: mistakes.Path) -> bool:
    return place[-1:] in (("password",), ("ssl_key_password",))


def _validate(data: Mapping[str, Any]) -> tuple[Settings | None, list[Mistake]]:
    try:
        return Settings.model_validate(data), []
    except ValidationError as error:
        schema = json_schema()
        found = [_mistake(details, schema, data) for details in error.errors(include_url=False)]
        return None, list(dict.fromkeys(found))


def _mistake(details: ErrorDetails, schema: Mapping[str, Any], data: Mapping[str, Any]) -> Mistake:
    """A pydantic error in our words."""
    path = _without_tags(details["loc"], data)
    last = str(path[-1]) if path else ""
    if last == "speed":
        return Mistake(path, f"should be a number above 0 (1 is real time) or max, not {_shown(details)}")
    context = details.get("ctx", {})
    match details["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            known = mistakes.known_names(schema, path[:-1], data)
            return Mistake(path, f"no such setting{mistakes.did_you_mean(last, known)}")
        case "missing" | "missing_argument":
            return Mistake(path, "is missing")
        case "union_tag_not_found":
            return Mistake((*path, "kind"), f"is missing; known are {_tags(context)}")
        case "union_tag_invalid":
            tags = _tags(context)
            hint = mistakes.did_you_mean(str(context.get("tag", "")), tags.split(", "))
            return Mistake((*path, "kind"), f"cannot be {str(context.get('tag', ''))!r}{hint}")
        case "literal_error":
            choices = [c.strip("'") for c in str(context["expected"]).replace(" or ", ", ").split(", ")]
            return Mistake(path, f"cannot be {_shown(details)}{mistakes.did_you_mean(str(details['input']), choices)}")
    value = "" if _is_secret(path) or path == ("log",) else f", not {_shown(details)}"
    return Mistake(path, f"{details['msg'].replace('Input should', 'should').partition(', unable')[0]}{value}")


def _tags(context: Mapping[str, Any]) -> str:
    names: Sequence[str] = str(context.get("expected_tags", "'sqlite', 'memory', 'kafka'")).split(", ")
    return ", ".join(name.strip("'") for name in names)


def _shown(details: ErrorDetails) -> str:
    text = repr(details["input"])
    return text if len(text) <= 60 else f"{text[:57]}..."


_TAGS = frozenset(
    {"sqlite", "memory", "kafka", "microphone", "audio_files", "table", "stdin", "replay", "demo", "float"}
    | {"constrained-float", "literal['max']", "function-after"}
)


def _without_tags(location: tuple[int | str, ...], data: Any) -> mistakes.Path:
    """A pydantic location without the union tags that are written nowhere."""
    path: list[int | str] = []
    for part in location:
        child = data.get(part) if isinstance(data, dict) else None
        if isinstance(data, list) and isinstance(part, int) and part < len(data):
            child = data[part]
        if child is None and part in _TAGS:
            continue
        path.append(part)
        data = child
    return tuple(path)
