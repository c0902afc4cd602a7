"""Every error that users of streamer meet, as one tree.

StreamerError                  all of the below; `str(error)` says what, where and how to mend it
├── ConfigurationError         a setting, an argument or a file of settings is wrong (exit code 2)
├── InputError                 a file, device or payload that is not what it should be
│   └── Malformed              one record; goes to the dead letters, never ends a pipeline
├── StateMismatch              saved state does not fit this model or version
├── DeviceLost                 this process cannot use its device any more (worker.engine); nothing is committed
└── LogError                   anything a log says
    ├── LogUnavailable         broker or file not reachable now; trying again may help
    ├── TopicMissing
    ├── TopicMismatch          a topic exists with other partitions or settings than needed
    ├── PermissionDenied       the log refuses this user
    ├── LogFull                no space, or read-only
    ├── RecordTooLarge         one record is over the topic's limit
    ├── OffsetGone             an offset below what retention has kept
    └── Fenced                 another owner has taken the partition: drop state, restore
"""

from __future__ import annotations


class StreamerError(Exception):
    """Base of all errors; the message names what, where and how to mend it."""


class ConfigurationError(StreamerError):
    """A setting, argument or settings file that cannot be used."""


class InputError(StreamerError):
    """Input that is not what it was said to be."""


class Malformed(InputError):
    """One record that cannot be decoded; the message is the reason given in the dead letter."""


class StateMismatch(StreamerError):
    """Saved state that does not fit the model, version or layout at hand."""


class LogError(StreamerError):
    """A log could not do what it was asked."""


class LogUnavailable(LogError):
    """The log cannot be reached now; trying again may help."""


class TopicMissing(LogError):
    """No such topic."""


class TopicMismatch(LogError):
    """A topic whose partitions or settings are not what is needed."""


class PermissionDenied(LogError):
    """The log refuses this user; the message names the topic or group and the operation."""


class LogFull(LogError):
    """No space left, or the log cannot be written."""


class RecordTooLarge(LogError):
    """One record is larger than its topic takes."""


class OffsetGone(LogError):
    """The offset asked for is no longer kept."""


class Fenced(LogError):
    """Another owner has taken this partition; nothing was written."""
