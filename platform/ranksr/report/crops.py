"""The report's pictures: one region of a photograph by every method, and its place in the photograph."""

import base64
import dataclasses
import math

import cv2
import numpy as np

from ranksr import SCALE, images, storage
from ranksr.report.story import Story
from ranksr.report.tables import METRIC_LABELS, METRIC_UNITS, number, per_image

CROP_PX = 80
"""HR side of a crop. The page shows it twice as large, so that seven stand side by side."""
IMAGES_PER_TEST_SET = 5
OVERVIEW_PX = 160
BOX_COLOUR = (255, 40, 0)

Scores = dict[tuple[str, str, str, str], float]


@dataclasses.dataclass(frozen=True)
class Crop:
    method: str
    uri: str | None
    """PNG as a data URI; None when there is no such image."""
    caption: list[str]
    """The scores of the whole image, e.g. `NIQE 3.28`."""


@dataclasses.dataclass(frozen=True)
class Strip:
    """One photograph: its overview with the region framed, then the region by every method."""

    test_set: str
    image: str
    overview: str
    """The HR photograph with the region framed, as a data URI."""
    region: str
    """Its size and its upper left corner (x, y) in the HR image."""
    crops: list[Crop]


def strips(story: Story, per_test_set: int = IMAGES_PER_TEST_SET) -> dict[str, list[Strip]]:
    """Test set to up to `per_test_set` photographs, spread over those that have an HR image."""
    scores = per_image(story)
    found = {}
    for test_set in story.config.test_sets:
        files = [name for name, _ in storage.list_files(storage.join(story.images, test_set.name, "hr"))]
        names = [name.removesuffix(".png") for name in files if name.endswith(".png")]
        spread = np.linspace(0, len(names) - 1, min(per_test_set, len(names))).round().astype(int)
        found[test_set.name] = [_strip(story, scores, test_set.name, names[i]) for i in spread]
    return {test_set: rows for test_set, rows in found.items() if rows}


def region_of_detail(hr: np.ndarray, size_px: int = CROP_PX) -> tuple[int, int, int, int]:
    """(y, x, height, width) of the square with most detail: the largest sum of root gradients, the first of equals.

    uint8 HWC RGB. The corner is on the LR grid. An image smaller than the square is taken whole.
    """
    height, width = (min(size_px, side) // SCALE * SCALE for side in hr.shape[:2])
    luma = cv2.GaussianBlur(images.luma(hr).astype(np.float64), (0, 0), 1.0)  # noise is no detail
    detail = np.hypot(cv2.Sobel(luma, cv2.CV_64F, 1, 0), cv2.Sobel(luma, cv2.CV_64F, 0, 1))
    sums = cv2.integral(np.sqrt(detail))  # texture has many weak edges: a single hard one must not outweigh it
    total = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    on_grid = total[::SCALE, ::SCALE]
    row, column = np.unravel_index(int(on_grid.argmax()), on_grid.shape)
    return int(row) * SCALE, int(column) * SCALE, height, width


def _strip(story: Story, scores: Scores, test_set: str, image: str) -> Strip:
    hr = _read(story, test_set, "hr", image)
    assert hr is not None  # it was listed
    hr = images.crop_to_multiple(hr)
    y, x, height, width = region_of_detail(hr)
    crops = []
    for method in dict.fromkeys(["lr", *(name for name in story.config.evaluation.methods if name != "hr"), "hr"]):
        pixels = _read(story, test_set, method, image)
        if pixels is not None and method == "lr":
            pixels = pixels.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
        uri = None if pixels is None else data_uri(np.ascontiguousarray(pixels[y : y + height, x : x + width]))
        crops.append(Crop(method, uri, _caption(story, scores, method, test_set, image)))
    region = f"{width}×{height} px at ({x}, {y})"
    return Strip(test_set, image, data_uri(_overview(hr, y, x, height, width)), region, crops)


def _caption(story: Story, scores: Scores, method: str, test_set: str, image: str) -> list[str]:
    lines = []
    for metric in story.config.scoring.metrics:
        value = scores.get((method, test_set, image, metric))
        if value is not None and math.isfinite(value):
            unit = f" {METRIC_UNITS[metric]}" if metric in METRIC_UNITS else ""
            lines.append(f"{METRIC_LABELS.get(metric, metric)} {number(value)}{unit}")
    return lines


def _read(story: Story, test_set: str, method: str, image: str) -> np.ndarray | None:
    path = storage.join(story.images, test_set, method, f"{image}.png")
    return images.decode(storage.read_bytes(path)) if storage.exists(path) else None


def _overview(hr: np.ndarray, y: int, x: int, height: int, width: int) -> np.ndarray:
    """The photograph, made small, with the region framed."""
    zoom = min(1.0, 2 * OVERVIEW_PX / max(hr.shape[:2]))  # twice the shown size: sharp on dense screens
    small = cv2.resize(hr, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
    first, last = (round(x * zoom), round(y * zoom)), (round((x + width) * zoom) - 1, round((y + height) * zoom) - 1)
    return cv2.rectangle(small, first, last, BOX_COLOUR, 2)


def data_uri(image: np.ndarray) -> str:
    """uint8 HWC RGB as a PNG inside an address."""
    return png_uri(images.encode_png(image))


def png_uri(png: bytes) -> str:
    """The bytes of a PNG file inside an address."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
