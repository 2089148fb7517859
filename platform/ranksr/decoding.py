"""Users' image files to pixels: metadata never decides, and odd pixel formats are read right or refused.

PNG and JPEG reach Pillow without their metadata, whose damage or size it would take for the image's; the orientation is
read here. TIFF, of whose pixel formats Pillow knows a few, is tifffile's.
"""

import contextlib
import dataclasses
import io
import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator

import imagecodecs
import numpy as np
import PIL.Image
import tifffile

MAX_PIXELS = 178_956_970
"""Pillow's limit, from which on it takes a file for an attack; here for TIFF as well."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
"""Chunks of a PNG that decide the pixels; a capital first letter says of any other that it might, too."""
JPEG_KEPT = (0xE0, 0xEE)
"""JFIF and Adobe, which decides the colour transform; all other application segments are metadata."""
ORIENTATION_TAG = 0x0112
INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i"}
"""EXIF types in which an orientation may be found; the standard says 3."""
SCALED = (tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
"""Photometric interpretations whose samples are brightness."""
LEFT_TO_PILLOW = (tifffile.PHOTOMETRIC.PALETTE, tifffile.PHOTOMETRIC.SEPARATED, tifffile.PHOTOMETRIC.YCBCR)


def decode_photograph(data: bytes) -> np.ndarray:
    """Decode a user's file to uint8 HWC RGB.

    More than 8 bits are reduced to the upper 8 of the file's range (of 2 to 15 bits, or of `MaxSampleValue` where that
    says how many of 16 are used). Grey, palette and CMYK become RGB, alpha is dropped, the EXIF orientation is applied,
    of an animation or a multi-page file the first image is taken.

    Raises ValueError with a reason for anything that is no whole image, for pixels without a known range (floating
    point, signed, 32 bits), and for more than MAX_PIXELS.
    """
    if not data:
        raise ValueError("the file is empty")
    with _reasons():
        return np.ascontiguousarray(_decode(data))


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Turns what decoders of damaged files raise into ValueError with a reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large, or with odd metadata: the pixels are what counts
            yield
    except PIL.UnidentifiedImageError:
        raise ValueError("the file is no image that Pillow can read") from None
    except Exception as error:  # decoders of damaged files raise whatever their parser meets
        raise ValueError(
            f"the image cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image with all that a file says of it: depth, grey or colour, transparency, colour profile."""

    pixels: np.ndarray
    """uint8 or uint16, HW grey or HWC RGB."""
    alpha: np.ndarray | None = None
    """HW of the same type; None: opaque."""
    icc: bytes | None = None
    """The embedded colour profile."""


def decode_picture(data: bytes) -> Picture:
    """Decode a user's file to the depth and channels that it has. Orientation and errors as in `decode_photograph`.

    More than 8 bits of PNG, TIFF and PGM are kept as 16, spread over the whole range.
    """
    decode_photograph(data)  # which knows what is wrong with a file
    with _reasons():
        channels, orientation = _channels(data)
    turned = np.ascontiguousarray(_turned(channels, orientation))
    num_colours = 1 if turned.shape[2] < 3 else 3
    alpha = turned[:, :, num_colours] if turned.shape[2] > num_colours else None
    return Picture(turned[:, :, 0] if num_colours == 1 else turned[:, :, :3], alpha, _profile(data))


def _channels(data: bytes) -> tuple[np.ndarray, int]:
    """(H, W, 1 to 4) grey or RGB, with or without alpha, uint8 or uint16, as stored; and the orientation."""
    if data.startswith(PNG_SIGNATURE):
        bare, exif = _bare_png(data, keep=(b"tRNS",))
        found = imagecodecs.png_decode(bare)
        return found.reshape(*found.shape[:2], -1), _orientation(exif)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = _first_image(file)
            if page.photometric not in LEFT_TO_PILLOW or page.bitspersample > 8:
                return _samples(page, deep=True), _tiff_orientation(page)
        image, orientation = PIL.Image.open(io.BytesIO(data)), 1  # which applies the orientation of a TIFF by itself
    elif data.startswith(b"\xff\xd8"):
        bare, exif = _bare_jpeg(data)
        image, orientation = PIL.Image.open(io.BytesIO(bare)), _orientation(exif)
    else:
        image = PIL.Image.open(io.BytesIO(data))
        orientation = _orientation_by_pillow(image)
    image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return np.asarray(image).astype(np.uint16)[:, :, None], orientation
    transparent = "A" in image.getbands() or "transparency" in image.info
    grey = image.mode in ("1", "L", "LA")
    mode = ("LA" if transparent else "L") if grey else ("RGBA" if transparent else "RGB")
    found = np.asarray(image.convert(mode))
    return found.reshape(*found.shape[:2], -1), orientation


def _profile(data: bytes) -> bytes | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PIL.Image.open(io.BytesIO(data)).info.get("icc_profile") or None
    except Exception:  # a damaged profile is no reason to refuse the image
        return None


def _decode(data: bytes) -> np.ndarray:
    if data.startswith(PNG_SIGNATURE):
        bare, exif = _bare_png(data)
        return _turned(_by_pillow(bare), _orientation(exif))
    if data.startswith(b"\xff\xd8"):
        bare, exif = _bare_jpeg(data)
        return _turned(_by_pillow(bare), _orientation(exif))
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _decode_tiff(data)
    return _by_pillow(data, turn=True)


def _by_pillow(data: bytes, turn: bool = False) -> np.ndarray:
    """HWC RGB; with `turn` by the orientation that Pillow finds."""
    image = PIL.Image.open(io.BytesIO(data))
    image.load()
    turned = _turned if turn else lambda pixels, _: pixels
    orientation = _orientation_by_pillow(image) if turn else 1
    # A PGM of more than 8 bits is scaled to 16 by Pillow, and has mode I all the same.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG")):
        return turned(_as_rgb(np.asarray(image).astype(np.uint16) >> 8), orientation)
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of {image.mode} mode (32 bits) have no known range; save it with 8 or 16 bits")
    return turned(np.asarray(image.convert("RGB")), orientation)


def _as_rgb(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray.astype(np.uint8)[:, :, None], 3, axis=2)


def _bare_png(data: bytes, keep: tuple[bytes, ...] = ()) -> tuple[bytes, bytes]:
    """The PNG without its ancillary chunks but those to `keep`, and the content of its eXIf chunk.

    Checksums of chunks that decide the pixels must be right; others of a wrong one are left out.
    """
    kept, exif, place = [PNG_SIGNATURE], b"", len(PNG_SIGNATURE)
    while place + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        whole = data[place : place + 12 + size]
        if len(whole) < 12 + size:
            break
        right = zlib.crc32(whole[4:-4]) == int.from_bytes(whole[-4:], "big")
        if kind in PNG_PIXELS:
            if not right:
                raise ValueError(f"the checksum of a {kind.decode()} chunk is wrong")
            kept.append(whole)
        elif kind in keep:
            kept += [whole] if right else []
        elif kind == b"eXIf":
            exif = whole[8:-4]
        elif not kind[0] & 0x20:
            raise ValueError(f"it has a chunk {kind!r} that changes its pixels in a way no standard says")
        if kind == b"IEND":
            return b"".join(kept), exif
        place += 12 + size
    raise ValueError("the file is truncated")


def _bare_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """The JPEG without metadata segments, and the first that holds EXIF."""
    kept, exif, place = [data[:2]], b"", 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        size = 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xDA or size < 4 or place + size > len(data):
            break
        segment = data[place : place + size]
        is_metadata = (0xE0 <= marker <= 0xEF and marker not in JPEG_KEPT) or marker == 0xFE
        if marker == 0xE1 and segment[4:10] in (b"Exif\0\0", b"Exif\0\xff"):
            exif = exif or segment[10:]
        if not is_metadata:
            kept.append(segment)
        place += size
    return b"".join([*kept, data[place:]]), exif


def _orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1 where it cannot be read. Nothing else of the EXIF data is looked at."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 10:
        return 1
    (place,) = struct.unpack_from(f"{order}I", exif, 4)
    if place + 2 > len(exif):
        return 1
    (count,) = struct.unpack_from(f"{order}H", exif, place)
    exif += bytes(4)  # so that a short value at a cut-off end can be read
    for start in range(place + 2, min(place + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(f"{order}HH", exif, start)
        if tag == ORIENTATION_TAG and kind in INTEGERS:
            (value,) = struct.unpack_from(order + INTEGERS[kind], exif, start + 8)
            return value if 1 <= value <= 8 else 1
    return 1


def _orientation_by_pillow(image: PIL.Image.Image) -> int:
    exif = image.info.get("exif") or b""
    return _orientation(exif.removeprefix(b"Exif\0\0"))


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels as they are meant to be seen. HW or HWC."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _decode_tiff(data: bytes) -> np.ndarray:
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it warns of odd tags, which do not matter here
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = _first_image(file)
        if page.imagewidth * page.imagelength > MAX_PIXELS:
            raise ValueError(f"{page.imagewidth}x{page.imagelength} px are more than {MAX_PIXELS}")
        ends = [offset + size for offset, size in zip(page.dataoffsets, page.databytecounts, strict=False)]
        if not ends or not all(page.databytecounts) or max(ends) > len(data):
            raise ValueError("the file is truncated")
        if page.photometric in LEFT_TO_PILLOW and page.bitspersample <= 8:
            return _by_pillow(data)  # which applies the orientation of a TIFF by itself
        samples = _samples(page, deep=False)
        pixels = samples[:, :, :3] if samples.shape[2] >= 3 else _as_rgb(samples[:, :, 0])
        return _turned(pixels, _tiff_orientation(page))


def _first_image(file: tifffile.TiffFile) -> tifffile.TiffPage:
    """The first page, or the one behind it where that is a twin of reduced size."""
    pages = [page.aspage() for page in file.pages]
    return next((page for page in pages if not page.subfiletype & 1), pages[0])


def _tiff_orientation(page: tifffile.TiffPage) -> int:
    tag = page.tags.get(ORIENTATION_TAG)
    return tag.value if tag and tag.value in range(1, 9) else 1


def _samples(page: tifffile.TiffPage, deep: bool) -> np.ndarray:
    """(H, W, 1 to 4) grey or RGB, with or without alpha, of a page whose samples are brightness.

    uint8; with `deep` uint16 where a sample has more than 8 bits. Spread over the whole range.
    """
    bits, form = page.bitspersample, page.sampleformat
    if page.photometric not in SCALED:
        raise ValueError(f"a TIFF of {_name(page.photometric)} pixels is not supported; save it as RGB or grey")
    if form != tifffile.SAMPLEFORMAT.UINT or bits > 16:
        raise ValueError(
            f"pixels of {bits} bits as {_name(form)} have no known range; save it with 8 or 16 unsigned bits"
        )
    pixels = page.asarray()
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, 2)
    elif page.axes not in ("YX", "YXS"):
        raise ValueError(f"it has the axes {page.axes}, not height, width and colour; save it as one flat image")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    top, wanted = _top(page), 3 if page.photometric == tifffile.PHOTOMETRIC.RGB else 1
    if pixels.shape[2] - wanted not in (0, 1):
        raise ValueError(f"it has {pixels.shape[2]} channels; save it as RGB or grey")
    alpha = pixels[:, :, wanted:]
    if page.extrasamples and page.extrasamples[0] == tifffile.EXTRASAMPLE.ASSOCALPHA:
        colour = pixels[:, :, :wanted].astype(np.float64) * top / np.maximum(alpha, 1)
        pixels = np.concatenate([np.minimum(colour, top).round().astype(pixels.dtype), alpha], axis=2)
    pixels = pixels.astype(np.uint32)
    if pixels[:, :, :wanted].max(initial=0) > top:
        raise ValueError(f"it has values over {top}, the largest that it says to have")
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        pixels[:, :, :wanted] = top - pixels[:, :, :wanted]
    if deep and page.bitspersample > 8:
        return ((pixels * 0xFFFF + top // 2) // top).clip(0, 0xFFFF).astype(np.uint16)
    # Of 16 bits the upper 8, as everywhere; fewer are spread over the range.
    pixels = pixels >> 8 if top == 0xFFFF else (pixels * 0xFF + top // 2) // top
    return pixels.clip(0, 0xFF).astype(np.uint8)


def _top(page: tifffile.TiffPage) -> int:
    """The sample value that is white (black where white is zero).

    Cameras write 10, 12 or 14 bits into 16 and say so by MaxSampleValue. By the standard that tag is a statistic: any
    other value than all of so many bits is one, unless it says that most of the range is unused.
    """
    full = 2**page.bitspersample - 1
    tag = page.tags.get("MaxSampleValue")
    stated = int(np.max(tag.value)) if tag else full
    if page.bitspersample <= 8 or stated >= full:
        return full
    if math.log2(stated + 1).is_integer() and stated >= 255:
        return stated
    if stated < full // 4:
        raise ValueError(f"MaxSampleValue={stated} leaves open what is white; save it with 8 or all 16 bits")
    return full


def _name(value: object) -> str:
    return getattr(value, "name", str(value))
