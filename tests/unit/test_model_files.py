"""A model's files change while it is served: what is new and whole is taken up, anything else leaves the old one on."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml
from safetensors.torch import load_file, save_file

import streamer
from streamer.codecs.messages import Envelope, Prediction, StreamEvent
from streamer.options import InputOptions, PipelineOptions
from streamer.records import NewRecord
from streamer.settings import MemorySettings, Settings
from streamer.shelf import Shelf

ZOO = Path(streamer.__file__).parent.parent / "models" / "zoo"


def a_copy(folder: Path) -> Path:
    """The shipped forecaster, in a folder that can be written to."""
    return Path(shutil.copytree(ZOO / "machine-forecaster", folder / "model"))


def new_version(folder: Path, version: str) -> None:
    """Other weights under another version, put in place one file after the other."""
    weights = load_file(folder / "weights.safetensors")
    save_file({name: tensor * 1.001 for name, tensor in weights.items()}, folder / "weights.safetensors")
    settings = yaml.safe_load((folder / "model.yaml").read_text())
    (folder / "model.yaml").write_text(yaml.safe_dump({**settings, "version": version}))


def app(log: streamer.Log, folder: Path) -> streamer.App:
    pipeline = {
        "input": {"topic": "in", "partitions": 1},
        "model": str(folder),
        "at_model_change": "reset",
        "commit": {"commit_interval_ms": 5},
    }
    return streamer.App(Settings(log=MemorySettings(kind="memory"), pipelines={"machine": pipeline}, feeds=[]), log=log)


async def fed(serving: streamer.App, second: int) -> list[Envelope]:
    """Everything that was said once one more event is answered."""
    await serving.log.append("in", 0, [NewRecord(b"pump", b'{"value": 5}', (), second * 1000)])
    return [message async for message in serving.outputs(from_start=True, until_drained=True)]


def versions(messages: list[Envelope]) -> list[str]:
    return [m.model.partition("@")[0].rpartition("-")[2] for m in messages if isinstance(m.body, Prediction)]


async def test_a_new_version_in_the_models_folder_is_taken_up(tmp_path: Path) -> None:
    folder = a_copy(tmp_path)
    async with streamer.MemoryLog() as log, app(log, folder) as serving:
        (before,) = versions(await fed(serving, 0))
        new_version(folder, "2099")
        await serving.look_for_models()
        messages = await fed(serving, 1)
    assert versions(messages) == [before, "2099"]
    assert [m.body.event for m in messages if isinstance(m.body, StreamEvent)] == ["started", "model_changed"]


async def test_files_that_are_the_same_are_not_loaded_again(tmp_path: Path) -> None:
    async with streamer.MemoryLog() as log, app(log, a_copy(tmp_path)) as serving:
        tag = serving.status()["machine"].model
        await serving.look_for_models()
        assert serving.status()["machine"].model == tag


async def test_a_broken_new_version_is_said_and_the_old_one_goes_on(tmp_path: Path) -> None:
    folder = a_copy(tmp_path)
    async with streamer.MemoryLog() as log, app(log, folder) as serving:
        (before,) = versions(await fed(serving, 0))
        (folder / "weights.safetensors").write_bytes(b"half of a file")
        await serving.look_for_models()
        assert versions(await fed(serving, 1)) == [before, before]


async def test_a_version_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    folder = a_copy(tmp_path)
    shelf = shelf_of(folder)
    await shelf.current()
    new_version(folder, "2099")
    assert await shelf.changed() is None  # it was not so at the last look
    served = await shelf.changed()
    assert served is not None
    assert served[0].version == "2099"
    assert await shelf.changed() is None


def shelf_of(folder: Path) -> Shelf:
    return Shelf(PipelineOptions(input=InputOptions(topic="in"), model=str(folder)))
