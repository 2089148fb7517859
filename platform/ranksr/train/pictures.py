"""Pictures of validations: files in a training's folder, and the strip that TensorBoard shows of them.

The files have the form of an evaluation's, `<stage>/images/validation/<method>/<image>.png`, where the methods are
`lr`, `bicubic`, `hr` and one for each step that is kept, e.g. `step_00000200`. A training keeps at most MOST_STEPS + 1
steps of MOST_IMAGES images, each of at most 192 px: under 9 MB.
"""

import concurrent.futures
import re
from collections.abc import Mapping

import numpy as np

from ranksr import SCALE, images, storage
from ranksr.config import Training
from ranksr.runs import PICTURES

VALIDATION = "validation"
"""Folder in PICTURES, where an evaluation has those of its test sets."""
MOST_STEPS = 16
MOST_IMAGES = 4
PICTURE_PX = 192
"""HR side of what is shown of a validation image, from its middle."""
FILES_AT_ONCE = 8
KEPT = re.compile(rf"((?P<folder>.+)/)?{PICTURES}/{VALIDATION}/step_(?P<step>\d{{8}})/(?P<name>.+)\.png")

Pictures = Mapping[str, Mapping[str, np.ndarray]]
"""Name of a validation image to its `lr`, `bicubic`, `sr` and `hr`, uint8 HWC RGB, of one place."""


def views(lr: np.ndarray, sr: np.ndarray, hr: np.ndarray) -> dict[str, np.ndarray]:
    """The middle of one validation image, PICTURE_PX high and wide at most. uint8 HWC RGB."""
    y, x = (max(0, (side - PICTURE_PX // SCALE) // 2) for side in lr.shape[:2])

    def middle(image: np.ndarray, scale: int) -> np.ndarray:
        side = PICTURE_PX // SCALE * scale
        return image[y * scale : y * scale + side, x * scale : x * scale + side]

    large = {"bicubic": images.upscale_bicubic(lr), "sr": sr, "hr": hr}
    return {"lr": middle(lr, 1), **{name: middle(image, SCALE) for name, image in large.items()}}


def strip(pictures: Pictures) -> np.ndarray:
    """LR (enlarged without interpolation), bicubic, SR and HR side by side, a row for each image. uint8 HWC RGB."""
    rows = []
    for each in pictures.values():
        large = each["lr"].repeat(SCALE, axis=0).repeat(SCALE, axis=1)
        rows.append(np.concatenate([large, each["bicubic"], each["sr"], each["hr"]], axis=1))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, [(0, 0), (0, width - row.shape[1]), (0, 0)]) for row in rows])


def is_kept(training: Training, step: int) -> bool:
    """Whether the pictures of the validation at `step` become files: those of the last, and of MOST_STEPS others."""
    every = -(-(training.steps // training.validate_every_steps) // MOST_STEPS) * training.validate_every_steps
    return step == training.steps or step % every == 0


def write(folder: str, step: int, pictures: Pictures) -> None:
    """Write the pictures of one validation of the training in `folder`, local or s3://bucket/prefix."""
    place = {"sr": f"step_{step:08d}"}
    files = {
        storage.join(folder, PICTURES, VALIDATION, place.get(view, view), f"{name}.png"): image
        for name, each in pictures.items()
        for view, image in each.items()
    }
    with concurrent.futures.ThreadPoolExecutor(FILES_AT_ONCE) as pool:  # in a bucket each waits for the network
        for done in [pool.submit(_write_one, path, image) for path, image in files.items()]:
            done.result()


def _write_one(path: str, image: np.ndarray) -> None:
    storage.write_bytes(path, images.encode_png(image))


def kept(root: str) -> dict[str, dict[int, list[str]]]:
    """Trainings below `root` that kept pictures: their folders, relative to it, to steps to names of images."""
    found: dict[str, dict[int, list[str]]] = {}
    for path, _ in storage.list_files(root):
        if file := KEPT.fullmatch(path):
            found.setdefault(file["folder"] or "", {}).setdefault(int(file["step"]), []).append(file["name"])
    return found


def kept_steps(folder: str) -> list[int]:
    """Steps of which the training in `folder` kept pictures, in order."""
    return list(kept(folder).get("", {}))


def forget_after(folder: str, step: int) -> None:
    """Delete the pictures of later steps: the training goes on from `step`."""
    for later in [each for each in kept_steps(folder) if each > step]:
        storage.delete(storage.join(folder, PICTURES, VALIDATION, f"step_{later:08d}"))
