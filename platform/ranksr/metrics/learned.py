"""A run's Ranker as a metric: `ranker:RUN`, its ranking score of a whole image; lower is better."""

import functools
from typing import TYPE_CHECKING

import numpy as np

from ranksr import images, storage
from ranksr.errors import UserError
from ranksr.metrics.scores import Score, unscorable
from ranksr.runs import RUN_FILE, WEIGHTS, Run

if TYPE_CHECKING:
    import torch

RANKER = "ranker:"
"""Prefix of the metric's name; behind it a run, or a Ranker's weights file."""
LEAST_PX = 32


def ranking_score(source: str, image: np.ndarray) -> Score:
    """Score of uint8 HWC RGB or HW by the Ranker of `source`."""
    import torch

    if min(image.shape[:2]) < LEAST_PX:
        return unscorable(f"{image.shape[1]}x{image.shape[0]} px, under {LEAST_PX} px on a side")
    colour = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
    with torch.inference_mode():
        return Score(float(load(source)(images.to_tensor(colour)[None])[0]))


@functools.lru_cache(maxsize=4)
def load(source: str) -> "torch.nn.Module":
    """The Ranker of a run folder or of a weights file, local or s3://. Raises UserError."""
    from ranksr import checkpoints

    path = storage.absolute(source)
    if not path.endswith(".pt"):
        path = _of_run(source, path)
    try:
        return checkpoints.load_ranker(path)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"{RANKER}{source}: {path} is no Ranker's weights file ({error}); give RUN") from error


def _of_run(source: str, path: str) -> str:
    """Weights file of the Ranker of `RUN`, or `RUN:NAME`. Raises UserError where it is not finished."""
    run, name = Run(path), ""
    if not storage.exists(run.path(RUN_FILE)) and ":" in path.rpartition("/")[2]:
        root, _, name = path.rpartition(":")
        run = Run(root)
    known = list(run.config().rankers) if storage.exists(run.path(RUN_FILE)) else []
    name = name or (known[0] if len(known) == 1 else "")
    stage = run.recorded(name) if name in known else None
    if stage is None or not stage.done:
        choices = f" of {', '.join(f'{RANKER}{run.root}:{each}' for each in known)}" if len(known) > 1 else ""
        raise UserError(f"{RANKER}{source}: {path} holds no finished Ranker; give a run whose Ranker is done{choices}")
    return stage.path(WEIGHTS)
