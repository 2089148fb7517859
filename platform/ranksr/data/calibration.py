"""Stage `calibration`: fits the metric models for which the config says `fit`, on the photographs themselves."""

from typing import Any

import ray

from ranksr import metrics, storage
from ranksr.config import Scoring
from ranksr.data import sources


def fit_models(folder: str, source: str, scoring: Scoring) -> dict[str, Any]:
    """Write <folder>/niqe.npz as `scoring` asks for it. Unreadable photographs are left out."""
    return ray.get(ray.remote(_fit).remote(folder, source, scoring))


def _fit(folder: str, source: str, scoring: Scoring) -> dict[str, Any]:
    pictures = []
    for photo in sources.list_photos(source):
        try:
            pictures.append(sources.read_photo(photo.path))
        except ValueError:
            continue  # the stage `patches` rejects it by name
    if scoring.niqe_model == "fit":
        model = metrics.fit_niqe_model(metrics.to_gray(picture, scoring.profile) for picture in pictures)
        metrics.save_niqe_model(model, storage.join(folder, "niqe.npz"))
    return {"images": len(pictures)}
