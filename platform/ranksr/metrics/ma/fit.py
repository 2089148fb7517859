"""Fitting Ma's forests and linear stage to photographs degraded on purpose, or to opinion scores.

The published model was trained on human opinions of 1620 super-resolved images, which are not distributed with it.
A model fitted here orders images in the same sense but on another scale, and says so.
"""

import concurrent.futures
import csv
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np

from ranksr.errors import UserError
from ranksr.images import decode_photograph, resize_bicubic
from ranksr.metrics.ma.features import NUM_FEATURES, MaFeatures, ma_features
from ranksr.metrics.ma.forest import from_sklearn
from ranksr.metrics.ma.model import MaModel
from ranksr.metrics.profiles import to_gray
from ranksr.metrics.scores import FITTED

NUM_TREES = 100
SIDES_PX = (288, 288, 192, 192, 128, 128)
"""Square crops taken from each photograph: the singular values grow with the image, so sizes are mixed."""
MAX_PHOTOS = 48
MIN_ROWS = 30
BEST, STEP = 9.0, 2.0
"""Opinion of an untouched photograph, and what each rung of the ladder costs."""


def _resample(gray: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    height, width = gray.shape
    small = resize_bicubic(gray, round(height / factor), round(width / factor))
    return resize_bicubic(small, height, width)


def _blur(gray: np.ndarray, sigma_px: float, rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(gray, (0, 0), sigma_px)


def _add_noise(gray: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.round(gray + rng.normal(0, sigma, gray.shape)), 0, 255).astype(np.uint8)


def _compress(gray: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    _, data = cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    decoded = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    assert decoded is not None
    return decoded


LADDER: tuple[tuple[Callable[[np.ndarray, float, np.random.Generator], np.ndarray], tuple[float, ...]], ...] = (
    (_resample, (1.5, 2, 3, 4)),
    (_blur, (0.7, 1.2, 2, 3.2)),
    (_add_noise, (4, 9, 18, 35)),
    (_compress, (60, 35, 18, 8)),
)
"""Each degradation and its strength on rungs 1 to 4, weakest first."""


def fit_ma_model(images: Iterable[np.ndarray], seed: int) -> MaModel:
    """Fit to a degradation ladder of uint8 HW photographs; the same model for the same images and seed.

    At most 48 photographs are used, evenly spread; those under 128 px are left out. Raises UserError when they are
    too few or too small.
    """
    photos = [photo for photo in images if min(photo.shape) >= min(SIDES_PX)]
    if len(photos) > MAX_PHOTOS:
        photos = [photos[index] for index in np.linspace(0, len(photos) - 1, MAX_PHOTOS).astype(int)]
    rows = [row for index, photo in enumerate(photos) for row in _climb(photo, np.random.default_rng([seed, index]))]
    return _fit(rows, seed, f"{len(photos)} photographs, {len(rows)} degraded crops")


def fit_ma_model_to_opinions(path: str, profile: str, seed: int) -> MaModel:
    """Fit to a CSV with the columns `image` (a path, relative to the CSV) and `opinion` (0 to 10, higher is better)."""
    rows = []
    for image, opinion in read_opinions(path):
        try:
            gray = to_gray(decode_photograph(image.read_bytes()), profile)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: {image} cannot be read ({error}): correct the column image") from error
        rows.append((gray, opinion))
    return _fit(rows, seed, f"{len(rows)} opinions in {pathlib.PurePath(path).name}")


def read_opinions(path: str) -> list[tuple[pathlib.Path, float]]:
    """Images and opinions of a CSV. Raises UserError naming the line that is wrong."""
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            lines = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"opinions {path} cannot be read ({error}): give a CSV with columns image and opinion"
        ) from error
    found = []
    for number, line in enumerate(lines, start=2):
        try:
            opinion = float(line["opinion"])
            image = pathlib.Path(path).parent / line["image"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}, line {number}: needs image and opinion, a number; it holds {line}") from error
        if not 0 <= opinion <= 10:
            raise UserError(f"{path}, line {number}: opinion {opinion} is not between 0 and 10")
        found.append((image, opinion))
    return found


def _climb(photo: np.ndarray, rng: np.random.Generator) -> list[tuple[np.ndarray, float]]:
    """Crops of one photograph on every rung, with the opinion that the rung stands for."""
    rows = []
    for side in SIDES_PX:
        height, width = (min(side, length) for length in photo.shape)
        top, left = rng.integers(photo.shape[0] - height + 1), rng.integers(photo.shape[1] - width + 1)
        crop = np.ascontiguousarray(photo[top : top + height, left : left + width])
        rows.append((crop, BEST))
        for degrade, strengths in LADDER:
            rows += [(degrade(crop, value, rng), BEST - STEP * rung) for rung, value in enumerate(strengths, start=1)]
    return rows


def _fit(rows: Sequence[tuple[np.ndarray, float]], seed: int, source: str) -> MaModel:
    """Three forests, and a robust linear stage on what their trees say of rows that they were not grown on."""
    # Here, because importing scikit-learn takes a second and no scoring process needs it.
    import sklearn.ensemble
    import sklearn.linear_model

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # its kernels run without Python's lock
        found = pool.map(ma_features, [gray for gray, _ in rows])
    scored = [(each, opinion) for each, (_, opinion) in zip(found, rows, strict=True) if isinstance(each, MaFeatures)]
    if len(scored) < MIN_ROWS:
        raise UserError(f"{len(scored)} usable images ({source}) are too few to fit Ma, at least {MIN_ROWS}: give more")
    opinions = np.array([opinion for _, opinion in scored])
    forests, unseen = [], []
    for kind in range(len(NUM_FEATURES)):
        columns = np.stack([features[kind] for features, _ in scored])
        # Trees as in the published training: random thirds of the features, leaves of five.
        grown = sklearn.ensemble.RandomForestRegressor(
            NUM_TREES, max_features=1 / 3, min_samples_leaf=5, oob_score=True, random_state=seed, n_jobs=1
        ).fit(columns, opinions)
        forests.append(from_sklearn(grown.estimators_))
        unseen.append(grown.oob_prediction_)
    stage = sklearn.linear_model.HuberRegressor(alpha=0, max_iter=1000).fit(np.stack(unseen, axis=1), opinions)
    linear = np.array([stage.intercept_, *stage.coef_])
    return MaModel(tuple(forests), linear, f"{FITTED} ({source})")
