"""Settings: three sources in rising precedence, and every mistake at once with its place and what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer.errors import ConfigurationError
from streamer.settings import KafkaSettings, MemorySettings, Settings, SqliteSettings, json_schema, load_settings

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
SPEECH = "pipelines:\n  speech:\n    input: {topic: audio}\n    model: speech-en\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(path: Path | None, *overrides: str) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        load_settings(path, overrides)
    return str(raised.value).splitlines()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_configuration_in_configs_loads(path: Path) -> None:
    assert load_settings(path).pipelines


def test_there_are_the_promised_configurations() -> None:
    assert {path.stem for path in CONFIGS} >= {"default", "kafka", "sensors", "both", "voice"}


def test_the_default_configuration_says_what_runs_without_one() -> None:
    default = next(path for path in CONFIGS if path.stem == "default")
    assert load_settings(default) == load_settings() == Settings()


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, SPEECH + "    engine: {max_batch: 8, slots: 99}\n")
    monkeypatch.setenv("STREAMER_PIPELINES__SPEECH__ENGINE__MAX_BATCH", "16")
    engine = load_settings(path).pipelines["speech"].engine
    assert (engine.max_batch, engine.slots) == (16, 99)


def test_the_command_line_overrides_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, SPEECH + "    engine: {max_batch: 8}\n")
    monkeypatch.setenv("STREAMER_PIPELINES__SPEECH__ENGINE__MAX_BATCH", "16")
    settings = load_settings(path, ["pipelines.speech.engine.max_batch=32"])
    assert settings.pipelines["speech"].engine.max_batch == 32


def test_an_override_reaches_into_a_list() -> None:
    settings = load_settings(overrides=["feeds.0.device=pulse"])
    assert settings.feeds[0].model_dump()["device"] == "pulse"


def test_an_override_outside_a_list_is_a_mistake() -> None:
    assert mistakes(None, "feeds.7.device=x") == [
        "--set feeds.7.device: feeds.7.device: there is no such entry in the list; give the whole list instead"
    ]


def test_another_kind_of_log_forgets_what_the_file_says_of_its_own(tmp_path: Path) -> None:
    path = written(tmp_path, "log: {kind: sqlite, path: here.db}\n" + SPEECH)
    assert load_settings(path, ["log.kind=memory"]).log == MemorySettings(kind="memory")


def test_a_log_without_a_kind_is_sqlite(tmp_path: Path) -> None:
    assert load_settings(written(tmp_path, "log: {path: here.db}\n")).log == SqliteSettings(path="here.db")


def test_every_mistake_is_listed_with_its_line_and_what_was_meant(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "log:\n"
        "  kind: sqlit\n"
        "pipelines:\n"
        "  speech:\n"
        "    input: {topic: audio, partitons: 3}\n"
        "    model: speech-en\n"
        "    engine:\n"
        "      max_batch: abc\n"
        "      slots: -1\n"
        "    streams: {gap: zero_fil}\n"
        "feeds:\n"
        "  - kind: audio_files\n"
        "    pipeline: speach\n"
        "    speed: fast\n"
        "delivry: x\n",
    )
    assert mistakes(path) == [
        f"{path}:2: log.kind: cannot be 'sqlit'; did you mean 'sqlite'?",
        f"{path}:5: pipelines.speech.input.partitons: no such setting; did you mean 'partitions'?",
        f"{path}:8: pipelines.speech.engine.max_batch: should be a valid integer, not 'abc'",
        f"{path}:9: pipelines.speech.engine.slots: must be above 0, not -1",
        f"{path}:10: pipelines.speech.streams.gap: cannot be 'zero_fil'; did you mean 'zero_fill'?",
        f"{path}:12: feeds.0.paths: is missing",
        f"{path}:13: feeds.0.pipeline: no pipeline 'speach'; did you mean 'speech'?",
        f"{path}:14: feeds.0.speed: should be a number above 0 (1 is real time) or max, not 'fast'",
        f"{path}:15: delivry: no such setting; did you mean 'delivery'?",
    ]


def test_a_mistake_in_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_PIPELINES__SPEECH__ENGINE__THREADS", "many")
    assert mistakes(None) == [
        "environment variable STREAMER_PIPELINES__SPEECH__ENGINE__THREADS: pipelines.speech.engine.threads: "
        "should be a valid integer, not 'many'"
    ]


def test_a_variable_that_sets_nothing_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_PIPELINE__SPEECH__MODEL", "x")
    (line,) = mistakes(None)
    assert line.endswith("STREAMER_PIPELINE__SPEECH__MODEL sets nothing; did you mean 'pipelines'?")


def test_a_key_that_stands_twice_is_a_mistake(tmp_path: Path) -> None:
    path = written(tmp_path, SPEECH + "    model: other\n")
    assert mistakes(path) == [f"{path}:5: pipelines.speech.model: stands twice; it is also on line 4"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("log: [unfinished\n", 2),
        ("a: b: c\n", 1),
        ("- a list\n", 1),
    ],
)
def test_what_is_no_mapping_of_settings_is_refused_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    path = written(tmp_path, text)
    (message,) = mistakes(path)
    assert message.startswith(f"{path}:{line}: ")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert mistakes(tmp_path / "none.yaml") == [f"{tmp_path / 'none.yaml'}: cannot be read: No such file or directory"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("    engine: {max_batch: 64, slots: 8}\n", "slots (8) must be at least max_batch (64)"),
        ("    alert: {fire_at: 0.5, resolve_at: 0.9}\n", "must not be above fire_at (0.5)"),
        ("    alert: {fire_at: 7}\n", "is a score between 0 and 1, not 7"),
        ("    outputs: {alerts: audio}\n", "'audio' is also where this pipeline's alerts go"),
        ("    outputs: {alerts: 'no spaces'}\n", "'no spaces' is no topic name"),
        ("    commit: {wait_s: 0}\n", "must be above 0, not 0"),
        ("    commit: {keep_snapshots_s: 0}\n", "must be above 0, not 0"),
        ("    shadow: {model: m, prefix: ''}\n", "would write to 'transcripts', which pipeline 'speech' writes"),
        (
            "    shadow: {model: m}\n    outputs: {alerts: shadow.streams}\n",
            "'shadow.streams', which pipeline 'speech'",
        ),
        ("    shadow: {model: m, prefix: 'a b '}\n", "'a b transcripts', which is no topic name"),
        ("    shadow: {prefix: new.}\n", "pipelines.speech.shadow.model: is missing"),
        ("    gate: {pre_rol_s: 1}\n", "no such setting; did you mean 'pre_roll_s'?"),
    ],
)
def test_rules_beyond_types_are_checked(tmp_path: Path, extra: str, message: str) -> None:
    (line,) = mistakes(written(tmp_path, SPEECH + extra))
    assert message in line


def test_pipelines_that_share_a_topic_must_agree_on_its_partitions(tmp_path: Path) -> None:
    second = "  voice:\n    input: {topic: audio, partitions: 7}\n    model: silero-vad\n"
    (line,) = mistakes(written(tmp_path, SPEECH + second))
    assert line.endswith("pipeline 'speech' says topic 'audio' has 4 partitions, not 7")


def test_a_secret_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_LOG__PASSWORD", "hunter2")
    settings = load_settings(overrides=["log.kind=kafka", "log.username=me"])
    assert isinstance(settings.log, KafkaSettings)
    assert settings.log.password is not None
    assert settings.log.password.get_secret_value() == "hunter2"
    assert "hunter2" not in f"{settings} {settings!r} {settings.printable()}"


def test_a_secret_on_the_command_line_is_refused_without_repeating_it() -> None:
    lines = mistakes(None, "log.kind=kafka", "log.password=hunter2")
    assert lines == [
        "--set log.password: log.password: everybody can read a command line: use STREAMER_LOG__PASSWORD or the "
        "settings file"
    ]


def test_a_secret_of_the_wrong_type_is_not_repeated(tmp_path: Path) -> None:
    lines = mistakes(written(tmp_path, "log:\n  kind: kafka\n  password: [hunter2]\n"))
    assert "hunter2" not in "\n".join(lines)


def test_the_json_schema_knows_every_setting_of_the_example() -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {"application", "log", "pipelines", "feeds", "delivery"}
    assert "zero_fill_limit_s" in schema["$defs"]["StreamOptions"]["properties"]
