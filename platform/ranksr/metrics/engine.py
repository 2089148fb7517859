"""The scoring engine: loads models once per process, then scores images, never failing on one."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ranksr.downloads import locked
from ranksr.errors import UserError
from ranksr.metrics.external import external_score
from ranksr.metrics.fidelity import psnr, ssim
from ranksr.metrics.learned import RANKER, ranking_score
from ranksr.metrics.learned import load as load_ranker
from ranksr.metrics.ma.model import MaModel, load_ma_model, ma_scores
from ranksr.metrics.niqe import NiqeModel, load_niqe_model, niqe_score
from ranksr.metrics.profiles import to_gray
from ranksr.metrics.scores import Score, unscorable, why_unscorable
from ranksr.metrics.table import PYIQA, made_of, metric_info


class Models(NamedTuple):
    """The models of NIQE and Ma, on which PI depends as well."""

    niqe: NiqeModel | None
    ma: MaModel | None


@functools.lru_cache(maxsize=8)
def load_models(niqe_model: str | None, ma_model: str | None = None) -> Models:
    """Load the models (see `load_niqe_model`, `load_ma_model`; None leaves one out) and compile what they need.

    Cached per process. The first process of a node compiles and converts, the others wait for its result.
    """
    for name, source in (("niqe", niqe_model), ("ma", ma_model)):
        if source == "fit":
            raise UserError(f"{name}_model=fit names no file yet: fit it first, then give the file it was saved to")
    models = Models(load_niqe_model(niqe_model) if niqe_model else None, load_ma_model(ma_model) if ma_model else None)
    try:
        with locked("compile"):
            _compile(models)
    except UserError:  # no folder for the lock: every process compiles for itself
        _compile(models)
    return models


def _compile(models: Models) -> None:
    texture = np.random.default_rng(0).integers(0, 256, (96, 192), np.uint8)
    if models.niqe:
        niqe_score(texture, models.niqe)
    if models.ma:
        ma_scores([texture], models.ma)


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
    references: Sequence[np.ndarray | None] | None = None,
) -> list[dict[str, Score]]:
    """Scores of each image by metric name. An image that cannot be scored gets NaN and a reason, never an exception.

    Raises UserError before the first image for an unknown metric or profile, or a missing model or reference.
    Ma is faster with 32 and more images at once; no score depends on its neighbours in the batch.
    """
    _check(metrics, models, profile, references)
    reasons = [why_unscorable(image) for image in images]
    whole = [index for index, reason in enumerate(reasons) if reason is None]
    blind = _blind_scores([images[index] for index in whole], metrics, models, profile)
    found: list[dict[str, Score]] = [{name: unscorable(reason or "") for name in metrics} for reason in reasons]
    for place, index in enumerate(whole):
        reference = references[index] if references is not None else None
        for name in metrics:
            column = blind.get(name)
            found[index][name] = column[place] if column else _other_score(name, images[index], reference)
    return found


def _check(
    metrics: Sequence[str], models: Models, profile: str, references: Sequence[np.ndarray | None] | None
) -> None:
    to_gray(np.zeros((9, 9), np.uint8), profile)
    for name in metrics:
        if metric_info(name).needs_reference and references is None:
            raise UserError(f"metric {name!r} compares with a reference image, and none is given")
        if name.startswith(RANKER):
            load_ranker(name.removeprefix(RANKER))
        if "niqe" in made_of(name) and models.niqe is None:
            raise UserError(f"metric {name!r} needs a NIQE model: give niqe_model")
        if "ma" in made_of(name) and models.ma is None:
            raise UserError(f"metric {name!r} needs a Ma model: give ma_model")


def _blind_scores(
    images: Sequence[np.ndarray], metrics: Sequence[str], models: Models, profile: str
) -> dict[str, list[Score]]:
    """Columns of NIQE, Ma and PI, as far as `metrics` asks for them."""
    needed = {raw for name in metrics for raw in made_of(name)} & {"niqe", "ma"}
    if not needed:
        return {}
    grays = [to_gray(image, profile) for image in images]
    columns: dict[str, list[Score]] = {}
    if "niqe" in needed:
        assert models.niqe is not None
        columns["niqe"] = [niqe_score(gray, models.niqe) for gray in grays]
    if "ma" in needed:
        assert models.ma is not None
        columns["ma"] = ma_scores(grays, models.ma)
    if "pi" in metrics:
        columns["pi"] = [_perceptual_index(*pair) for pair in zip(columns["niqe"], columns["ma"], strict=True)]
    return columns


def _perceptual_index(niqe_value: Score, ma_value: Score) -> Score:
    """PI of the PIRM 2018 challenge: the mean of NIQE and 10 - Ma."""
    reason = niqe_value.reason or ma_value.reason
    return unscorable(reason) if reason else Score((niqe_value.value + 10 - ma_value.value) / 2)


def _other_score(name: str, image: np.ndarray, reference: np.ndarray | None) -> Score:
    if metric_info(name).needs_reference:
        if reference is None:
            return unscorable("no reference image")
        if reason := why_unscorable(reference):
            return unscorable(f"reference: {reason}")
    if name.startswith(RANKER):
        return ranking_score(name.removeprefix(RANKER), image)
    if name.startswith(PYIQA):
        return external_score(name.removeprefix(PYIQA), image, reference)
    assert reference is not None
    try:
        return Score({"psnr": psnr, "ssim": ssim}[name](image, reference))
    except UserError as error:
        return unscorable(str(error))


@dataclasses.dataclass(frozen=True)
class Judge:
    """Profile and model files of a run, `published` and `fit` resolved; travels to every worker."""

    profile: str
    niqe_model: str
    ma_model: str | None

    def score(
        self, pictures: Sequence[np.ndarray], metrics: Sequence[str], references: Sequence[np.ndarray] | None = None
    ) -> list[dict[str, Score]]:
        """Scores of uint8 HWC RGB images by metric name, many at once; a bad image has NaN and a reason."""
        return score_batch(pictures, metrics, self.load(), self.profile, references)

    def load(self) -> Models:
        """The models, loaded once per process. Raises UserError for a file that is no model."""
        return load_models(self.niqe_model, self.ma_model)


def score_niqe(
    image: np.ndarray | Sequence[np.ndarray], model: str = "published", profile: str = "pirm"
) -> float | np.ndarray:
    """NIQE of one uint8 HWC RGB or HW image, or of each in a list or NHWC array: (N,). Lower is better; NaN: none.

    `model`: `published` (comes with ranksr), or the path of a .mat or fitted file. `score` also gives the reasons.
    """
    return _values("niqe", image, load_models(model), profile)


def score_ma(
    image: np.ndarray | Sequence[np.ndarray], model: str = "published", profile: str = "pirm"
) -> float | np.ndarray:
    """Ma (NRQM), 0 to 10, higher is better; arguments as those of `score_niqe`."""
    return _values("ma", image, load_models(None, model), profile)


def score_pi(
    image: np.ndarray | Sequence[np.ndarray],
    niqe_model: str = "published",
    ma_model: str = "published",
    profile: str = "pirm",
) -> float | np.ndarray:
    """Perceptual index, (NIQE + 10 - Ma) / 2, lower is better; arguments as those of `score_niqe`."""
    return _values("pi", image, load_models(niqe_model, ma_model), profile)


def _values(metric: str, image: np.ndarray | Sequence[np.ndarray], models: Models, profile: str) -> float | np.ndarray:
    if isinstance(image, np.ndarray) and image.ndim < 4:
        return score(image, [metric], models, profile)[metric].value
    return np.array([found[metric].value for found in score_batch(list(image), [metric], models, profile)])
