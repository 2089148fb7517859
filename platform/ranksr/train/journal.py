"""Records of a training: metrics.jsonl, TensorBoard, pictures of validations, and the rates of its progress line.

TensorBoard shows each stage as a run of its own with the same tags: `train/` loss terms, learning rate, gradient norms;
`val/` metrics and pictures; `speed/`. Its custom scalars lay NIQE and PSNR of all runs over each other (Figure 6).
"""

import contextlib
import dataclasses
import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import tensorboardX
import torch

from ranksr import gauges, storage
from ranksr.config import Training
from ranksr.runs import METRICS
from ranksr.train import hparams, pictures
from ranksr.train.world import World

T = TypeVar("T")
Row = dict[str, Any]
"""A row of metrics.jsonl: {"step": int, "split": "train" | "val", NAME: float}."""

LAYOUT = {"Figure 6": {"NIQE": ["Multiline", ["val/niqe"]], "PSNR": ["Multiline", ["val/psnr"]]}}
PICTURE = "val/lr_bicubic_sr_hr"
ABOUT = ("step", "split")
"""Keys of a row of metrics.jsonl that are no metrics."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Name and output folders of one training."""

    name: str
    folder: str
    """<stage>: checkpoints/, metrics.jsonl, images/validation/, weights.pt."""
    tensorboard: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Hyper-parameters in TensorBoard, under the same keys in every run."""
    experiment: hparams.Experiment | None = None
    """Keys and metrics of all runs of TensorBoard's table; None: this one's settings alone."""
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Texts in TensorBoard by title: the resolved config, the command."""


def read_metrics(path: str) -> list[Row]:
    """Rows of a metrics.jsonl; empty when there is no file."""
    rows = storage.read_jsonl(path)
    return [
        {key: value if key in ABOUT else storage.as_numbers(value) for key, value in row.items() if key != "reasons"}
        for row in rows
    ]


def write_metrics(path: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write a metrics.jsonl; where JSON has no number for a value, `reasons` says why."""
    storage.write_jsonl(path, [row | _reasons(row) for row in rows])


def _reasons(row: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    values = {name: value for name, value in row.items() if name not in ABOUT and not math.isfinite(value)}
    said = {name: "nothing has a score" if math.isnan(value) else "infinite" for name, value in values.items()}
    return {"reasons": said} if said else {}


class Journal:
    """metrics.jsonl, TensorBoard and pictures of one stage, written by the first worker.

    What an earlier start wrote after the step that this one resumes from is dropped, so that each step appears once.
    """

    def __init__(self, place: Place, start_step: int) -> None:
        self._folder, self._path = place.folder, storage.join(place.folder, METRICS)
        self._gauges = gauges.place_of(place.folder, place.name)
        self.rows = [row for row in read_metrics(self._path) if row["step"] <= start_step]
        pictures.forget_after(place.folder, start_step)
        if not start_step:  # killed before its first checkpoint: TensorBoard would draw that start's curves too
            for name, _ in storage.list_files(place.tensorboard):
                storage.delete(storage.join(place.tensorboard, name))
        self._board = tensorboardX.SummaryWriter(
            place.tensorboard,
            purge_step=start_step + 1 if start_step else None,
            filename_suffix=f".{start_step}",  # two starts in one second would write into one file
        )
        self._board.add_custom_scalars(LAYOUT)
        common = place.experiment or hparams.experiment([place.settings], [])
        hparams.write(self._board, common, place.settings)
        for title, text in place.texts.items():
            self._board.add_text(title, f"```\n{text}\n```")

    def add(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """A row of metrics.jsonl, and the same in TensorBoard and Prometheus."""
        self.rows.append({"step": step, "split": split, **values})
        self._draw(step, split, values)
        gauges.training(self._gauges, step, split, values)

    def show(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Scalars in TensorBoard alone, tagged `group/name`, and rates (`speed`) in Prometheus."""
        self._draw(step, group, values)
        if group == "speed":
            gauges.training(self._gauges, step, group, values)

    def _draw(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Scalars in TensorBoard; NaN, which is no score, is left out."""
        for name, value in values.items():
            if not math.isnan(value):
                self._board.add_scalar(f"{group}/{name}", value, step)

    def pictures(self, step: int, found: pictures.Pictures, keep: bool) -> None:
        """Pictures of a validation in TensorBoard, and as files where they are to be kept."""
        self._board.add_image(PICTURE, pictures.strip(found), step, dataformats="HWC")
        if keep:
            pictures.write(self._folder, step, found)

    def save(self) -> None:
        write_metrics(self._path, self.rows)
        self._board.flush()

    def close(self) -> None:
        self.save()
        self._board.close()
        gauges.at_rest(self._gauges, "ranksr_steps_per_second", "ranksr_images_per_second", "ranksr_seconds_left")


class Pace:
    """Rates between two progress lines, without the time of validations and checkpoints, and the time left."""

    def __init__(self, step: int, training: Training, world: World) -> None:
        self._training, self._world = training, world
        self._first_step, self._begun = step, time.monotonic()
        self._restart(step)

    def _restart(self, step: int) -> None:
        self._step, self._time, self._waited = step, time.monotonic(), 0.0

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the time that the loop waits for them is counted."""
        iterator = iter(batches)
        while True:
            start = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.monotonic() - start
            yield batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time inside the block from the rates."""
        start = time.monotonic()
        yield
        self._time += time.monotonic() - start

    def read(self, step: int) -> dict[str, float]:
        """Rates since the last reading, memory, and the time left at the average rate so far, validations included."""
        now = time.monotonic()
        seconds = max(now - self._time, 1e-9)
        rate = (step - self._step) / seconds
        values = {
            "steps_per_second": rate,
            "images_per_second": rate * self._training.batch_size,
            "data_wait_fraction": self._waited / seconds,
            "memory_gib": peak_memory_gib(self._world.device),
            "seconds_left": (self._training.steps - step) * (now - self._begun) / (step - self._first_step),
        }
        self._restart(step)
        return values


def pace_line(values: Mapping[str, float]) -> str:
    """The values of `Pace.read` as a part of the progress line."""
    minutes, seconds = divmod(round(values["seconds_left"]), 60)
    return (
        f"{values['steps_per_second']:.2f} step/s  {values['images_per_second']:.1f} images/s  "
        f"data wait {values['data_wait_fraction']:.1%}  memory {values['memory_gib']:.2f} GiB  "
        f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
    )


def peak_memory_gib(device: str) -> float:
    """The most that this process has had: of the GPU when it trains on one, else of main memory."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
