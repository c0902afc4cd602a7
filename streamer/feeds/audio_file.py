"""Audio files and folders as live streams: every file a stream, all at once, at any speed.

wav, flac, ogg, opus, mp3 and whatever else libsndfile reads, and `.raw` (16 kHz mono s16le). A file keeps its own rate
and channels. Its session is the hash of its content, so that the same file is known again.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from streamer.codecs.audio import audio_record
from streamer.errors import InputError
from streamer.feeds.own_thread import OwnThread
from streamer.feeds.pace import SYSTEM_CLOCK, Clock, Pace
from streamer.feeds.progress import Progress, Run
from streamer.records import NewRecord

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".raw"})
RAW_RATE_HZ = 16_000
AT_ONCE = 256
_BATCH = 64


@dataclass(frozen=True, slots=True)
class AudioFile:
    """A file and the stream it becomes."""

    path: Path
    stream: str


class AudioFileFeed:
    """Feeds files as streams of 100 ms records; `AT_ONCE` of them play at a time, the next starts as one ends."""

    def __init__(
        self,
        paths: Sequence[Path | str],
        *,
        speed: float = 1.0,
        chunk_ms: int = 100,
        again: bool = False,
        start_ms: int | None = None,
        at_once: int = AT_ONCE,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """paths: files and folders. speed: 1 real time, N times faster, 0 as fast as possible. again: as a new session
        even if it was fed before. start_ms: time of the first sample; None is when the feed starts.

        Raises InputError for what does not exist, ConfigurationError for a speed below 0.
        """
        self.files = find_audio(paths)
        self._pace = Pace(speed, clock)
        self._paced = speed > 0
        self._chunk_ms = chunk_ms
        self._again = again
        self._start_ms = start_ms
        self._at_once = at_once
        self._clock = clock
        self._progress: Mapping[Run, Progress] = {}
        self.skipped: list[AudioFile] = []

    @property
    def name(self) -> str:
        return self.files[0].path.name if len(self.files) == 1 else f"{len(self.files)} audio files"

    @property
    def live(self) -> bool:
        return False

    def resume(self, progress: Mapping[Run, Progress]) -> None:
        """Skip finished files and continue unfinished ones at their next record."""
        self._progress = progress

    async def batches(self) -> AsyncIterator[Sequence[NewRecord]]:
        """Records of all files in the order of their time.

        Raises InputError: before the first record for files that are no audio, after the last one for files that broke
        off (their streams end where they broke; the others are fed whole).
        """
        await asyncio.to_thread(_probe, self.files)
        start_ms = self._clock.unix_ms() if self._start_ms is None else self._start_ms
        suffix = f"-{start_ms:x}" if self._again else ""
        waiting = list(reversed(self.files))
        playing: list[tuple[float, int, _Player]] = []
        broken: list[str] = []
        position_s = 0.0
        async with OwnThread() as thread:
            try:
                while True:
                    await thread.run(self._start, waiting, playing, suffix, start_ms, position_s)
                    if not playing:
                        break
                    position_s = playing[0][0]
                    await self._pace.until(position_s)
                    yield await thread.run(self._collect, playing, position_s, broken)
            finally:
                await thread.run(_close_all, playing)
        if broken:
            raise InputError("; ".join(broken))

    def _start(
        self,
        waiting: list[AudioFile],
        playing: list[tuple[float, int, _Player]],
        suffix: str,
        start_ms: int,
        position_s: float,
    ) -> None:
        """Start waiting files until as many play as may."""
        while waiting and len(playing) < self._at_once:
            file = waiting.pop()
            player = self._open(file, suffix, start_ms, position_s)
            if player is None:
                self.skipped.append(file)
            else:
                heapq.heappush(playing, (player.due_s, -len(waiting), player))

    def _open(self, file: AudioFile, suffix: str, start_ms: int, position_s: float) -> _Player | None:
        session = content_hash(file.path) + suffix
        so_far = self._progress.get(Run(file.stream, session), Progress(0))
        if so_far.done:
            return None
        begin_ms = start_ms + round(position_s * 1000) if so_far.start_ms is None else so_far.start_ms
        player = _Player(file, session, self._chunk_ms, begin_ms, so_far.next_seq, position_s)
        if player.ended:
            player.close()
            return None
        return player

    def _collect(
        self, playing: list[tuple[float, int, _Player]], position_s: float, broken: list[str]
    ) -> list[NewRecord]:
        """The next record of every file that is due; as many as a batch holds when nothing is paced."""
        records: list[NewRecord] = []
        while playing and len(records) < _BATCH and (playing[0][0] <= position_s or not self._paced):
            _, order, player = heapq.heappop(playing)
            records.append(player.next_record())
            if player.ended:
                player.close()
                if player.error:
                    broken.append(player.error)
            else:
                heapq.heappush(playing, (player.due_s, order, player))
        return records


class _Player:
    """One file being read: always one chunk ahead, so that the last record is known to be the last."""

    def __init__(
        self, file: AudioFile, session: str, chunk_ms: int, begin_ms: int, skip: int, position_s: float
    ) -> None:
        self._file = file
        self._session = session
        self._sound = open_sound(file.path)
        self._rate_hz: int = self._sound.samplerate
        self._dtype = "int16" if self._sound.subtype == "PCM_16" else "float32"
        self._chunk_samples = max(1, round(self._rate_hz * chunk_ms / 1000))
        self._begin_ms = begin_ms
        self._seq = 0
        self._position_s = position_s
        self._skip = skip
        self.error = ""
        self._ahead = self._read()
        while self._seq < skip and not self.ended:
            self.next_record()

    @property
    def ended(self) -> bool:
        """Whether the record given last was the last."""
        return self._seq > 0 and len(self._ahead) == 0

    @property
    def due_s(self) -> float:
        """When the next record is due, in seconds of the feed."""
        done_s: float = (self._seq - self._skip) * self._chunk_samples / self._rate_hz
        return self._position_s + done_s

    def next_record(self) -> NewRecord:
        samples, self._ahead = self._ahead, self._read()
        index = self._seq * self._chunk_samples
        record = audio_record(
            self._file.stream,
            samples,
            self._rate_hz,
            session=self._session,
            seq=self._seq,
            sample_index=index,
            time_ms=self._begin_ms + index * 1000 // self._rate_hz,
            eos=len(self._ahead) == 0,
        )
        self._seq += 1
        return record

    def close(self) -> None:
        self._sound.close()

    def _read(self) -> NDArray[Any]:
        """(n, C) samples, none at the end or where the file is broken."""
        try:
            samples: NDArray[Any] = self._sound.read(self._chunk_samples, dtype=self._dtype, always_2d=True)
        except soundfile.SoundFileError as error:
            at_s = self._seq * self._chunk_samples / self._rate_hz
            self.error = f"{self._file.path} is broken after {at_s:.1f} s: {error}"
            return np.zeros((0, self._sound.channels), self._dtype)
        return samples


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that is only read forward.

    soundfile seeks to where it is after every read; in MP3 a seek loses the decoder's bit reservoir, and each chunk
    would begin with a burst of noise (0.3 of full scale on a pure tone).
    """

    def seekable(self) -> bool:
        return False


def find_audio(paths: Sequence[Path | str]) -> list[AudioFile]:
    """The files at `paths`, folders searched through; a stream has its file's name, or its path where names collide.

    Raises InputError for a path that does not exist and a folder without audio.
    """
    found: list[tuple[Path, str]] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise InputError(f"folder {path} holds no audio ({', '.join(sorted(SUFFIXES))})")
            found.extend((p, p.relative_to(path).as_posix()) for p in inside)
        elif path.is_file():
            found.append((path, path.name))
        else:
            raise InputError(f"no such file or folder: {path}")
    times = Counter(name for _, name in found)
    return [AudioFile(path, path.as_posix() if times[name] > 1 else name) for path, name in found]


def open_sound(path: Path) -> Any:
    """The file, opened by libsndfile. Raises InputError when it is no audio."""
    try:
        if path.suffix.lower() == ".raw":
            return _Sequential(
                path, format="RAW", subtype="PCM_16", samplerate=RAW_RATE_HZ, channels=1, endian="LITTLE"
            )
        return _Sequential(path)
    except (soundfile.SoundFileError, OSError) as error:
        raise InputError(f"{path} is no audio that can be read ({', '.join(sorted(SUFFIXES))}): {error}") from None


def content_hash(path: Path) -> str:
    """16 hexadecimal digits that name the file's content. Raises InputError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _close_all(playing: list[tuple[float, int, _Player]]) -> None:
    for _, _, player in playing:
        player.close()


def _probe(files: Sequence[AudioFile]) -> None:
    """Raises InputError unless every file is audio and has samples."""
    for file in files:
        sound = open_sound(file.path)
        empty = sound.frames == 0
        sound.close()
        if empty:
            raise InputError(f"{file.path} holds no samples")
