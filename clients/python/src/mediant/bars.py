"""How far jobs are that are waited for: tqdm's bar where it is installed, else lines on the error stream."""

from __future__ import annotations

import sys
import time
from typing import Any

from ._events import Event

# A job that is over sooner needs no bar.
PATIENCE = 1.0
# Without tqdm, a line at each tenth.
STEP = 0.1


def is_watched() -> bool:
    """Whether somebody sees what is written: a terminal or a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class Bar:
    """One job's progress. It hears the job's events."""

    def __init__(self, job: str) -> None:
        self.job = job
        self.begun = time.monotonic()
        self.bar: Any = None
        self.told = 0.0
        self.last: tuple[int, int] | None = None

    def __call__(self, event: Event) -> None:
        if event.name != "progress":
            return
        done, total = int(event.data["units_done"]), int(event.data["units_total"])
        if self.bar is None and time.monotonic() - self.begun >= PATIENCE:
            self.bar = tqdm(total, self.job) or self
        if self.bar is self:
            self._line(done, total)
        elif self.bar is not None:
            self.bar.total = total
            self.bar.update(done - self.bar.n)
        self.last = (done, total)

    def _line(self, done: int, total: int) -> None:
        share = done / total if total else 1.0
        if self.last == (done, total) or (share < self.told + STEP and done < total):
            return
        self.told = share
        print(f"{self.job}: {share:.0%}, {done} of {total} units, {time.monotonic() - self.begun:.0f} s", file=sys.stderr)

    def close(self) -> None:
        """The job is over, or nobody waits for it any more."""
        if self.bar is not None and self.bar is not self:
            self.bar.close()


def tqdm(total: int, job: str) -> Any:
    """A bar for a terminal or a notebook, if the package is there."""
    try:
        from tqdm.auto import tqdm as bar
    except ImportError:
        return None
    return bar(total=total, unit="unit", desc=job)
