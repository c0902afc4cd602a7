"""What a decoder says, and when a segment of speech is over.

Frames are counted from the stream's first frame, so that words of later segments need no offset.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.speech.text import SPACE


@dataclass(frozen=True, slots=True)
class Word:
    """A word heard in frames [start_frame, end_frame).

    confidence: geometric mean of its letters' probabilities where they were written, 0 to 1.
    """

    text: str
    start_frame: int
    end_frame: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The words of a segment so far."""

    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """The words with one space between them."""
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class Clock:
    """Counts frames, never time.

    frame: frames heard in the stream; onset: first frame of the segment with a letter on top, -1 before it;
    silent_frames: frames since a letter was on top.
    """

    frame: int = 0
    onset: int = -1
    silent_frames: int = 0

    def heard(self, label: int) -> Clock:
        """The clock after a frame whose most probable label is `label`."""
        if label <= SPACE:
            return Clock(self.frame + 1, self.onset, self.silent_frames + 1)
        return Clock(self.frame + 1, self.frame if self.onset < 0 else self.onset, 0)

    def restarted(self) -> Clock:
        """For the next segment: the frame goes on, the rest begins anew."""
        return Clock(frame=self.frame)


@dataclass(frozen=True, slots=True)
class Endpointing:
    """When a segment ends: after so much silence behind words, or when it has become too long."""

    silence_frames: int = 20
    longest_frames: int = 667

    def __call__(self, clock: Clock) -> bool:
        """Whether the segment is over at this frame."""
        if clock.onset < 0:
            return False
        return clock.silent_frames >= self.silence_frames or clock.frame - clock.onset >= self.longest_frames

    def least_frames(self, clock: Clock) -> int:
        """How many frames the segment goes on at least: before the last of them it cannot be over."""
        if clock.onset < 0:  # a letter must come first
            return min(self.silence_frames + 1, self.longest_frames)
        lasts = self.longest_frames - (clock.frame - clock.onset)
        return max(1, min(self.silence_frames - clock.silent_frames, lasts))
