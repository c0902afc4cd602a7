"""A tap that keeps messages: JSON Lines, one file for each kind of output."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from streamer.codecs.messages import Envelope, role_of
from streamer.errors import InputError
from streamer.taps.lines import json_of


class JsonLines:
    """Appends every message to `<folder>/<role>.jsonl`. Use as a context manager; lines are whole or absent."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Raises InputError when the folder cannot be made."""
        self._folder = Path(folder)
        self._files: dict[str, BinaryIO] = {}
        self._json = msgspec.json.Encoder()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self._folder}: cannot write messages there: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def write(self, envelope: Envelope) -> None:
        """Append one message, flushed to the operating system. Raises InputError when the file cannot be written."""
        role = role_of(envelope.body)
        path = self._folder / f"{role}.jsonl"
        try:
            if role not in self._files:
                self._files[role] = path.open("ab", buffering=0)
            self._files[role].write(self._json.encode(json_of(envelope)) + b"\n")
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error

    async def follow(self, outputs: AsyncIterator[Envelope]) -> None:
        """Write everything that `outputs` gives, until it ends."""
        async for envelope in outputs:
            self.write(envelope)
