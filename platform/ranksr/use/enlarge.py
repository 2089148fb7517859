"""`ranksr upscale`: photographs through a network, file by file, in threads of this process or on Ray."""

import concurrent.futures
import dataclasses
import io
import logging
import sys
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import pyarrow as pa
import tifffile
import torch

from ranksr import cluster, listing, storage, terminal
from ranksr.config import Compute
from ranksr.data import parts, sources
from ranksr.data.sources import Photo
from ranksr.data.upscale import Upscalers
from ranksr.decoding import Picture, decode_picture
from ranksr.errors import UserError
from ranksr.use.network import Model, find, load_model

log = logging.getLogger(__name__)

FORMATS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tif"}
SETTINGS = "upscale.json"
"""File beside the images: the network and the settings that made them."""
PARTS = ".parts"
"""Folder beside the images while a job on Ray works: which files it could not read."""


@dataclasses.dataclass(frozen=True)
class Order:
    """What to do with each photograph; travels to every worker."""

    model: str
    out: str
    """Absolute folder or s3://bucket/prefix."""
    format: str = "png"
    quality: int = 95
    """Of jpg and webp, 1 to 100; webp of 100 is lossless."""
    suffix: str = "_x4"
    """Between the photograph's name and the suffix of the format."""
    overwrite: bool = False
    tile_px: int | None = None
    bf16: bool = False
    ensemble: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality {self.quality}: give 1 to 100")
        if self.tile_px is not None and self.tile_px < 16:
            raise UserError(f"--tile {self.tile_px}: give 16 px or more of the photograph")
        if "/" in self.suffix or not self.suffix.isprintable():
            raise UserError(f"--suffix {self.suffix!r} is no part of a file's name; give e.g. _x4")

    def path(self, name: str) -> str:
        """Where the image of a photograph goes."""
        return storage.join(self.out, f"{name}{self.suffix}{FORMATS[self.format]}")


def find_photographs(paths: Sequence[str]) -> list[Photo]:
    """The image files among `paths` and under the folders among them. Raises UserError for two of one name."""
    images = [image for path in paths for image in listing.images_of(path)]
    found = [Photo(image.name, image.path, image.size) for image in images]
    first: dict[str, Photo] = {}
    for photo in found:
        if (other := first.setdefault(photo.image_id, photo)) is not photo and other.path != photo.path:
            raise UserError(f"{other.path} and {photo.path} would both become {photo.image_id}: give them one by one")
    return list(first.values())


def run(order: Order, paths: Sequence[str], jobs: int | None, on_ray: bool) -> int:
    """Upscale the photographs whose image is not there yet, and name those that could not be read; the exit code.

    `jobs`: photographs side by side. Raises UserError.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: use 1 or more")
    photos = find_photographs(paths)
    prepare(order, photos)
    todo = missing(photos, order)
    if len(todo) < len(photos):
        kept = len(photos) - len(todo)
        log.info("upscale: %d of %d images are there (--overwrite makes them again)", kept, len(photos))
    if not todo:
        return 0
    rejected = upscale_on_ray(todo, order, jobs) if on_ray else upscale_here(todo, order, jobs)
    log.info("upscale: %d images more are in %s", len(todo) - len(rejected), order.out)
    for entry in rejected:
        print(f"ranksr: {entry.path}: {entry.reason}", file=sys.stderr)
    return 1 if rejected else 0


def prepare(order: Order, photos: Iterable[Photo]) -> None:
    """Check that the folder can be written and holds nothing that another network made; note what makes it now.

    With `overwrite` the images of these photographs are deleted: a start that is killed must not leave a mixture that
    the next one takes for its own. Raises UserError.
    """
    storage.probe(order.out, "output folder")
    origin = find(order.model)
    made_by = {"weights": storage.digest(origin.weights), "bf16": order.bf16, "x8": order.ensemble}
    path = storage.join(order.out, SETTINGS)
    if storage.exists(path) and not order.overwrite and storage.read_json(path)["made_by"] != made_by:
        raise UserError(
            f"{order.out} holds images of another network or with other settings ({path}): give another --out, or "
            "--overwrite"
        )
    if order.overwrite:
        for image in {order.path(photo.image_id) for photo in photos} & _images(order):
            storage.delete(image)
    storage.write_json(path, {"model": order.model, "made_by": made_by})


def missing(photos: Iterable[Photo], order: Order) -> list[Photo]:
    """The photographs whose image is not there yet."""
    there = _images(order)
    return [photo for photo in photos if order.path(photo.image_id) not in there]


def _images(order: Order) -> set[str]:
    return {storage.join(order.out, name) for name, _ in storage.list_files(order.out)}


def upscale_file(model: Model, photo: Photo, order: Order) -> None:
    """Write the image of one photograph.

    Raises ValueError with the reason where the photograph cannot be read, UserError where the image cannot be written.
    """
    picture = model.enlarge(decode_picture(sources.read_file(photo.path)), order.tile_px, order.ensemble)
    data = encode(picture, order.format, order.quality)
    path = order.path(photo.image_id)
    try:
        storage.write_bytes(path, data)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}): finished images are kept; make room or choose another "
            "--out, and give the same command again"
        ) from error


def encode(picture: Picture, form: str, quality: int) -> bytes:
    """The picture as a file of a format of FORMATS. jpg and webp have 8 bits, jpg no alpha."""
    if form in ("png", "tiff"):
        return _lossless(picture, form)
    pixels, alpha = _eight_bits(picture.pixels), None if picture.alpha is None else _eight_bits(picture.alpha)
    if pixels.dtype != picture.pixels.dtype:
        listing.say_once(f"{form} holds 8 bits: images of 16 are rounded; png and tiff keep them")
    if alpha is not None and form == "jpg":
        listing.say_once("jpg holds no transparency: it is left out; png, tiff and webp keep it")
    elif alpha is not None:
        pixels = np.dstack([pixels if pixels.ndim == 3 else np.dstack([pixels] * 3), alpha])
    out = io.BytesIO()
    options: dict[str, Any] = {"quality": quality} | ({"icc_profile": picture.icc} if picture.icc else {})
    if form == "webp":
        options |= {"lossless": quality == 100, "exact": True}
    PIL.Image.fromarray(pixels).save(out, "JPEG" if form == "jpg" else "WEBP", **options)
    return out.getvalue()


def _lossless(picture: Picture, form: str) -> bytes:
    pixels = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    if form == "png":
        png = bytes(imagecodecs.png_encode(pixels, level=1, strategy=3, filter=16))  # run lengths, as `encode_png`
        return _with_profile(png, picture.icc) if picture.icc else png
    out = io.BytesIO()
    tifffile.imwrite(
        out,
        pixels,
        photometric="rgb" if picture.pixels.ndim == 3 else "minisblack",
        extrasamples=["unassalpha"] if picture.alpha is not None else None,
        planarconfig="contig" if pixels.ndim == 3 else None,
        compression="zlib",
        predictor=True,
        iccprofile=picture.icc,
    )
    return out.getvalue()


def _with_profile(png: bytes, icc: bytes) -> bytes:
    """The PNG with an iCCP chunk behind its IHDR chunk."""
    body = b"iCCP" + b"ICC profile\0\0" + zlib.compress(icc)
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return png[:33] + chunk + png[33:]  # 8 bytes of signature, 25 of IHDR


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.dtype == np.uint8 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def upscale_here(photos: Sequence[Photo], order: Order, jobs: int | None = None) -> list[parts.Rejected]:
    """Upscale on this machine, `jobs` photographs side by side (None: one for each core, or one on a GPU).

    Returns the photographs that could not be read. Raises UserError where an image cannot be written.
    """
    model = load_model(order.model, order.device, order.bf16)
    cores = terminal.num_cores()
    jobs = min(jobs or (1 if model.device != "cpu" else cores), max(len(photos), 1))
    if model.device == "cpu":
        torch.set_num_threads(max(1, cores // jobs))
    order = dataclasses.replace(order, tile_px=order.tile_px or model.tile_px(jobs))
    rejected: list[parts.Rejected] = []
    with terminal.Bar("upscale", len(photos), "images") as bar:
        pool = concurrent.futures.ThreadPoolExecutor(jobs)
        try:
            todo = {pool.submit(upscale_file, model, photo, order): photo for photo in photos}
            for done in concurrent.futures.as_completed(todo):
                try:
                    done.result()
                except UserError:
                    raise
                except ValueError as error:
                    rejected.append(parts.Rejected(todo[done].path, str(error)))
                bar.add(1)
        finally:
            pool.shutdown(cancel_futures=True)
    return rejected


class _Enlarger:
    """A network in a process of Ray, and the work on a part."""

    def __init__(self, order: Order) -> None:
        torch.set_num_threads(1)
        self._order, self._model = order, load_model(order.model, order.device, order.bf16)

    def __call__(self, part: parts.Part) -> parts.Content:
        rows: list[parts.Row] = []
        rejected: list[parts.Rejected] = []
        for each in part.photos:
            row = parts.attempted(part.job, "upscale", each.photo, rejected, self._row, each.photo)
            rows += [] if row is None else [row]
        return parts.Content(rows, rejected)

    def _row(self, photo: Photo) -> parts.Row:
        upscale_file(self._model, photo, self._order)
        return {"image_id": photo.image_id}


def _as_made(content: parts.Content) -> parts.Content:
    return content


SCHEMA = pa.schema([("image_id", pa.string())])


def upscale_on_ray(photos: Sequence[Photo], order: Order, jobs: int | None = None) -> list[parts.Rejected]:
    """Upscale on the cluster of RAY_ADDRESS or a private Ray, in `jobs` processes; as `upscale_here` otherwise.

    The images tell what is done, as they do there: parts of an earlier start, of other photographs, formats or names,
    would tell of images that are not there.
    """
    from ranksr import session  # only here: it brings the whole pipeline

    session.connect()
    cluster.require_shared_root(Compute(), order.out)
    folder, num_gpus = storage.join(order.out, PARTS), 1.0 if str(order.device).startswith("cuda") else 0.0
    storage.delete(folder)
    loaded = parts.Loaded(_Enlarger, (order,), jobs or Upscalers(None, num_gpus).present, num_gpus)
    parts.run_job(parts.Job("upscale", folder, SCHEMA, _as_made, 4, loaded, ("images", 1)), parts.describe(photos))
    rejected = [entry for summary in parts.read_summaries(folder).values() for entry in summary.rejected]
    storage.delete(folder)
    return rejected
