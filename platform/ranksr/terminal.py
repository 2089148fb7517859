"""Output for a terminal: log lines, a progress bar, aligned columns."""

import logging
import os
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
    """Send the INFO lines of `ranksr.*` to standard output or error; other libraries keep their own ways.

    Called once by whoever owns the process: the command line, a training worker, a trial.
    """
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

    def __init__(self, label: str, total: float, unit: str) -> None:
        self._label, self._unit = label, unit
        columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn()
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._task = self._progress.add_task(label, total=total, rate="")
        self._begun = self._said = time.monotonic()

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if time.monotonic() - self._begun > SECONDS_PER_LINE:
            self._say()

    def add(self, count: float) -> None:
        (task,) = self._progress.tasks
        rate = (task.completed + count) / max(time.monotonic() - self._begun, 1e-9)
        self._progress.update(self._task, advance=count, rate=f"{rate:.2g}/s")
        if time.monotonic() - self._said > SECONDS_PER_LINE:
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        if self._progress.disable:
            (task,) = self._progress.tasks
            done, rate = int(task.completed), task.completed / max(self._said - self._begun, 1e-9)
            left = f"{(task.remaining or 0) / rate:.0f} s left" if done else "unknown time left"
            log.info("%s: %s %d/%d, %.3g/s, %s", self._label, self._unit, done, task.total, rate, left)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Rows of equal length as columns: the first flush left, the others right. A wide character fills two places."""
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    text = ""
    for first, *cells in lines:
        padded = [" " * (width - cell_len(cell)) + cell for cell, width in zip(cells, widths[1:], strict=True)]
        text += "  ".join([set_cell_size(first, widths[0]), *padded]).rstrip() + "\n"
    return text


def print_text(text: str) -> None:
    """Print to standard output, of which a reader such as `head` may have had enough."""
    try:
        print(text)
    except BrokenPipeError:  # Python would complain once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
