"""What a run has done so far, in a file, so that a run that was broken off can go on; and its counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.chaos.crew import Death
from tests.chaos.storm import Done


class Entry(NamedTuple):
    """One cycle: what was done, how long it took, and which workers ended by themselves."""

    done: Sequence[Done]
    seconds: float
    failures: Sequence[str]


class Journal:
    """The cycles of a run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries: list[Entry] = []
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            self.entries = [_entry(line) for line in lines if line.endswith("\n")]
            if lines and not lines[-1].endswith("\n"):  # the harness was killed while it wrote
                path.write_text("".join(lines[:-1]), encoding="utf-8")

    def add(self, entry: Entry) -> None:
        """One more cycle."""
        self.entries.append(entry)
        done = [[done.kind, [list(death) for death in done.deaths]] for done in entry.done]
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([done, round(entry.seconds, 3), list(entry.failures)]) + "\n")

    @property
    def deaths(self) -> list[Death]:
        """Of all workers that were killed."""
        return [death for entry in self.entries for done in entry.done for death in done.deaths]

    @property
    def faults(self) -> Counter[str]:
        """How many there were of each kind."""
        return Counter(done.kind for entry in self.entries for done in entry.done)

    @property
    def failures(self) -> list[str]:
        """Of workers that ended by themselves."""
        return [failure for entry in self.entries for failure in entry.failures]

    @property
    def seconds(self) -> float:
        """How long all cycles took."""
        return sum(entry.seconds for entry in self.entries)


def _entry(line: str) -> Entry:
    done, seconds, failures = json.loads(line)
    return Entry([Done(kind, [Death(*death) for death in deaths]) for kind, deaths in done], seconds, failures)
