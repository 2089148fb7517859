"""Sources of photographs: folders, s3:// prefixes, and the pictures in scikit-image's wheel."""

import dataclasses
import hashlib
import importlib.util
import logging
import os
import pathlib

import numpy as np

from ranksr import images, listing, storage
from ranksr.errors import UserError

log = logging.getLogger(__name__)

WHEEL = "skimage:"


@dataclasses.dataclass(frozen=True)
class Photo:
    image_id: str
    """Path inside the source without suffix, in Unicode's form NFC."""
    path: str
    """Path for `read_photo`, valid on every node."""
    size: int = 0
    """Bytes of the file; 0 where that is not known."""
    digest: str = ""
    """Digest of the content; see `digests.digested`."""


def list_photos(source: str) -> list[Photo]:
    """Every photograph of a source, sorted by path, links that lead nowhere included: what cannot be read is for the
    reader to reject by name.

    Raises UserError where there is none, where two files answer to one name, and where one picture is there twice, as
    itself and smaller (`listing.require_originals`).
    """
    if source.startswith(WHEEL):
        names = sorted(source.removeprefix(WHEEL).split(","))
        if len(set(names)) != len(names):
            raise UserError(f"{source} names a photograph twice: name each once")
        for name in names:
            wheel_file(name)
        return [Photo(name, f"{WHEEL}{name}") for name in names]
    if not storage.exists(source):
        raise UserError(
            f"{storage.absolute(source)} does not exist; give the folder of your photographs, "
            "e.g. data.hr=/data/DIV2K/DIV2K_train_HR"
        )
    images_found = listing.images_of(source)
    listing.require_originals(source, images_found)
    return [Photo(image.name, image.path, image.size) for image in images_found]


def match_images(what: str, folder: str, photos: list[Photo], most_missing: int = 0) -> dict[str, str]:
    """image_id to the image that others made of the photograph: the one in `folder` of the same name, or of a name
    that differs by an end that says so (`listing.ASIDE`), as 0801x4 for 0801.

    Images without a photograph are named in the log, and so are photographs without an image; UserError when these
    are more than `most_missing`.
    """
    images_found = listing.list_images(folder)
    found = listing.match([photo.image_id for photo in photos], images_found)
    taken = {image.path for image in found.values()}
    missing = sorted(photo.image_id for photo in photos if photo.image_id not in found)
    extra = sorted(image.name for image in images_found if image.path not in taken)
    if extra:
        listing.say_once(
            f"{what}: {len(extra)} images of {folder} belong to no photograph: {_some(extra)}", logging.WARNING
        )
    if len(missing) > most_missing:
        raise UserError(
            f"{what}: {folder} has no image of {len(missing)} of {len(photos)} photographs ({_some(missing)}): add "
            "them under the photographs' names, or leave these photographs out"
        )
    if missing:
        listing.say_once(
            f"{what}: {folder} has no image of {len(missing)} photographs: {_some(missing)}", logging.WARNING
        )
    return {image_id: image.path for image_id, image in found.items()}


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)


def read_photo(path: str) -> np.ndarray:
    """One photograph as uint8 HWC RGB. Raises as `read_file`, and ValueError for a file that is no whole image."""
    return images.decode_photograph(read_file(path))


def read_file(path: str) -> bytes:
    """The bytes of a photograph's file. Raises ValueError with the reason where it cannot be read.

    Raises StorageError where the store is to blame: no photograph is rejected because a server was away.
    """
    if path.startswith(listing.NOT_UTF8):
        raise ValueError("its name is not UTF-8: rename it")
    if path.startswith(WHEEL):
        path = wheel_file(path.removeprefix(WHEEL))
    if not storage.is_remote(path) and os.path.islink(path) and not os.path.exists(path):
        raise ValueError(f"the link leads to {os.readlink(path)}, which does not exist")
    if not storage.is_remote(path) and os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("it is no regular file")  # reading a pipe would never end
    try:
        return storage.read_bytes(path)
    except OSError as error:
        raise ValueError(f"the file cannot be read: {' '.join(str(error).split())}") from error


def wheel_file(name: str) -> str:
    """Path of a photograph in scikit-image's wheel, of which each node has its own copy. Raises UserError."""
    # Found without importing scikit-image.
    found = importlib.util.find_spec("skimage")
    assert found is not None
    assert found.origin is not None
    folder = pathlib.Path(found.origin).parent / "data"
    for suffix in (".png", ".jpg"):
        if (folder / f"{name}{suffix}").exists():
            return str(folder / f"{name}{suffix}")
    raise UserError(
        f"skimage:{name} is not in scikit-image's wheel; its photographs include astronaut, coffee, chelsea, rocket"
    )


def validation_ids(photos: list[Photo], fraction: float, seed: int) -> frozenset[str]:
    """The image_ids held out for validation: those with the smallest hash, at least one, never all."""
    ids = sorted(photo.image_id for photo in photos)
    if len(ids) < 2:
        raise UserError(f"{len(ids)} photograph is too few: at least one is needed for training and one for validation")
    count = min(max(1, round(fraction * len(ids))), len(ids) - 1)
    ids.sort(key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    return frozenset(ids[:count])
