"""Ray Data actors that super-resolve photographs with every method of a list; a generator is loaded once per actor."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch

from ranksr import checkpoints, images
from ranksr.data import parts, sources


def upscale(generator: torch.nn.Module, lr: np.ndarray, device: str = "cpu") -> np.ndarray:
    """SR image of one LR image, both uint8 HWC RGB; `generator` is in eval mode on `device`."""
    with torch.inference_mode():
        return images.to_image(generator(images.to_tensor(lr)[None].to(device))[0])


class Upscaler:
    """Adds `{"images": [{"image_id", "path", "height", "width", "pngs": [bytes per method]}]}` to a part.

    `methods` maps a name to `bicubic`, `hr` or the path of a generator's weights. `lr` is one more possible
    name: the input itself. Photographs that cannot be used go to `rejected` with the reason.
    """

    def __init__(
        self, methods: Mapping[str, str], smallest_px: int, num_gpus: float, lr_paths: Mapping[str, str] | None
    ) -> None:
        torch.set_num_threads(1)
        self.device = "cuda" if num_gpus else "cpu"
        self.smallest_px = smallest_px
        self.lr_paths = lr_paths or {}
        self.methods = {
            name: kind if kind in ("bicubic", "hr", "lr") else checkpoints.load_generator(kind).to(self.device)
            for name, kind in methods.items()
        }

    def __call__(self, part: parts.Row) -> parts.Row:
        done: list[parts.Row] = []
        rejected: list[dict[str, str]] = []
        for photo in part["photos"]:
            try:
                done.append(self._every_method(photo))
            except ValueError as error:
                rejected.append({"path": photo["path"], "reason": str(error)})
        return {**part, "images": done, "rejected": rejected}

    def _every_method(self, photo: parts.Row) -> parts.Row:
        hr = images.crop_to_multiple(sources.read_photo(photo["path"]))
        height, width = hr.shape[:2]
        if min(height, width) < self.smallest_px:
            raise ValueError(f"{width}x{height} px is smaller than a patch of {self.smallest_px} px")
        lr = self._lr(photo["image_id"], hr)
        pngs = []
        for method in self.methods.values():
            match method:
                case "hr":
                    image = hr
                case "lr":
                    image = lr
                case "bicubic":
                    image = images.upscale_bicubic(lr)
                case generator:
                    image = upscale(generator, lr, self.device)
            pngs.append(images.encode_png(image))
        return {**photo, "height": height, "width": width, "pngs": pngs}

    def _lr(self, image_id: str, hr: np.ndarray) -> np.ndarray:
        if image_id not in self.lr_paths:
            return images.downscale(hr)
        path = self.lr_paths[image_id]
        lr = sources.read_photo(path)
        expected = (hr.shape[0] // images.SCALE, hr.shape[1] // images.SCALE)
        if lr.shape[:2] != expected:
            raise ValueError(
                f"its LR image {path} is {lr.shape[1]}x{lr.shape[0]} px, not {expected[1]}x{expected[0]} px"
            )
        return lr


@dataclasses.dataclass(frozen=True)
class UpscaleActors:
    """How many actors a job starts, and what each holds of a GPU."""

    count: int
    num_gpus: float

    def of(
        self, methods: Mapping[str, str], smallest_px: int, lr_paths: Mapping[str, str] | None = None
    ) -> parts.Actors:
        return parts.Actors(Upscaler, (dict(methods), smallest_px, self.num_gpus, lr_paths), self.count, self.num_gpus)
