"""CTC log-probabilities to partial and final transcripts, with word times, confidence and endpointing.

Everything counts frames, never time: the same audio gives the same finals however it was cut into records.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.speech.decoder import Decoder, Hypothesis
from streamer.codecs.messages import FinalTranscript, Output, PartialTranscript, Word
from streamer.errors import StateMismatch
from streamer.tasks.base import StreamView, TaskBatch


class TranscriptState(NamedTuple):
    """decoder: its frames count from `base_samples` of the stream's clock. segment: number of the open one.
    due: frames since the last look for a partial; said: the last partial's text."""

    decoder: Any
    segment: int
    base_samples: int
    due: int
    said: str


class TranscriptTask:
    """One open segment a stream; an endpoint closes it."""

    independent = False

    def __init__(self, decoder: Decoder[Any], *, rate_hz: int, samples_per_frame: int, partial_every_ms: int) -> None:
        self.decoder = decoder
        self.rate_hz = rate_hz
        self.samples_per_frame = samples_per_frame
        self.partial_frames = (
            max(1, partial_every_ms * rate_hz // (1000 * samples_per_frame)) if partial_every_ms else 0
        )

    def initial(self, clock_samples: int) -> TranscriptState:
        return TranscriptState(self.decoder.initial(), 0, clock_samples, 0, "")

    def restart(self, stream: StreamView) -> TranscriptState:
        state: TranscriptState = stream.task
        segment = state.segment + bool(self.decoder.final(state.decoder).text)
        return TranscriptState(self.decoder.initial(), segment, stream.clock_samples, 0, "")

    def advance(self, batch: TaskBatch) -> tuple[list[Any], list[list[Output]]]:
        log_probs = batch.outputs["log_probs"]
        states: list[Any] = []
        outputs: list[list[Output]] = []
        for row, stream in enumerate(batch.streams):
            frames = log_probs[row, : batch.lengths[row]].astype(np.float32, copy=False)
            state, said = self._advance_row(stream, stream.task, frames, batch.offsets[row], batch.times_ms[row])
            states.append(state)
            outputs.append(said)
        return states, outputs

    def _advance_row(
        self, stream: StreamView, state: TranscriptState, frames: NDArray[np.float32], offset: int, time_ms: int
    ) -> tuple[TranscriptState, list[Output]]:
        said: list[Output] = []
        decoder = self.decoder
        done = 0
        while done < len(frames):
            # No segment ends inside such a run, so it is decoded at once, whatever records it came in.
            run = frames[done : done + decoder.least_frames(state.decoder)]
            done += len(run)
            inner = decoder.advance(state.decoder, run)
            state = state._replace(decoder=inner, due=state.due + len(run))
            if decoder.is_endpoint(inner):
                finals = self._final(stream, state, time_ms, len(said))
                said += finals
                state = self._next_segment(state, bool(finals))
        if self.partial_frames and state.due >= self.partial_frames:
            return self._partial(stream, state, offset, time_ms, said)
        return state, said

    def _next_segment(self, state: TranscriptState, said: bool) -> TranscriptState:
        return TranscriptState(
            self.decoder.next_segment(state.decoder), state.segment + said, state.base_samples, 0, ""
        )

    def _partial(
        self, stream: StreamView, state: TranscriptState, offset: int, time_ms: int, said: list[Output]
    ) -> tuple[TranscriptState, list[Output]]:
        best = self.decoder.partial(state.decoder)
        state = state._replace(due=0)
        if not best.text or best.text == state.said:
            return state, said
        words = self._words(state, best)
        body = PartialTranscript(
            stream=stream.id,
            segment=state.segment,
            revision=offset,
            text=best.text,
            start_s=words[0].start_s,
            end_s=words[-1].end_s,
        )
        said.append(Output(body, self._key(stream, state), "partial", 0, time_ms, False))
        return state._replace(said=best.text), said

    def _final(self, stream: StreamView, state: TranscriptState, time_ms: int, n: int) -> list[Output]:
        best = self.decoder.final(state.decoder)
        if not best.text:
            return []
        words = self._words(state, best)
        body = FinalTranscript(
            stream=stream.id,
            segment=state.segment,
            text=best.text,
            start_s=words[0].start_s,
            end_s=words[-1].end_s,
            confidence=round(sum(w.confidence for w in words) / len(words), 4),
            words=words,
        )
        return [Output(body, self._key(stream, state), "final", n, time_ms, True)]

    def _words(self, state: TranscriptState, best: Hypothesis) -> tuple[Word, ...]:
        def seconds(frame: int) -> float:
            return round((state.base_samples + frame * self.samples_per_frame) / self.rate_hz, 3)

        return tuple(
            Word(w.text, seconds(w.start_frame), seconds(w.end_frame), round(float(w.confidence), 4))
            for w in best.words
        )

    def _key(self, stream: StreamView, state: TranscriptState) -> bytes:
        return f"{stream.id}/{stream.first_offset}/{state.segment}".encode()

    def finish(self, stream: StreamView) -> list[Output]:
        return self._final(stream, stream.task, stream.last_ms, 0)

    def dump(self, state: TranscriptState) -> Any:
        return [state.decoder.to_arrays(), *state[1:]]

    def load(self, data: Any) -> TranscriptState:
        try:
            arrays, segment, base_samples, due, said = data
            decoder = self.decoder.restore(arrays)
            return TranscriptState(decoder, int(segment), int(base_samples), int(due), str(said))
        except (TypeError, ValueError, KeyError) as error:
            raise StateMismatch(f"saved transcript state: {error}") from error
