"""Voice activity before speech: only what is spoken travels on, to a topic that a speech pipeline reads.

The gate opens when the speech probability rises to `fire_at`, with a little of what came before; it closes when the
probability has stayed below `resolve_at` for the hang-over. What travels keeps its place in `x-sample-index`, so the
next pipeline sees the silence between as gaps: short ones are filled, long ones end what was being said.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.sensor.hysteresis import AlertRule
from streamer.codecs.messages import Output, VoicedAudio
from streamer.errors import StateMismatch
from streamer.tasks.base import StreamView, TaskBatch

Signal = NDArray[np.float32]


class GateState(NamedTuple):
    """open: whether audio travels on. quiet_samples: how long the probability has been low. kept: (n,) samples not
    yet sent that end at `at` on the stream's clock. said: whether anything was ever sent."""

    open: bool
    quiet_samples: int
    kept: Signal
    at: int
    said: bool


class VoiceGateTask:
    """Sends the voiced parts of every stream on. Samples are mono at the model's rate."""

    independent = False

    def __init__(self, rule: AlertRule, *, rate_hz: int, pre_roll_s: float, hang_over_s: float) -> None:
        self.rule = rule
        self.rate_hz = rate_hz
        self.pre_roll_samples = int(pre_roll_s * rate_hz)
        self.hang_over_samples = int(hang_over_s * rate_hz)

    def initial(self, clock_samples: int) -> GateState:
        return GateState(False, 0, np.zeros(0, np.float32), clock_samples, False)

    def restart(self, stream: StreamView) -> GateState:
        state: GateState = stream.task
        return self.initial(stream.clock_samples)._replace(said=state.said)

    def advance(self, batch: TaskBatch) -> tuple[list[Any], list[list[Output]]]:
        states: list[Any] = []
        said: list[list[Output]] = []
        for row, stream in enumerate(batch.streams):
            probabilities = batch.outputs["probability"][row, : batch.lengths[row]]
            highest = float(probabilities.max()) if len(probabilities) else None
            state, messages = self._advance_row(stream, batch.samples[row][:, 0], highest, batch.times_ms[row])
            states.append(state)
            said.append(messages)
        return states, said

    def _advance_row(
        self, stream: StreamView, samples: Signal, probability: float | None, time_ms: int
    ) -> tuple[GateState, list[Output]]:
        state: GateState = stream.task
        waiting = np.concatenate([state.kept, samples])
        at = state.at + len(samples)
        is_open, quiet = self._judge(state, probability, len(samples))
        if not is_open and not state.open:
            kept = waiting[-self.pre_roll_samples :] if self.pre_roll_samples else waiting[:0]
            return GateState(False, 0, kept, at, state.said), []
        # What closes the gate is sent too: it is the silence after which a speaker has finished.
        message = self._message(stream, waiting, at - len(waiting), time_ms, decision=is_open != state.open)
        return GateState(is_open, quiet, waiting[:0], at, True), [message]

    def _judge(self, state: GateState, probability: float | None, count: int) -> tuple[bool, int]:
        """Whether the gate is open now, and for how many samples it has been quiet."""
        if probability is None:
            return state.open, state.quiet_samples
        if not state.open:
            return probability >= self.rule.fire_at, 0
        quiet = 0 if probability >= self.rule.resolve_at else state.quiet_samples + count
        return quiet < self.hang_over_samples, quiet

    def _message(
        self, stream: StreamView, samples: Signal, at: int, time_ms: int, *, decision: bool, eos: bool = False
    ) -> Output:
        body = VoicedAudio(
            stream=stream.id,
            pcm=(np.clip(samples, -1.0, 32767 / 32768) * 32768.0).round().astype("<i2").tobytes(),
            rate_hz=self.rate_hz,
            session=f"{stream.first_offset}",
            sample_index=at,
            eos=eos,
        )
        return Output(body, stream.key or b"", "voiced", 0, time_ms, decision)

    def finish(self, stream: StreamView) -> list[Output]:
        """The end of the source travels on, where anything of it did."""
        state: GateState = stream.task
        if not state.said:
            return []
        return [self._message(stream, np.zeros(0, np.float32), state.at, stream.last_ms, decision=True, eos=True)]

    def dump(self, state: GateState) -> Any:
        return list(state)

    def load(self, data: Any) -> GateState:
        try:
            is_open, quiet, kept, at, said = data
            return GateState(bool(is_open), int(quiet), np.asarray(kept, np.float32), int(at), bool(said))
        except (TypeError, ValueError) as error:
            raise StateMismatch(f"saved gate state: {error}") from error
