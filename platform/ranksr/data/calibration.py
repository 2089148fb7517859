"""Stage `calibration`: fits the metric models for which the config says `fit`, on the photographs themselves."""

from typing import Any

import ray

from ranksr import metrics, storage
from ranksr.config import Scoring
from ranksr.data import sources
from ranksr.metrics.ma_fit import fit_ma_model, fit_ma_model_to_opinions


def fit_models(folder: str, source: str, scoring: Scoring, seed: int) -> dict[str, Any]:
    """Write <folder>/niqe.npz and <folder>/ma.forest, as far as `scoring` asks for them.

    Photographs that cannot be read are left out here; the stage `patches` rejects them by name.
    """
    return ray.get(ray.remote(_fit).remote(folder, source, scoring, seed))


def _fit(folder: str, source: str, scoring: Scoring, seed: int) -> dict[str, Any]:
    grays = []
    for photo in sources.list_photos(source):
        try:
            grays.append(metrics.to_gray(sources.read_photo(photo.path), scoring.profile))
        except ValueError:
            continue
    results: dict[str, Any] = {"images": len(grays)}
    if scoring.niqe_model == "fit":
        niqe = metrics.fit_niqe_model(grays)
        metrics.save_niqe_model(niqe, storage.join(folder, "niqe.npz"))
        results["niqe"] = niqe.provenance
    if scoring.ma_model == "fit":
        if scoring.ma_opinions is None:
            ma = fit_ma_model(grays, seed)
        else:
            ma = fit_ma_model_to_opinions(scoring.ma_opinions, scoring.profile, seed)
        metrics.save_ma_model(ma, storage.join(folder, "ma.forest"))
        results["ma"] = ma.provenance
    return results
