"""Stages `calibration_niqe` and `calibration_ma`: fit a metric's model where the config says `fit`."""

import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import ray

from ranksr import metrics, storage
from ranksr.config import Data
from ranksr.data import attempts, parts, sources
from ranksr.data.sources import Photo
from ranksr.errors import UserError
from ranksr.metrics.ma.fit import fit_ma_model, fit_ma_model_to_opinions

log = logging.getLogger(__name__)

MODEL_FILES = {"niqe": "niqe.npz", "ma": "ma.forest"}
"""File of the stage `calibration_<metric>`, by metric."""


def fit_niqe(folder: str, photos: list[Photo], data: Data, profile: str) -> dict[str, Any]:
    """Write the pristine model of the photographs. Raises UserError for more bad ones than `data` allows."""

    def fit(grays: list[np.ndarray]) -> str:
        model = metrics.fit_niqe_model(grays)
        metrics.save_niqe_model(model, storage.join(folder, MODEL_FILES["niqe"]))
        return model.provenance

    return _fit_to_photographs(fit, photos, data, profile)


def fit_ma(folder: str, photos: list[Photo], data: Data, profile: str, seed: int) -> dict[str, Any]:
    """Write a model fitted to a ladder of degraded photographs. Raises UserError for more bad ones than allowed."""

    def fit(grays: list[np.ndarray]) -> str:
        return _save_ma(folder, fit_ma_model(grays, seed))

    return _fit_to_photographs(fit, photos, data, profile)


def fit_ma_to_opinions(folder: str, opinions: str, profile: str, seed: int) -> dict[str, Any]:
    """Write a model fitted to the images and opinions of a CSV."""

    def fit() -> dict[str, Any]:
        return {"provenance": _save_ma(folder, fit_ma_model_to_opinions(opinions, profile, seed))}

    return ray.get(ray.remote(fit).remote())


def _save_ma(folder: str, model: Any) -> str:
    metrics.save_ma_model(model, storage.join(folder, MODEL_FILES["ma"]))
    return model.provenance


def _fit_to_photographs(
    fit: Callable[[list[np.ndarray]], str], photos: list[Photo], data: Data, profile: str
) -> dict[str, Any]:
    most, job = parts.most_bad(data.on_bad_image, data.max_bad_fraction, len(photos)), uuid.uuid4().hex[:12]

    def work() -> Mapping[str, Any]:
        grays, rejected = list[np.ndarray](), list[parts.Rejected]()
        try:
            for photo in photos:
                gray = parts.attempted(job, "calibrate", photo, rejected, _gray, photo, profile)
                grays += [] if gray is None else [gray]
            too_many = len(rejected) > most
            with attempts.attempt(job, "fit", ""):  # of all photographs: none is to be blamed
                return {"rejected": rejected, "images": len(grays), "provenance": None if too_many else fit(grays)}
        except attempts.DeadlyPhotographError as error:
            raise UserError(
                f"the worker that fits a scoring model to {len(grays)} photographs died {attempts.MOST_DEATHS} times, "
                "probably for lack of memory: give fewer or smaller photographs, or scoring.niqe_model=published"
            ) from error
        finally:
            attempts.forget(job)

    # Ray repeats it when its worker dies; `attempt` counts how often.
    done = ray.get(ray.remote(work).options(max_retries=-1).remote())
    for entry in done["rejected"]:
        log.warning("left out: %s: %s", entry.path, entry.reason)
    if done["provenance"] is None:
        # Here as well as by the jobs: once it is done, a mended photograph would be a change of its photographs.
        raise UserError(parts.too_many(done["rejected"], len(photos), data.on_bad_image, data.max_bad_fraction))
    return {"images": done["images"], "provenance": done["provenance"]}


def _gray(photo: Photo, profile: str) -> np.ndarray:
    return metrics.to_gray(sources.read_photo(photo.path), profile)
