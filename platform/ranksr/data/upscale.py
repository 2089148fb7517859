"""Ray Data actors that super-resolve photographs with every method of a list; a generator is loaded once per actor."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping

import numpy as np
import ray
import torch

from ranksr import SCALE, checkpoints, images
from ranksr.data import parts, sources
from ranksr.data.parts import Part, PartPhoto, Rejected
from ranksr.errors import UserError

TILE_PX = 512
OVERLAP_PX = 32
"""LR photographs above TILE_PX are upscaled in tiles, with so much around each, to bound the memory: a 30,000 px wide
photograph would take 40 GB. The training photographs of the paper (2K, LR 510 px) are upscaled whole."""


def upscale(generator: torch.nn.Module, lr: np.ndarray, device: str = "cpu") -> np.ndarray:
    """SR image of one LR image, both uint8 HWC RGB; `generator` is in eval mode on `device`.

    Raises FloatingPointError where the network gives NaN or infinity, which as pixels would be black.
    """
    height, width = lr.shape[:2]
    sr = np.empty((height * SCALE, width * SCALE, 3), np.uint8)
    for y, x in itertools.product(range(0, height, TILE_PX), range(0, width, TILE_PX)):
        top, left = max(0, y - OVERLAP_PX), max(0, x - OVERLAP_PX)
        bottom, right = min(height, y + TILE_PX), min(width, x + TILE_PX)
        with torch.inference_mode():
            around = lr[top : bottom + OVERLAP_PX, left : right + OVERLAP_PX]
            made = generator(images.to_tensor(around)[None].to(device))[0]
            if not bool(torch.isfinite(made).all()):
                raise FloatingPointError("NaN" if bool(made.isnan().any()) else "infinite pixels")
            tile = images.to_image(made)
        (y0, y1), (x0, x1) = ((SCALE * y, SCALE * bottom), (SCALE * x, SCALE * right))
        inner = tile[y0 - SCALE * top : y1 - SCALE * top]
        sr[y0:y1, x0:x1] = inner[:, x0 - SCALE * left : x1 - SCALE * left]
    return sr


class TooSmallError(ValueError):
    """A photograph into which no patch fits: left out, but no bad file."""


@dataclasses.dataclass(frozen=True)
class UpscaledPhoto:
    about: PartPhoto
    pictures: dict[str, np.ndarray]
    """Method to its image, uint8 HWC RGB, all of one size but `lr`."""


@dataclasses.dataclass(frozen=True)
class UpscaledPart:
    photos: list[UpscaledPhoto]
    rejected: list[Rejected]


class Upscaler:
    """Makes the images of every method for the photographs of a part.

    `methods` maps a name to `bicubic`, `hr`, `given` (a file that comes with the photograph) or the path of a
    generator's weights. `lr` is one more possible name: the input itself, given or made. Photographs that cannot be
    used go to `rejected` with the reason.
    """

    def __init__(self, methods: Mapping[str, str], smallest_px: int, num_gpus: float) -> None:
        torch.set_num_threads(1)
        self.device = "cuda" if num_gpus else "cpu"
        self.smallest_px = smallest_px
        self.methods = {
            name: kind if kind in FIXED_KINDS else checkpoints.load_generator(kind).to(self.device)
            for name, kind in methods.items()
        }

    def __call__(self, part: Part) -> UpscaledPart:
        done: list[UpscaledPhoto] = []
        rejected: list[Rejected] = []
        for each in part.photos:
            try:
                done.append(UpscaledPhoto(each, self._every_method(each)))
            except UserError:  # of a method, not of this photograph
                raise
            except ValueError as error:
                rejected.append(Rejected(each.photo.path, str(error), isinstance(error, TooSmallError)))
        return UpscaledPart(done, rejected)

    def _every_method(self, each: PartPhoto) -> dict[str, np.ndarray]:
        hr = images.crop_to_multiple(sources.read_photo(each.photo.path))
        height, width = hr.shape[:2]
        if min(height, width) < self.smallest_px:
            raise TooSmallError(f"{width}x{height} px is smaller than a patch of {self.smallest_px} px")
        pictures: dict[str, np.ndarray] = {}

        @functools.cache
        def lr() -> np.ndarray:
            return _read_given("lr", each.given, hr, SCALE) if "lr" in each.given else images.downscale(hr)

        for name, method in self.methods.items():
            match method:
                case "hr":
                    pictures[name] = hr
                case "given":
                    pictures[name] = _read_given(name, each.given, hr, 1)
                case "lr":
                    pictures[name] = lr()
                case "bicubic":
                    pictures[name] = images.upscale_bicubic(lr())
                case torch.nn.Module():
                    pictures[name] = self._by_network(name, method, lr(), each.photo.path)
        return pictures

    def _by_network(self, name: str, generator: torch.nn.Module, lr: np.ndarray, path: str) -> np.ndarray:
        try:
            return upscale(generator, lr, self.device)
        except FloatingPointError as error:
            raise UserError(
                f"{name} gives {error} for {path}: its weights are no use, and nothing of the image is kept; "
                "train it again with a lower learning rate, or give other weights"
            ) from None


FIXED_KINDS = ("bicubic", "hr", "lr", "given")


def _read_given(what: str, given: Mapping[str, str], hr: np.ndarray, smaller: int) -> np.ndarray:
    """An image made elsewhere of the photograph `hr`, which must be `smaller` times as small."""
    if what not in given:
        raise ValueError(f"{what} has no image of it")
    try:
        image = sources.read_photo(given[what])
    except ValueError as error:
        raise ValueError(f"its {what} image {given[what]}: {error}") from error
    height, width = hr.shape[0] // smaller, hr.shape[1] // smaller
    if image.shape[:2] != (height, width):
        raise ValueError(
            f"its {what} image {given[what]} is {image.shape[1]}x{image.shape[0]} px, not {width}x{height} px"
        )
    return image


@dataclasses.dataclass(frozen=True)
class UpscaleActors:
    """Number of actors that a job starts (None: as many as the present CPUs or GPUs hold), and each one's GPU share."""

    count: int | None
    num_gpus: float

    def of(self, methods: Mapping[str, str], smallest_px: int) -> parts.Actors:
        for path in (kind for kind in methods.values() if kind not in FIXED_KINDS):
            checkpoints.load_generator(path)  # what is wrong with it is said here, before actors start
        return parts.Actors(
            Upscaler, (dict(methods), smallest_px, self.num_gpus), self.count or self._present(), self.num_gpus
        )

    def _present(self) -> int:
        present = ray.cluster_resources()
        fitting = present.get("GPU", 0) / self.num_gpus if self.num_gpus else present.get("CPU", 1)
        return max(1, int(fitting))
