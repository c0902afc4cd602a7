"""Passwords come from the environment or a file, reach the client, and are shown nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from streamer.cli.main import main
from streamer.log.kafka_connection import KafkaOptions
from streamer.settings import KafkaSettings, Settings, load_settings, plain

SECRET, KEY_SECRET = "hunter2-of-alice", "hunter2-of-the-key"
WRITTEN = f"log:\n  kind: kafka\n  username: alice\n  password: {SECRET}\n  ssl_key_password: {KEY_SECRET}\n"
# Not part of what is shown anyway.
PASSWORDS = st.text(st.characters(codec="utf-8"), min_size=1).map(lambda text: f"hunter2{text}")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A settings file with both secrets in it."""
    path = tmp_path / "settings.yaml"
    path.write_text(WRITTEN, encoding="utf-8")
    return path


def kafka(settings: Settings) -> KafkaSettings:
    assert isinstance(settings.log, KafkaSettings)
    return settings.log


def test_secrets_of_a_file_arrive(file: Path) -> None:
    log = kafka(load_settings(file))
    assert (plain(log.password), plain(log.ssl_key_password)) == (SECRET, KEY_SECRET)


def test_secrets_of_the_environment_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_LOG__KIND", "kafka")
    monkeypatch.setenv("STREAMER_LOG__PASSWORD", SECRET)
    monkeypatch.setenv("STREAMER_LOG__SSL_KEY_PASSWORD", KEY_SECRET)
    log = kafka(load_settings())
    assert (plain(log.password), plain(log.ssl_key_password)) == (SECRET, KEY_SECRET)


@pytest.mark.parametrize("password", ["123456", "null", "true", "[1]", '{"a": 1}', '"quoted"', " spaced ", "a,b=c"])
def test_a_password_of_the_environment_is_taken_as_it_stands(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    monkeypatch.setenv("STREAMER_LOG__KIND", "kafka")
    monkeypatch.setenv("STREAMER_LOG__PASSWORD", password)
    assert plain(kafka(load_settings()).password) == password


@pytest.mark.parametrize("setting", ["password", "ssl_key_password"])
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(
    setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--set", "log.kind=kafka", "--set", f"log.{setting}={SECRET}"]) == 2
    said = capsys.readouterr()
    assert f"STREAMER_LOG__{setting.upper()}" in said.err
    assert "hunter2" not in said.out + said.err


@pytest.mark.parametrize(
    "given", [f"log.password=@{SECRET}", f"log.password:{SECRET}", f"log={{kind: kafka, password: {SECRET}}}"]
)
def test_a_secret_on_the_command_line_is_not_repeated_however_it_is_written(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--set", "log.kind=kafka", "--set", given]) == 2
    said = capsys.readouterr()
    assert "hunter2" not in said.out + said.err


def test_check_shows_asterisks(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", str(file)]) == 0
    said = capsys.readouterr()
    shown = yaml.safe_load(said.out)["log"]
    assert shown["username"] == "alice"
    assert set(shown["password"]) == set(shown["ssl_key_password"]) == {"*"}
    assert "hunter2" not in said.out + said.err


def test_check_shows_asterisks_to_machines_too(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", "--config", str(file)]) == 0
    said = capsys.readouterr()
    shown = json.loads(said.out)["log"]
    assert set(shown["password"]) == set(shown["ssl_key_password"]) == {"*"}
    assert "hunter2" not in said.out + said.err


def test_the_commands_for_an_administrator_name_the_user_and_no_secret(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["topics", "--print", "--config", str(file)]) == 0
    said = capsys.readouterr()
    assert "User:alice" in said.out
    assert "hunter2" not in said.out + said.err


@pytest.mark.parametrize(
    "log",
    [
        f"{{kind: kafka, password: [{SECRET}]}}",
        f"{{kind: kafka, password: {{a: {SECRET}}}}}",
        f"{{kind: kafka, pasword: {SECRET}}}",
        f"{{kind: kafka, password: {SECRET}, password: {SECRET}}}",
        f"{{kind: kafka, password: '{SECRET}}}",
        f"{{kind: kafka, password: @{SECRET}}}",
        f"{{kind: kafak, password: {SECRET}}}",
        f"{{password: {SECRET}}}",
        f"{{kind: kafka, password: *{SECRET}}}",
        f"{{kind: kafka, password: !{SECRET}}}",
        f"[{SECRET}]",
        SECRET,
    ],
)
def test_a_mistake_around_a_password_is_named_without_it(
    log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(f"log: {log}\n", encoding="utf-8")
    assert main(["check", "--config", str(path)]) == 2
    said = capsys.readouterr()
    assert str(path) in said.err
    assert "hunter2" not in said.out + said.err


@given(PASSWORDS, PASSWORDS)
def test_settings_never_show_a_password(password: str, key_password: str) -> None:
    log = {"kind": "kafka", "password": password, "ssl_key_password": key_password}
    settings = Settings.model_validate({"log": log})
    shown = (repr(settings), str(settings), f"{settings.log!r}", str(settings.printable()), settings.model_dump_json())
    assert not [text for text in shown if "hunter2" in text]


@given(PASSWORDS, PASSWORDS)
def test_the_options_of_the_kafka_log_never_show_a_password(password: str, key_password: str) -> None:
    options = KafkaOptions(sasl_username="alice", sasl_password=password, ssl_key_password=key_password)
    assert "alice" in repr(options)
    assert "hunter2" not in f"{options!r} {options!s} {options}"
