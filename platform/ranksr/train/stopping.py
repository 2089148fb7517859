"""Stopping a training by signal or by file: the workers finish their step and write a checkpoint."""

import contextlib
import dataclasses
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ranksr import storage
from ranksr.errors import StorageError
from ranksr.train.journal import Place

log = logging.getLogger(__name__)

STOP_FILE = "stop_requested"
"""File in a stage's folder that passes a SIGTERM to the driver, or early stopping, on to the workers."""
LOOK_FOR_STOP_SECONDS = 1.0
HINT = " (Ctrl+C again ends at once)"


@dataclasses.dataclass
class Asked:
    """Which signal has asked for a stop."""

    by: signal.Signals | None = None

    @property
    def exit_code(self) -> int:
        """Exit code of a process that the signal ended, as shells expect it: 143 or 130."""
        assert self.by is not None
        return 128 + self.by


@contextlib.contextmanager
def on_stop_signal(ask: Callable[[str], None]) -> Iterator[Asked]:
    """Calls `ask` with the name of the first SIGTERM or SIGINT (Ctrl+C), which then ends nothing by itself.

    A SIGINT after that raises KeyboardInterrupt. Only the main thread gets signals. `ray job stop` follows its SIGTERM
    with SIGKILL after RAY_JOB_STOP_WAIT_TIME_S (3 s): nothing is lost but the steps since the last checkpoint.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, _: Any) -> None:
        if asked.by is None:
            asked.by = signal.Signals(number)
            ask(asked.by.name)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stopping(place: Place) -> Iterator[Asked]:
    """Turns SIGTERM and SIGINT into a file that the first worker looks for; gives which of them came.

    Of a Tune trial, whose own process gets no signals, the driver writes the file; here it is removed at the end.
    """
    flag = storage.join(place.folder, STOP_FILE)

    def ask(name: str) -> None:
        log.warning("%s: %s; finishing the step and writing a checkpoint%s", place.name, name, HINT)
        try:
            storage.write_bytes(flag, b"")
        except (OSError, StorageError) as error:  # in a signal handler, where an exception would come up anywhere
            log.warning("%s: the workers cannot be told to stop (%s)%s", place.name, error, HINT)

    storage.delete(flag)  # of a driver that was killed while it waited
    try:
        with on_stop_signal(ask) as asked:
            yield asked
    finally:
        storage.delete(flag)


@contextlib.contextmanager
def watch(flag: str) -> Iterator[threading.Event]:
    """An event that is set once the file `flag` exists. A thread looks, so that the training never waits for s3."""
    seen, over = threading.Event(), threading.Event()

    def look() -> None:
        while not over.wait(LOOK_FOR_STOP_SECONDS):
            with contextlib.suppress(OSError, StorageError):  # looked for again
                if storage.exists(flag):
                    seen.set()
                    return

    threading.Thread(target=look, daemon=True, name="stop").start()
    try:
        yield seen
    finally:
        over.set()
