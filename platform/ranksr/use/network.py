"""A trained network by the name that a user gives it: a run, one of its methods, a trial, or a weights file."""

import dataclasses
import re
from typing import Any

import numpy as np
import psutil
import torch

from ranksr import checkpoints, images, storage
from ranksr.config import Config
from ranksr.data.upscale import OVERLAP_PX, upscale
from ranksr.decoding import Picture
from ranksr.errors import UserError
from ranksr.inspect.compare import INSIDE
from ranksr.report import read_ablation
from ranksr.runs import RESULTS, RUN_FILE, WEIGHTS, Run, Stage

WEIGHT_SUFFIXES = (".pt", ".pth", ".safetensors")
DEFAULT_METHOD = "ranksrgan"
"""The network of a run where no method is named."""
NAMED = re.compile(r"(?P<place>.+):(?P<method>[a-z0-9_]+(@[0-9]+)?)")
BYTES_PER_FEATURE = 256
"""Peak memory of a generator for each LR pixel and feature, in float32: measured on SRResNet and RRDBNet."""
MOST_TILE_BYTES = 2**29
"""Memory of one tile, at most: larger ones are no faster."""
LEAST_TILE_PX, MOST_TILE_PX = 64, 512


@dataclasses.dataclass(frozen=True)
class Origin:
    """The place of a network's weights, and its making as far as that is known."""

    weights: str
    """Absolute path or URI of the weights file."""
    method: str | None = None
    """Name of the method, METHOD@STEP, blend or Ranker in its run; None for a weights file."""
    run: Run | None = None
    stage: Stage | None = None
    config: Config | None = None
    """Config of the run or trial."""

    @property
    def is_ranker(self) -> bool:
        return self.config is not None and self.method in self.config.rankers

    @property
    def name(self) -> str:
        """A short name for logs and files."""
        return self.method or self.weights.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def find(model: str) -> Origin:
    """The network that `model` names, local or s3://bucket/prefix.

    `RUN` is the run's `ranksrgan`, `RUN:METHOD` another of its methods (a blend and METHOD@STEP too) or a Ranker,
    `RUN/ablation/NAME/TRIAL` the method that an ablation compares, and a path that ends in .pt, .pth or .safetensors a
    weights file.

    Raises UserError for anything else, and for a network whose training has not finished.
    """
    place = storage.absolute(model)
    if place.endswith(WEIGHT_SUFFIXES):
        return Origin(place)
    method = None
    if not storage.exists(place) and (named := NAMED.fullmatch(place)):
        place, method = named["place"], named["method"]
    if storage.exists(storage.join(place, RUN_FILE)):
        return _of_run(place, method)
    inside = INSIDE.fullmatch(place)
    if inside and inside["trial"] and storage.exists(storage.join(inside["run"], "ablation", inside["name"], RESULTS)):
        return _of_trial(inside["run"], inside["name"], inside["trial"], method)
    raise UserError(
        f"{model} is no run, trial or weights file: give a folder with run.json (RUN or RUN:METHOD), "
        f"RUN/ablation/NAME/TRIAL, or a file that ends in {', '.join(WEIGHT_SUFFIXES)}"
    )


def _of_run(root: str, method: str | None) -> Origin:
    run = Run(root)
    config = run.config()
    known = [*config.methods, *config.blends, *config.rankers]
    method = method or DEFAULT_METHOD
    if method not in known and config.method_of(method) is None:
        raise UserError(f"{root} trains no {method}: give {' or '.join(f'{root}:{name}' for name in known)}")
    return _finished(Origin("", method, run, run.recorded(method), config), root)


def _of_trial(root: str, name: str, trial: str, method: str | None) -> Origin:
    run, ablation = Run(root), read_ablation(root, name)
    found = ablation.trial(trial)
    if found is None:
        raise UserError(f"ablation {name} of {root} has no trial {trial}: {', '.join(t.name for t in ablation.trials)}")
    record = min(found.seeds, key=lambda each: (each.state != "done", each.seed))
    method = method or ablation.method
    if method not in record.stages:
        raise UserError(f"trial {trial} trains no {method}: choose one of {', '.join(record.stages)}")
    origin = Origin("", method, run, run.recorded(record.stages[method]), found.config(run.config()))
    return _finished(origin, f"{root}/ablation/{name}/{trial}")


def _finished(origin: Origin, label: str) -> Origin:
    stage = origin.stage
    if stage is None or not stage.done:
        state = "has begun and is not finished" if stage else "has not begun"
        raise UserError(f"the training of {origin.method} in {label} {state}: give the command of the run again")
    return dataclasses.replace(origin, weights=stage.path(WEIGHTS))


class Model:
    """A x4 generator that takes and returns images as arrays."""

    def __init__(self, generator: torch.nn.Module, origin: Origin, device: str = "cpu", bf16: bool = False) -> None:
        # Faster on CPUs and GPUs; torch's stubs lack the overload.
        self.generator = generator.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.origin, self.device, self.bf16 = origin, device, bf16

    def __call__(self, image: np.ndarray, tile_px: int | None = None, ensemble: bool = False) -> np.ndarray:
        """The image, 4 times as high and wide: HWC RGB or HW grey, uint8 or uint16, the same in and out.

        `tile_px`: side of the LR tiles in which large images are worked on; None: as memory allows. `ensemble`: mean
        over the eight flips and rotations, at eight times the cost. Raises ValueError for another array, UserError
        where the network gives no finite number.
        """
        grey = image.ndim == 2
        if image.dtype not in (np.uint8, np.uint16) or not (grey or (image.ndim == 3 and image.shape[2] == 3)):
            raise ValueError(f"an image is uint8 or uint16, HWC RGB or HW, not {image.dtype} of shape {image.shape}")
        lr = np.repeat(image[:, :, None], 3, axis=2) if grey else image
        try:
            sr = upscale(self.generator, lr, self.device, tile_px or self.tile_px(), self.bf16, ensemble)
        except FloatingPointError as error:
            raise UserError(
                f"{self.origin.weights} gives {error}: its weights are no use for this image; give other weights"
            ) from None
        return _mean_of_channels(sr) if grey else sr

    def enlarge(self, picture: Picture, tile_px: int | None = None, ensemble: bool = False) -> Picture:
        """The picture, 4 times as high and wide, in its own depth; alpha by bicubic interpolation."""
        pixels = self(picture.pixels, tile_px, ensemble)
        alpha = None if picture.alpha is None else images.upscale_bicubic(picture.alpha)
        return Picture(pixels, alpha, picture.icc)

    def tile_px(self, workers: int = 1) -> int:
        """Side of an LR tile whose feature maps fit into the memory that is free now, shared by `workers`."""
        first = next(each for each in self.generator.modules() if isinstance(each, torch.nn.Conv2d))
        per_pixel = BYTES_PER_FEATURE * first.out_channels / (2 if self.bf16 else 1)
        around = int((min(MOST_TILE_BYTES, self._share_of_memory() / workers) / per_pixel) ** 0.5)
        return max(LEAST_TILE_PX, min(MOST_TILE_PX, around - 2 * OVERLAP_PX))

    def _share_of_memory(self) -> float:
        """Bytes for tiles: the GPU's free memory, or a quarter of the machine's, which the images need too."""
        if self.device.startswith("cuda"):
            return torch.cuda.mem_get_info(self.device)[0]
        return psutil.virtual_memory().available / 4


def _mean_of_channels(image: np.ndarray) -> np.ndarray:
    total = image.sum(axis=2, dtype=np.uint32)
    return ((total + 1) // 3).astype(image.dtype)


def load_model(model: str, device: str | None = None, bf16: bool = False) -> Model:
    """The x4 generator that `model` names (see `find`), ready to use: `load_model("runs/mine")(image)`.

    `device`: a torch device; None: the GPU where there is one. `bf16`: bfloat16 inside the network. Raises UserError.
    """
    origin = find(model)
    if origin.is_ranker:
        raise UserError(f"{model} is a Ranker, which scores images: `ranksr score --metrics ranker:RUN`")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Model(checkpoints.load_generator(origin.weights), origin, device, bf16)


def about(origin: Origin) -> dict[str, Any]:
    """Step and validation that a weights file of ours names; empty for one made by others."""
    return {} if origin.method is None else checkpoints.read(origin.weights).get("about", {})
