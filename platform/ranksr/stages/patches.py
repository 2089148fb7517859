"""Stage `patches`: photographs become pairs of HR and LR sub-images that training crops from."""

import dataclasses
import itertools

import pyarrow as pa

from ranksr import SCALE, images
from ranksr.config import Data
from ranksr.data import parts, sources
from ranksr.data.sources import Photo

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("y", pa.int32()),
        ("x", pa.int32()),
        ("split", pa.string()),
        ("lr", pa.binary()),
        ("hr", pa.binary()),
    ]
)
"""One row is one sub-image: its place in the HR image, and both resolutions as PNG."""


@dataclasses.dataclass(frozen=True)
class _Cut:
    sub_image_px: int
    stride_px: int

    def __call__(self, part: parts.Part) -> parts.Content:
        rows: list[parts.Row] = []
        rejected: list[parts.Rejected] = []
        for each in part.photos:
            rows += parts.attempted(part.job, "cut", each.photo, rejected, self._rows, each) or []
        return parts.Content(rows, rejected)

    def _rows(self, each: parts.PartPhoto) -> list[parts.Row]:
        hr = images.crop_to_multiple(sources.read_photo(each.photo.path))
        lr = images.downscale(hr)
        height, width, corners = sub_images(hr.shape, self.sub_image_px, self.stride_px)
        return [
            {
                "image_id": each.photo.image_id,
                "y": y,
                "x": x,
                "split": each.split,
                "hr": images.encode_png(hr[y : y + height, x : x + width]),
                "lr": images.encode_png(lr[y // SCALE : (y + height) // SCALE, x // SCALE : (x + width) // SCALE]),
            }
            for y, x in corners
        ]


def sub_images(shape: tuple[int, ...], sub_image_px: int, stride_px: int) -> tuple[int, int, list[tuple[int, int]]]:
    """Height, width and corners (y, x) of the sub-images of an image of a shape; a small one is one of its own size."""
    height, width = (min(sub_image_px, side) for side in shape[:2])
    rows, columns = images.starts(shape[0], height, stride_px), images.starts(shape[1], width, stride_px)
    return height, width, list(itertools.product(rows, columns))


def write_patches(folder: str, photos: list[Photo], data: Data, seed: int) -> dict[str, object]:
    """Cut every photograph into sub-images, as Parquet in `folder`. Those of a small one are as large as it is."""
    job = parts.Job(
        "patches",
        folder,
        SCHEMA,
        _Cut(data.sub_image_px, data.sub_image_stride_px),
        data.images_per_part,
        unit=("sub-images", 1),
        most_rejected=parts.most_rejected(data, len(photos)),
    )
    held_out = sources.validation_ids(photos, data.val_fraction, seed)
    parts.run_job(job, parts.describe(photos, held_out=held_out))
    return parts.collect(folder, data.on_bad_image, data.max_bad_fraction)
