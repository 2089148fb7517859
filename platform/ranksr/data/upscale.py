"""Super-resolves photographs of a data job with every method of a list; a generator is loaded once per process."""

import dataclasses
import functools
import itertools
from collections.abc import Collection, Mapping

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


def upscale(
    generator: torch.nn.Module,
    lr: np.ndarray,
    device: str = "cpu",
    tile_px: int = TILE_PX,
    bf16: bool = False,
    ensemble: bool = False,
) -> np.ndarray:
    """SR image of one LR image, both HWC RGB, uint8 or uint16 alike; `generator` is in eval mode on `device`.

    `tile_px`: side of the LR tiles. `bf16`: bfloat16 inside the network. `ensemble`: mean over the eight flips and
    rotations. Raises FloatingPointError where the network gives NaN or infinity, which as pixels would be black.
    """
    height, width = lr.shape[:2]
    sr = np.empty((height * SCALE, width * SCALE, 3), lr.dtype)
    for y, x in itertools.product(range(0, height, tile_px), range(0, width, tile_px)):
        top, left = max(0, y - OVERLAP_PX), max(0, x - OVERLAP_PX)
        bottom, right = min(height, y + tile_px), min(width, x + tile_px)
        around = images.to_tensor(lr[top : bottom + OVERLAP_PX, left : right + OVERLAP_PX])[None].to(device)
        with torch.inference_mode(), torch.autocast(around.device.type, torch.bfloat16, enabled=bf16):
            made = _mean_of_turns(generator, around) if ensemble else generator(around)
        if not bool(torch.isfinite(made).all()):
            raise FloatingPointError("NaN" if bool(made.isnan().any()) else "infinite pixels")
        inner = made[0, :, SCALE * (y - top) : SCALE * (bottom - top), SCALE * (x - left) : SCALE * (right - left)]
        sr[SCALE * y : SCALE * bottom, SCALE * x : SCALE * right] = images.to_image(inner, lr.dtype)
    return sr


def _mean_of_turns(generator: torch.nn.Module, lr: torch.Tensor) -> torch.Tensor:
    """Mean over the eight flips and rotations of the image, each turned back (self-ensemble, EDSR 2017)."""
    total: torch.Tensor | None = None
    for mirror, turns in itertools.product((False, True), range(4)):
        turned = torch.rot90(lr.flip(3) if mirror else lr, turns, (2, 3))
        made = torch.rot90(generator(turned).float(), -turns, (2, 3))
        made = made.flip(3) if mirror else made
        total = made if total is None else total + made
    assert total is not None
    return total / 8


@dataclasses.dataclass(frozen=True)
class UpscaledPhoto:
    about: PartPhoto
    pictures: dict[str, np.ndarray]
    """Method to its image, uint8 HWC RGB, all of one size but `lr`."""


@dataclasses.dataclass(frozen=True)
class UpscaledPart:
    name: str
    photos: list[UpscaledPhoto]
    rejected: list[Rejected]
    job: str = ""
    """As in Part."""


class Upscaler:
    """Makes the images of every method for the photographs of a part.

    `methods` maps a name to `bicubic`, `hr`, `given` (a file that comes with the photograph) or the path of a
    generator's weights. `lr` is one more possible name: the input itself, given or made. Photographs that cannot be
    used go to `rejected` with the reason. `known`: part to the methods whose images are not needed.
    """

    def __init__(
        self,
        methods: Mapping[str, str],
        smallest_px: int,
        num_gpus: float,
        known: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        torch.set_num_threads(1)
        self.known = known or {}
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
            known = self.known.get(part.name, ())
            pictures = parts.attempted(part.job, "upscale", each.photo, rejected, self._make, each, known)
            if pictures is not None:
                done.append(UpscaledPhoto(each, pictures))
        return UpscaledPart(part.name, done, rejected, part.job)

    def _make(self, each: PartPhoto, known: Collection[str]) -> dict[str, np.ndarray]:
        hr = images.crop_to_multiple(sources.read_photo(each.photo.path))
        height, width = hr.shape[:2]
        if min(height, width) < self.smallest_px:
            raise parts.TooSmallError(f"{width}x{height} px is smaller than a patch of {self.smallest_px} px")
        pictures: dict[str, np.ndarray] = {}

        @functools.cache
        def lr() -> np.ndarray:
            return _read_given("lr", each.given, hr, SCALE) if "lr" in each.given else images.downscale(hr)

        for name, method in self.methods.items():
            if name in known:
                continue
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
class Upscalers:
    """Number of processes that upscale (None: as many as the present CPUs or GPUs hold), and each one's GPU share."""

    count: int | None
    num_gpus: float

    def of(
        self, methods: Mapping[str, str], smallest_px: int, known: Mapping[str, Collection[str]] | None = None
    ) -> parts.Loaded:
        for path in (kind for kind in methods.values() if kind not in FIXED_KINDS):
            checkpoints.load_generator(path)  # what is wrong with it is said here, before work starts
        return parts.Loaded(
            Upscaler, (dict(methods), smallest_px, self.num_gpus, known), self.count or self.present, self.num_gpus
        )

    @property
    def present(self) -> int:
        """Number of processes that the present CPUs or GPUs hold."""
        present = ray.cluster_resources()
        fitting = present.get("GPU", 0) / self.num_gpus if self.num_gpus else present.get("CPU", 1)
        return max(1, int(fitting))
