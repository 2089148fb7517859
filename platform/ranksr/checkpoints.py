"""Training states and generator weights as files: save, load, last, best.

`<stage>/checkpoints/step_00001000.pt` is everything a worker needs to go on; `<stage>/weights.pt` is what the
next stages take: the network's config beside its weights, so that one file can be loaded alone. Both hold tensors
and plain values only and are read with `weights_only=True`.
"""

import dataclasses
import io
import re
from typing import Any

import pydantic
import torch
from torch import nn

from ranksr import storage, weights
from ranksr.config import Generator, RankerConfig
from ranksr.errors import UserError
from ranksr.models import build_generator, build_ranker

STEP_FILE = re.compile(r"step_(\d{8})\.pt")
BEST_FILE = re.compile(r"best_(\d{8})\.pt")


def write(path: str, content: dict[str, Any]) -> None:
    """torch.save, whole or not at all, local or s3."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    storage.write_bytes(path, buffer.getbuffer())


def read(path: str) -> dict[str, Any]:
    """torch.load to the CPU; never runs code from the file."""
    return torch.load(io.BytesIO(storage.read_bytes(path)), map_location="cpu", weights_only=True)


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The training states of one stage, newest last; all but the newest `keep` are deleted."""

    folder: str
    keep: int

    def steps(self) -> list[int]:
        return self._numbers(STEP_FILE)

    def _numbers(self, name: re.Pattern[str]) -> list[int]:
        return sorted(int(found[1]) for file, _ in storage.list_files(self.folder) if (found := name.fullmatch(file)))

    def best_path(self, step: int) -> str:
        """File of the weights that were the best when they were validated at `step`."""
        return storage.join(self.folder, f"best_{step:08d}.pt")

    def forget_best(self, step: int | None) -> None:
        """Delete best weights but those of `step`, which the newest state names."""
        for other in self._numbers(BEST_FILE):
            if other != step:
                storage.delete(self.best_path(other))

    def save(self, step: int, state: dict[str, Any]) -> None:
        write(self._path(step), state)
        for old in self.steps()[: -self.keep]:
            storage.delete(self._path(old))

    def load_last(self) -> dict[str, Any] | None:
        """The newest state, or None before the first."""
        steps = self.steps()
        return read(self._path(steps[-1])) if steps else None

    def load(self, step: int) -> dict[str, Any] | None:
        """The state of this step, or None where it is not kept."""
        return read(self._path(step)) if step in self.steps() else None

    def _path(self, step: int) -> str:
        return storage.join(self.folder, f"step_{step:08d}.pt")


def save_generator(path: str, config: Generator, tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Write a generator's architecture and weights. `about`: step, metrics - for people."""
    write(path, {"generator": config.model_dump(mode="json"), "state_dict": tensors, "about": about})


def save_blend(path: str, first: str, second: str, weight: float) -> None:
    """Write a generator whose weights are `weight` on the way from those of one file of ours to those of another."""
    one, other = (read(each) for each in (first, second))
    tensors = {key: torch.lerp(value, other["state_dict"][key], weight) for key, value in one["state_dict"].items()}
    config: Generator = pydantic.TypeAdapter(Generator).validate_python(one["generator"])
    save_generator(path, config, tensors, {"blend": weight})


def load_generator(path: str) -> nn.Module:
    """A generator from `save_generator` or a published file in any known layout, frozen, in eval mode, on the CPU.

    What others made is tried once. Raises UserError when the file holds none, or one that is not sound.
    """
    tensors, own = weights.read_state_dict(path), _own(path)
    network = build_generator(own or weights.generator_config(tensors, path))
    weights.import_published(network, tensors, path)
    if own is None:
        weights.require_sound(network, path)
    return network.requires_grad_(False).eval()


def _own(path: str) -> Generator | None:
    """The architecture named in a file that ranksr wrote; None for a file made by others."""
    if path.endswith(".safetensors"):
        return None
    content = read(path)
    return pydantic.TypeAdapter(Generator).validate_python(content["generator"]) if "about" in content else None


def save_ranker(path: str, config: RankerConfig, tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Write a Ranker's config and weights."""
    write(path, {"ranker": config.model_dump(mode="json"), "state_dict": tensors, "about": about})


def load_ranker(path: str) -> nn.Module:
    """A Ranker from `save_ranker`, frozen, in eval mode, on the CPU."""
    content = read(path)
    return _frozen(build_ranker(RankerConfig.model_validate(content["ranker"])), content["state_dict"])


def start_weights(path: str, config: Generator) -> dict[str, torch.Tensor]:
    """Generator weights to start a training from: a file that ranksr wrote, or a published one in any known layout.

    Raises UserError when the file is of another architecture.
    """
    tensors, found = weights.read_state_dict(path), _own(path)
    if found is None:
        weights.generator_config(tensors, path)  # names what it is of, where it is no x4 network
        network = build_generator(config)
        weights.import_published(network, tensors, path)
        weights.require_sound(network, path)
        return network.state_dict()
    if found != config:
        raise UserError(
            f"{path} holds a generator {found}, not {config}; set the method's generator to match its start"
        )
    return tensors


def _frozen(network: nn.Module, tensors: dict[str, torch.Tensor]) -> nn.Module:
    network.load_state_dict(tensors)
    return network.requires_grad_(False).eval()
