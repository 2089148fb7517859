"""Metrics of the pyiqa package under the name `pyiqa:NAME`; the one place that imports it, and only when asked."""

import functools
import types
from typing import Any

import numpy as np

from ranksr.errors import UserError
from ranksr.metrics.scores import Score, unscorable

OF_IMAGE_SETS = ("fid", "inception_score")
"""pyiqa's metrics that judge a folder, not an image (names that contain one of these)."""


def describe(name: str) -> tuple[bool, bool]:
    """Whether lower is better and whether a reference is needed, as pyiqa says. No weights are loaded."""
    entry = _entry(name)
    return bool(entry.get("lower_better", False)), entry.get("metric_mode") == "FR"


def external_score(name: str, image: np.ndarray, reference: np.ndarray | None = None) -> Score:
    """Score uint8 HWC RGB (or HW) with pyiqa's metric `name`; NaN and a reason when it fails on this image.

    Raises UserError when pyiqa does not know the metric or cannot make it (its weights may need a download).
    """
    import torch  # here: processes that score NIQE, Ma and PI only do without it

    metric = _metric(name)
    try:
        batches = [_batch(picture) for picture in (image, reference) if picture is not None]
        with torch.inference_mode():
            value = float(metric(*batches))
    except Exception as error:  # foreign code: one odd image must not end a batch
        return unscorable(f"pyiqa:{name}: {type(error).__name__}: {' '.join(str(error).split())[:160]}")
    return Score(value) if np.isfinite(value) else unscorable(f"pyiqa:{name} gives {value}")


def _batch(image: np.ndarray) -> Any:
    from ranksr.images import to_tensor

    rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    return to_tensor(rgb)[None]


def _entry(name: str) -> dict[str, Any]:
    pyiqa = import_pyiqa()
    known = pyiqa.default_model_configs.DEFAULT_CONFIGS
    if name not in known:
        raise UserError(f"pyiqa {pyiqa.__version__} has no metric {name!r}; it has {', '.join(pyiqa.list_models())}")
    if any(word in name for word in OF_IMAGE_SETS):
        raise UserError(f"pyiqa:{name} judges a set of images, not one: choose another metric")
    return known[name]


@functools.cache
def _metric(name: str) -> Any:
    _entry(name)
    try:
        return import_pyiqa().create_metric(name)
    except Exception as error:  # a download, a missing extra package, a broken weight file ...
        raise UserError(
            f"pyiqa cannot make metric {name!r} ({type(error).__name__}: {error}); "
            "if its weights need a download, run it once on a machine with a network and copy the torch hub cache"
        ) from error


@functools.cache
def import_pyiqa() -> types.ModuleType:
    """The pyiqa package. Raises UserError with the remedy when it is absent or cannot be imported."""
    try:
        _import_torchvision()
        import pyiqa
        import pyiqa.default_model_configs
    except ModuleNotFoundError as error:
        raise UserError(f"metrics named pyiqa:NAME need {error.name}: pip install ranksr[pyiqa]") from error
    except (ImportError, RuntimeError) as error:
        raise UserError(f"pyiqa cannot be imported ({error}): install the torchvision made for your torch") from error
    return pyiqa


def _import_torchvision() -> None:
    """Import torchvision even when its compiled operators do not fit torch (a CUDA wheel beside a CPU torch).

    It then fails on declaring the shape of two operators that were never registered. pyiqa uses neither, so a bare
    declaration is enough; calling one still fails. Nothing is declared where the real operators load.
    """
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, operator):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)  # torch forgets the declarations with the object
        import torchvision  # noqa: F401


_KEPT: list[Any] = []
