"""Log lines of a process: INFO of `ranksr.*` on standard output, other libraries as they are.

Called once by whoever owns the process: the command line, a training worker, a trial.
"""

import logging
import os
import sys
import time
from types import TracebackType
from typing import TextIO

log = logging.getLogger(__name__)

SECONDS_PER_LINE = 5.0


class _Lines(logging.StreamHandler[TextIO]):
    """Writes to the standard stream of the moment, which tests and notebooks replace."""

    def __init__(self, name: str) -> None:
        logging.Handler.__init__(self)
        self._name = name

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return getattr(sys, self._name)


def log_lines(line_format: str = "%(message)s", to_stderr: bool = False) -> None:
    """Send the INFO lines of `ranksr.*` to standard output or error; other libraries keep their own ways."""
    logger = logging.getLogger("ranksr")
    handler = _Lines("stderr" if to_stderr else "stdout")
    handler.setFormatter(logging.Formatter(line_format, datefmt="%H:%M:%S"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def quieten_ray_data() -> None:
    """No line at the start and end of each of its datasets, nor that its bar is off; after its import."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def num_cores() -> int:
    """Cores that this process may use; macOS does not tell, and gives all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Bar:
    """Progress with rate and time left: a bar on a terminal's standard error, log lines elsewhere."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self._label, self._total, self._unit, self._done = label, total, unit, 0
        self._begun = self._said = time.monotonic()
        self._draws = sys.stderr.isatty()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._draws or time.monotonic() - self._begun > SECONDS_PER_LINE:
            self._say()
        if self._draws:
            print(file=sys.stderr)

    def add(self, count: int) -> None:
        self._done += count
        if self._draws or time.monotonic() - self._said > SECONDS_PER_LINE:
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        rate = self._done / max(self._said - self._begun, 1e-9)
        left = f"{(self._total - self._done) / rate:.0f} s left" if self._done else "unknown time left"
        if self._draws:
            filled = 30 * self._done // max(self._total, 1)
            bar = "#" * filled + "." * (30 - filled)
            print(f"\r[{bar}] {self._done}/{self._total}  {rate:.2g}/s  {left} ", end="", file=sys.stderr, flush=True)
        else:
            log.info("%s: %s %d/%d, %.3g/s, %s", self._label, self._unit, self._done, self._total, rate, left)
