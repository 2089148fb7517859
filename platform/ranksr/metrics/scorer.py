"""From an image to its scores: loads the models once per process, then scores without ever failing on an image."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ranksr.config import UserError
from ranksr.metrics.external import external_score
from ranksr.metrics.niqe import NiqeModel, load_niqe_model, niqe_score
from ranksr.metrics.profiles import to_gray
from ranksr.metrics.psnr import psnr, ssim
from ranksr.metrics.scores import Score, unscorable, why_unscorable
from ranksr.metrics.table import METRICS, PYIQA, metric_info


class Models(NamedTuple):
    """What the scores of NIQE, Ma and PI depend on besides the image."""

    niqe: NiqeModel | None
    ma: None


@functools.lru_cache(maxsize=8)
def load_models(niqe_model: str | None, ma_model: str | None = None) -> Models:
    """Load each model named by a path; None leaves it out. Cached per process."""
    return Models(load_niqe_model(niqe_model) if niqe_model else None, None)


def score(
    image: np.ndarray,
    metrics: Sequence[str],
    models: Models,
    profile: str = "pirm",
    reference: np.ndarray | None = None,
) -> dict[str, Score]:
    """Scores of one uint8 HWC RGB (or grey HW) image by metric name; see `score_batch`."""
    return score_batch([image], metrics, models, profile, None if reference is None else [reference])[0]


def score_batch(
    images: Sequence[np.ndarray],
    metrics: Sequence[str],
    models: Models,
    profile: str = "pirm",
    references: Sequence[np.ndarray] | None = None,
) -> list[dict[str, Score]]:
    """Scores of each image by metric name. An image that cannot be scored gets NaN and a reason, never an exception.

    Raises UserError before the first image for an unknown metric or profile, or a missing model or reference.
    """
    _check(metrics, models, profile, references)
    pairs = zip(images, references if references is not None else [None] * len(images), strict=True)
    return [_score_one(image, reference, metrics, models, profile) for image, reference in pairs]


def _check(metrics: Sequence[str], models: Models, profile: str, references: Sequence[np.ndarray] | None) -> None:
    to_gray(np.zeros((9, 9), np.uint8), profile)
    for name in metrics:
        if metric_info(name).needs_reference and references is None:
            raise UserError(f"metric {name!r} compares with a reference image, and none is given")
        if name in ("niqe", "pi") and models.niqe is None:
            raise UserError(f"metric {name!r} needs a NIQE model: give niqe_model")
        if name in ("ma", "pi") and models.ma is None:
            raise UserError(f"metric {name!r} needs a Ma model: give ma_model")


def _score_one(
    image: np.ndarray, reference: np.ndarray | None, metrics: Sequence[str], models: Models, profile: str
) -> dict[str, Score]:
    if reason := why_unscorable(image):
        return {name: unscorable(reason) for name in metrics}
    gray = to_gray(image, profile) if set(metrics) & {"niqe", "ma", "pi"} else None
    scores: dict[str, Score] = {}
    for name in metrics:
        if name.startswith(PYIQA):
            scores[name] = external_score(name.removeprefix(PYIQA), image, reference)
        elif METRICS[name].needs_reference:
            scores[name] = _compare(name, image, reference)
        elif name == "niqe":
            scores[name] = niqe_score(gray, models.niqe)
    return scores


def _compare(name: str, image: np.ndarray, reference: np.ndarray | None) -> Score:
    if reference is None:
        return unscorable("no reference image")
    try:
        return Score({"psnr": psnr, "ssim": ssim}[name](image, reference))
    except ValueError as error:
        return unscorable(str(error))
