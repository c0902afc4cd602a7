"""The versions of a model that a pipeline's settings name, loaded with their tasks; looks again for what is new."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from models.bundle import Bundle
from models.bundle import find as find_folder
from models.bundle import load as load_bundle
from models.contract import ModelError
from streamer.options import PipelineOptions
from streamer.tasks.base import Task
from streamer.tasks.build import build_task

logger = logging.getLogger(__name__)
Served = tuple[Bundle, Task]
Look = tuple[tuple[str, int, int], ...]
"""A folder's files as they are: name, size and time of the last change in nanoseconds."""


class Shelf:
    """One pipeline's models. bundle, task, also: the caller's own instead of, and beside, what the settings name."""

    def __init__(
        self,
        options: PipelineOptions,
        bundle: Bundle | None = None,
        task: Task | None = None,
        also: Sequence[Bundle] = (),
    ) -> None:
        self._options = options
        self._bundle = bundle
        self._also = also
        self._task = task
        self._seen: Look = ()
        self._before: Look = ()

    async def current(self) -> Served:
        """What the pipeline serves. Raises ModelError, ConfigurationError."""
        if self._bundle is not None:
            return await self._with_task(self._bundle)
        self._seen = self._before = await asyncio.to_thread(look_at, self._options.model)
        return await self._load(self._options.model)

    async def also(self) -> list[Served]:
        """The further versions. Raises ModelError, ConfigurationError."""
        own = [await self._with_task(bundle) for bundle in self._also]
        return [*own, *[await self._load(name) for name in self._options.also]]

    async def find(self, model: str) -> Served | None:
        """The version `name-version@fingerprint`, if it lies where the settings point to by now."""
        for name in (*(() if self._bundle else (self._options.model,)), *self._options.also):
            try:
                served = await self._load(name)
            except ModelError as error:
                logger.warning("cannot be loaded: %s", error)
                continue
            if served[0].tag == model:
                return served
        return None

    async def changed(self, *, complete: bool = False) -> Served | None:
        """The model if its files are others than at the last load.

        A folder that is being written to is waited for (its files must be the same at two looks), unless it is known to
        be `complete`; what cannot be loaded is said, and tried again when it has changed.
        """
        if self._bundle is not None:
            return None
        try:
            now = await asyncio.to_thread(look_at, self._options.model)
        except ModelError:
            return None
        quiet, self._before = now == self._before, now
        if now == self._seen or not (quiet or complete):
            return None
        self._seen = now
        try:
            return await self._load(self._options.model)
        except ModelError as error:
            logger.warning("the model has changed and cannot be loaded, the old one goes on: %s", error)
            return None

    async def _load(self, name: str) -> Served:
        return await self._with_task(await asyncio.to_thread(load_bundle, name))

    async def _with_task(self, bundle: Bundle) -> Served:
        if self._task is not None:
            return bundle, self._task
        return bundle, await asyncio.to_thread(build_task, bundle, self._options)


def look_at(model: str) -> Look:
    """The files of a model's folder. Raises ModelError where there is none."""
    return _files(sorted(find_folder(model).iterdir()))


def _files(paths: Sequence[Path]) -> Look:
    found = []
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError:  # it is being replaced
            continue
        found.append((path.name, status.st_size, status.st_mtime_ns))
    return tuple(found)
