"""Stage `patches`: photographs become pairs of HR and LR sub-images that training crops from."""

import dataclasses

import pyarrow as pa

from ranksr import images
from ranksr.config import SCALE, Data
from ranksr.data import parts, sources

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
    smallest_px: int
    validation: frozenset[str]

    def __call__(self, part: parts.Row) -> parts.Row:
        rows: list[parts.Row] = []
        rejected: list[dict[str, str]] = []
        for photo in part["photos"]:
            try:
                rows += self._rows(photo)
            except ValueError as error:
                rejected.append({"path": photo["path"], "reason": str(error)})
        return {**part, "rows": rows, "rejected": rejected, "counts": {}}

    def _rows(self, photo: dict[str, str]) -> list[parts.Row]:
        hr = images.crop_to_multiple(sources.read_photo(photo["path"]))
        if min(hr.shape[:2]) < self.smallest_px:
            raise ValueError(
                f"{hr.shape[1]}x{hr.shape[0]} px is smaller than the training crop of {self.smallest_px} px"
            )
        lr = images.downscale(hr)
        split = "val" if photo["image_id"] in self.validation else "train"
        height, width = (min(self.sub_image_px, side) for side in hr.shape[:2])
        corners = [
            (y, x)
            for y in images.starts(hr.shape[0], height, self.stride_px)
            for x in images.starts(hr.shape[1], width, self.stride_px)
        ]
        return [
            {
                "image_id": photo["image_id"],
                "y": y,
                "x": x,
                "split": split,
                "hr": images.encode_png(hr[y : y + height, x : x + width]),
                "lr": images.encode_png(lr[y // SCALE : (y + height) // SCALE, x // SCALE : (x + width) // SCALE]),
            }
            for y, x in corners
        ]


def write_patches(folder: str, data: Data, smallest_px: int, seed: int) -> dict[str, object]:
    """Cut every photograph of `data.hr` into sub-images of at least `smallest_px`, as Parquet in `folder`."""
    photos = sources.list_photos(data.hr)
    validation = sources.validation_ids(photos, data.val_fraction, seed)
    cut = _Cut(data.sub_image_px, data.sub_image_stride_px, smallest_px, validation)
    sink = parts.PartSink(folder, SCHEMA)
    most = parts.most_rejected(data, len(photos))
    parts.run_job("patches", photos, data.images_per_part, cut, sink, unit=("sub-images", 1), most_rejected=most)
    return parts.collect(folder, data.on_bad_image, data.max_bad_fraction)
