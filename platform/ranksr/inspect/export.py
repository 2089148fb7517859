"""A rank dataset as folders of PNG files and label files: what the authors' Ranker code (2019) reads.

Their loader pairs the files of its three folders by sorted position and finds a label by base name; their accuracy
test takes validation files with the same text before the first underscore for one location.
"""

import concurrent.futures
import csv
import dataclasses
import io
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from ranksr import storage
from ranksr.errors import UserError
from ranksr.report.rank import statistics

log = logging.getLogger(__name__)

WRITERS = 16
"""Files written side by side: a disk or S3 is waited for at each."""
NUM_FOLDERS = 3
"""Number of training folders that their loader reads."""


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Target of every patch: the locations whose every compared method has a score, numbered in their order."""

    scores: statistics.Scores
    methods: tuple[str, ...]
    """Best mean first."""
    numbers: np.ndarray
    """(L,) number of each location, -1 where it is left out."""
    train: np.ndarray
    """(L,) bool."""

    def file_name(self, location: int, method: str) -> str:
        """`<number>_<method>.png`: no underscore in the number, and of one width, so that text sorts as numbers do."""
        return f"{self.number(self.numbers[location])}_{method}.png"

    def number(self, number: int) -> str:
        return f"{number:0{len(str(len(self.numbers)))}d}"

    def of_split(self, is_train: bool) -> np.ndarray:
        """The locations to export of the training or of the validation split."""
        return np.flatnonzero((self.numbers >= 0) & (self.train == is_train))


def export_dataset(root: str, folder: str, ranker: str | None = None) -> list[str]:
    """Write the rank dataset of a run into a new or empty `folder`, local or s3://; returns what to tell the user.

    Patches are streamed by row group. The options file comes last: without it the export is not whole.
    """
    stage, learned = statistics.open_stage(root, ranker)
    if not stage.done:
        raise UserError(f"{stage.folder} is unfinished: run full_pipeline with this --run again, then export it")
    folder = storage.absolute(folder)
    if (storage.exists(folder) and not storage.is_folder(folder)) or storage.list_files(folder):
        raise UserError(f"{folder} is not an empty folder: delete it, or give another")
    plan = _plan(statistics.read_scores(stage, learned))
    _write_patches(plan, folder)
    for name, is_train in (("train", True), ("test", False)):
        lines = "".join(_label_lines(plan, plan.of_split(is_train)))
        storage.write_bytes(storage.join(folder, f"{name}_patch_label.txt"), lines.encode())
    storage.write_bytes(storage.join(folder, "locations.csv"), _locations_csv(plan).encode())
    options = "# For the authors' codes/options/train/train_Ranker.yml\n"
    options += yaml.safe_dump({"datasets": _datasets(plan, folder)}, sort_keys=False, allow_unicode=True)
    storage.write_bytes(storage.join(folder, "train_Ranker.yml"), options.encode())
    return _told(plan, folder)


def _plan(scores: statistics.Scores) -> _Plan:
    methods = scores.ranker.methods
    values = scores.values[:, scores.columns(methods)]
    kept = ~np.isnan(values).any(axis=1)
    if not kept.any():
        raise UserError(f"{scores.stage.folder} has no location where each of {', '.join(methods)} has a score")
    order = np.argsort(values[kept].mean(axis=0), kind="stable")
    numbers = np.where(kept, np.cumsum(kept) - 1, -1)
    train = pc.equal(scores.keys["split"], "train").to_numpy()
    return _Plan(scores, tuple(methods[i] for i in order), numbers, train)


def _write_patches(plan: _Plan, folder: str) -> None:
    if not storage.is_remote(folder):
        for name in ("test_patch_all", *(f"train_patch_{name}" for name in plan.methods)):
            os.makedirs(storage.join(folder, name), exist_ok=True)
    told = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        for file, start in zip(plan.scores.files, plan.scores.starts[:-1].tolist(), strict=True):
            for first, rows in statistics.row_groups(plan.scores.stage.path(file), ["pngs"]):
                list(pool.map(_write_patch, _patches(plan, folder, start + first, rows["pngs"])))
            if time.monotonic() - told > 5:
                log.info("export: %d of %d locations", start, len(plan.numbers))
                told = time.monotonic()


def _patches(plan: _Plan, folder: str, first: int, rows: pa.ChunkedArray) -> Iterator[tuple[str, pa.Buffer]]:
    """Target path and stored PNG of each patch of a row group, whose first location is `first`."""
    columns = plan.scores.columns(plan.methods)
    for location, pngs in enumerate(rows, first):
        if plan.numbers[location] < 0:
            continue
        for method, column in zip(plan.methods, columns, strict=True):
            into = f"train_patch_{method}" if plan.train[location] else "test_patch_all"
            yield storage.join(folder, into, plan.file_name(location, method)), pngs[column].as_buffer()


def _write_patch(patch: tuple[str, pa.Buffer]) -> None:
    """Without the care of `storage.write_bytes`, whose wait for the disk would be the time of a million small files."""
    filesystem, inner = storage.resolve(patch[0])
    with storage.answering(patch[0]), filesystem.open_output_stream(inner) as stream:
        stream.write(patch[1])


def _label_lines(plan: _Plan, locations: np.ndarray) -> Iterator[str]:
    for method, column in zip(plan.methods, plan.scores.columns(plan.methods), strict=True):
        for location, value in zip(locations, plan.scores.values[locations, column].tolist(), strict=True):
            yield f"{plan.file_name(location, method)} {value}\n"


def _locations_csv(plan: _Plan) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["number", "split", "image_id", "y", "x"])
    batches = plan.scores.keys.filter(pa.array(plan.numbers >= 0)).to_batches()
    for number, key in enumerate(key for batch in batches for key in batch.to_pylist()):
        writer.writerow([plan.number(number), key["split"], key["image_id"], key["y"], key["x"]])
    return out.getvalue()


def _datasets(plan: _Plan, folder: str) -> dict[str, Any]:
    roots = {
        f"dataroot_img{i}": storage.join(folder, f"train_patch_{name}") + "/" for i, name in enumerate(plan.methods, 1)
    }
    return {
        "train": {**roots, "dataroot_label_file": storage.join(folder, "train_patch_label.txt")},
        "val": {
            "dataroot_img1": storage.join(folder, "test_patch_all") + "/",
            "dataroot_label_file": storage.join(folder, "test_patch_label.txt"),
        },
    }


def _told(plan: _Plan, folder: str) -> list[str]:
    train, val, methods = len(plan.of_split(True)), len(plan.of_split(False)), ", ".join(plan.methods)
    metric, left_out = plan.scores.ranker.metric, int((plan.numbers < 0).sum())
    told = [
        f"{folder}: {train} training and {val} validation locations of {methods} (best mean {metric} first)",
        f"left out: {left_out} locations where a method has no score",
        f"labels: {metric}, lower is better; paths for the authors' options file: train_Ranker.yml",
    ]
    if len(plan.methods) != NUM_FOLDERS:
        told.append(
            f"note: the authors' loader reads exactly {NUM_FOLDERS} training folders, here are {len(plan.methods)}: "
            f"make dataroot_img1 to dataroot_img{NUM_FOLDERS} name {NUM_FOLDERS} of them, or change their loader"
        )
    if storage.is_remote(folder):
        told.append("note: their code reads local folders: copy the export and correct the paths in train_Ranker.yml")
    return told
