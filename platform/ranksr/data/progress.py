"""Progress of a data job: its line in the log every few seconds, and its gauges."""

import logging
import threading
import time

import pyarrow as pa

from ranksr import gauges
from ranksr.errors import StorageError, UserError
from ranksr.terminal import SECONDS_PER_LINE

log = logging.getLogger(__name__)


class Progress:
    """Says every few seconds how far a job is, also while nothing gets finished. `quiet`: Ray draws a bar instead."""

    def __init__(self, place: gauges.Place, num_images: int, unit: str, per_row: int, quiet: bool) -> None:
        self._place, self._num_images, self._unit, self._per_row, self._quiet = place, num_images, unit, per_row, quiet
        self._start = time.monotonic()
        self._images = self._made = self.rejected = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._show()
        self._say()

    def add(self, batch: pa.Table) -> None:
        for error, away in zip(batch["error"].to_pylist(), batch["away"].to_pylist(), strict=True):
            if error:
                raise StorageError(error) if away else UserError(error)
        self._images += sum(batch["images"].to_pylist())
        self._made += sum(batch["rows"].to_pylist()) * self._per_row
        self.rejected += sum(batch["rejected"].to_pylist())

    def _run(self) -> None:
        while not self._stop.wait(SECONDS_PER_LINE):
            self._show()
            if not self._quiet:
                self._say()

    def _show(self) -> None:
        """In Prometheus."""
        seconds = time.monotonic() - self._start
        done = (self._images, self._num_images, self._made, seconds, self.rejected)
        gauges.data_job(self._place, self._unit, *done)

    def _say(self) -> None:
        seconds = time.monotonic() - self._start
        left = f"{(self._num_images - self._images) * seconds / self._images:.0f} s" if self._images else "unknown time"
        log.info(
            "%s: images %d/%d, %s %d (%.1f/s), rejected %d, %s left",
            *(self._place.stage, self._images, self._num_images, self._unit, self._made, self._made / seconds),
            *(self.rejected, left),
        )
