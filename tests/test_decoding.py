"""Users' files: metadata never decides over pixels, and odd pixel formats are right or refused by name."""

import io
import pathlib
import re
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import PIL.Image
import pytest
import tifffile

from ranksr.decoding import decode_photograph, decode_picture

RNG = np.random.default_rng(0)
RGB = np.clip(
    np.add.outer(np.arange(40), np.arange(60))[:, :, None] * [1.5, 1, 2] + RNG.integers(0, 30, (40, 60, 3)), 0, 255
).astype(np.uint8)
GRAY = RGB[:, :, 1].copy()
AS_RGB = np.repeat(GRAY[:, :, None], 3, axis=2)
TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}
"""The image that a viewer shows, by EXIF orientation."""
ANCILLARY = (
    b"tIME",
    b"pHYs",
    b"gAMA",
    b"tEXt",
    b"iTXt",
    b"zTXt",
    b"iCCP",
    b"sRGB",
    b"cHRM",
    b"eXIf",
    b"bKGD",
    b"sBIT",
    b"vpAg",
)


def saved(image: np.ndarray, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(image).save(out, kind, **options)
    return out.getvalue()


def tiff(image: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, image, **options)
    return out.getvalue()


def chunk(kind: bytes, content: bytes, crc: int = 0) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ crc)


def with_chunk(extra: bytes) -> bytes:
    return PNG[:33] + extra + PNG[33:]


def exif(orientation: int, entry: bytes = b"", order: str = "<") -> bytes:
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    entries = struct.pack(f"{order}HHIHH", 0x112, 3, 1, orientation, 0) + entry
    return head + struct.pack(f"{order}H", len(entries) // 12) + entries + bytes(4)


def with_segment(marker: int, content: bytes) -> bytes:
    return JPEG[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + JPEG[2:]


def assert_decodes(data: bytes, expected: np.ndarray, tolerance: int = 0) -> None:
    found = decode_photograph(data)
    assert (found.dtype, found.shape) == (np.uint8, expected.shape)
    assert np.abs(found.astype(int) - expected).max() <= tolerance


PNG = saved(RGB, "PNG")
JPEG = saved(RGB, "JPEG", quality=95, subsampling=0)
FROM_JPEG = np.asarray(PIL.Image.open(io.BytesIO(JPEG)).convert("RGB"))
DEEP, TWELVE = GRAY.astype(np.uint16) * 257, ((GRAY.astype(np.uint32) * 4095 + 127) // 255).astype(np.uint16)


@pytest.mark.parametrize("crc", [0, 1])
@pytest.mark.parametrize("kind", ANCILLARY)
def test_a_damaged_ancillary_chunk_of_a_png_changes_nothing(kind: bytes, crc: int) -> None:
    extra = chunk(kind, b"\0\xffgarbage", crc)
    assert_decodes(with_chunk(extra), RGB)
    assert_decodes(PNG[:-12] + extra + PNG[-12:], RGB)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 3_000_000)),
        chunk(b"iTXt", b"k\0\0\0\0\0" + b"a" * 3_000_000),
        chunk(b"tEXt", b"k\0" + b"a" * 900_000) * 80,
        chunk(b"iCCP", b"p\0\0" + zlib.compress(RNG.bytes(2_000_000))),
    ],
    ids=["zTXt", "iTXt", "tEXt", "iCCP"],
)
def test_text_and_profiles_over_a_megabyte_change_nothing(extra: bytes) -> None:
    assert_decodes(with_chunk(extra), RGB)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_whatever_the_container(orientation: int, order: str) -> None:
    turn, tag = TURNED[orientation], exif(orientation, order=order)
    assert_decodes(with_chunk(chunk(b"eXIf", tag)), turn(RGB))
    assert_decodes(with_chunk(chunk(b"eXIf", tag, crc=1)), turn(RGB))  # its checksum is not asked
    assert_decodes(with_segment(0xE1, b"Exif\0\0" + tag), turn(FROM_JPEG))
    assert_decodes(saved(RGB, "WEBP", lossless=True, exif=tag), turn(RGB))
    assert_decodes(tiff(RGB, photometric="rgb", extratags=[(274, 3, 1, orientation, True)]), turn(RGB))


@pytest.mark.parametrize("kind", range(15))
@pytest.mark.parametrize("tag", [0x011A, 0x927C, 0x8769, 0x013E])
def test_odd_exif_entries_beside_the_orientation_change_nothing(tag: int, kind: int) -> None:
    for count in (0, 1, 0x7FFFFFFF):
        odd = struct.pack("<HHII", tag, kind, count, 0xFFFFFFF0)
        assert_decodes(with_segment(0xE1, b"Exif\0\0" + exif(6, odd)), TURNED[6](FROM_JPEG))


@pytest.mark.parametrize(
    ("marker", "content"),
    [
        (0xE1, b"Exif\0\0" + b"garbage!!" * 5),
        (0xE1, b"Exif\0\0" + exif(9)),
        (0xE1, b"Exif\0\0"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"<x" * 20),
        (0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\x07" + b"\xff" * 17),
        (0xE2, b"ICC_PROFILE\0\x01\x02" + bytes(18)),
        (0xE2, b"MPF\0II*\0\xff\xff\xff\x7f" + b"\1" * 12),
        (0xFE, b"a comment"),
    ],
)
def test_broken_segments_of_a_jpeg_change_nothing(marker: int, content: bytes) -> None:
    assert_decodes(with_segment(marker, content), FROM_JPEG)


def broken_at(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (broken_at(PNG, PNG.index(b"IDAT") + 4 + int.from_bytes(PNG[PNG.index(b"IDAT") - 4 :][:4], "big")), "checksum of a IDAT"),
        (broken_at(PNG, 29), "checksum of a IHDR"),
        (PNG[: len(PNG) * 2 // 3], "truncated"),
        (PNG[:-12], "truncated"),
        (with_chunk(chunk(b"CgBI", b"\0\0\0\0")), "chunk b'CgBI'"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (tiff(RGB, photometric="rgb")[:3000], "truncated"),
    ],
)  # fmt: skip
def test_damage_to_the_pixels_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        decode_photograph(data)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 10, 12, 14])
def test_a_tiff_of_any_number_of_bits_has_its_brightness(bits: int) -> None:
    top, levels = 2**bits - 1, []
    values = (GRAY.astype(np.uint32) * top + 127) // 255
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        levels.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    content, count = b"".join(levels), 9
    short = {256: 60, 257: 40, 258: bits, 259: 1, 262: 1, 277: 1, 278: 40}
    long = {273: 8 + 2 + 12 * count + 4, 279: len(content)}
    entries = [
        struct.pack(">HHIHH", tag, 3, 1, short[tag], 0) if tag in short else struct.pack(">HHII", tag, 4, 1, long[tag])
        for tag in sorted([*short, *long])
    ]
    data = b"MM\0*" + struct.pack(">IH", 8, count) + b"".join(entries) + bytes(4) + content
    assert_decodes(data, np.repeat(((values * 255 + top // 2) // top)[:, :, None], 3, axis=2))


MOST = "MaxSampleValue"


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (DEEP, {"photometric": "minisblack"}, AS_RGB),
        (65535 - DEEP, {"photometric": "miniswhite"}, AS_RGB),
        (255 - GRAY, {"photometric": "miniswhite"}, AS_RGB),
        (TWELVE, {"photometric": "minisblack", MOST: 4095}, AS_RGB),
        (4095 - TWELVE, {"photometric": "miniswhite", MOST: 4095}, AS_RGB),
        (DEEP, {"photometric": "minisblack", MOST: int(DEEP.max())}, AS_RGB),  # a statistic, as the standard has it
        (RGB.astype(np.uint16) * 257, {"photometric": "rgb"}, RGB),
        (RGB.astype(np.uint16) * 257, {"photometric": "rgb", "byteorder": ">", "compression": "lzw", "predictor": True}, RGB),
        (np.moveaxis(RGB.astype(np.uint16) * 257, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}, RGB),
        (RGB, {"photometric": "rgb", "compression": "packbits"}, RGB),
        (RGB, {"photometric": "rgb", "compression": "zlib", "tile": (16, 16)}, RGB),
        (np.dstack([RGB, GRAY]), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, RGB),
        (np.dstack([DEEP, DEEP]), {"photometric": "minisblack", "extrasamples": ["unassalpha"]}, AS_RGB),
        (np.stack([RGB, 255 - RGB]), {"photometric": "rgb"}, RGB),
        (GRAY > 100, {"photometric": "minisblack"}, np.where(AS_RGB > 100, 255, 0)),
        (GRAY > 100, {"photometric": "miniswhite"}, np.where(AS_RGB > 100, 0, 255)),
    ],
)  # fmt: skip
def test_tiff_samples_are_neither_dark_nor_inverted(
    image: np.ndarray, options: dict[str, object], expected: np.ndarray
) -> None:
    if most := options.pop(MOST, None):
        options["extratags"] = [(281, 3, 1, most, True)]
    assert_decodes(tiff(image, **options), expected, tolerance=1)


@pytest.mark.parametrize(
    ("image", "options", "says"),
    [
        (GRAY.astype(np.float32) / 255, {}, "32 bits as IEEEFP have no known range"),
        (GRAY.astype(np.float16), {}, "IEEEFP"),
        (GRAY.astype(np.int16) - 100, {}, "INT have no known range"),
        (GRAY.astype(np.uint32) * 16843009, {}, "32 bits"),
        (TWELVE, {"extratags": [(281, 3, 1, 3000, True)]}, "MaxSampleValue=3000 leaves open what is white"),
        (DEEP, {"extratags": [(281, 3, 1, 1023, True)]}, "values over 1023"),
    ],
)
def test_tiff_samples_without_a_known_range_are_refused(image: np.ndarray, options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        decode_photograph(tiff(image, photometric="minisblack", **options))


def test_what_pillow_decodes_well_in_a_tiff_is_left_to_it() -> None:
    palette = PIL.Image.fromarray(RGB).quantize(64)
    out = io.BytesIO()
    palette.save(out, "TIFF")
    assert_decodes(out.getvalue(), np.asarray(palette.convert("RGB")))
    out = io.BytesIO()
    PIL.Image.fromarray(RGB).convert("CMYK").save(out, "TIFF")
    assert_decodes(out.getvalue(), RGB, tolerance=3)
    assert_decodes(saved(RGB, "TIFF", compression="jpeg", quality=100), RGB, tolerance=12)
    assert_decodes(saved(GRAY > 100, "TIFF", compression="group4"), np.where(AS_RGB > 100, 255, 0))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"P5\n60 40\n4095\n" + TWELVE.astype(">u2").tobytes(), AS_RGB),
        (b"P6\n60 40\n255\n" + RGB.tobytes(), RGB),
        (saved(DEEP, "PNG"), AS_RGB),
        (cv2.imencode(".png", RGB[:, :, ::-1].astype(np.uint16) * 257)[1].tobytes(), RGB),
    ],
    ids=["pgm of 12 bits", "ppm", "png of 16 bits grey", "png of 16 bits"],
)
def test_deep_images_of_other_containers_keep_their_brightness(data: bytes, expected: np.ndarray) -> None:
    assert_decodes(data, expected, tolerance=1)


def test_files_of_public_bug_reports_have_the_right_pixels(shared) -> None:
    for name in ("bigiccp", "crc_text"):
        right = decode_photograph(shared(f"bugs/reference/{name}_expected.png").read_bytes())
        assert_decodes(shared(f"bugs/png/{name}.png").read_bytes(), right)
    for path in sorted(shared("bugs/exif").iterdir()):
        whole = PIL.Image.open(path).convert("RGB")
        assert_decodes(path.read_bytes(), np.rot90(np.asarray(whole), -1))  # orientation 6, as their names say
    # Its stored samples have lost their upper bits, so that the picture it was made of cannot come out; their scale can.
    path = shared("bugs/tiff/tif12.tif")
    stored = tifffile.imread(path).astype(int)
    assert_decodes(path.read_bytes(), np.repeat(((stored * 255 + 2047) // 4095)[:, :, None], 3, axis=2))


def test_what_a_photograph_is_read_of_is_a_picture_too(shared: Callable[[str], pathlib.Path]) -> None:
    """The same files are read, with the same pixels once they are reduced to 8 bits of RGB; the others have a reason."""
    count = 0
    for path in sorted(path for path in shared("bugs").rglob("*") if path.suffix in (".png", ".jpg", ".tif", ".webp")):
        data = path.read_bytes()
        try:
            expected = decode_photograph(data)
        except ValueError as error:
            with pytest.raises(ValueError, match=re.escape(str(error))):
                decode_picture(data)
            continue
        found = decode_picture(data).pixels
        reduced = found if found.dtype == np.uint8 else (found >> 8).astype(np.uint8)
        colour = reduced if reduced.ndim == 3 else np.repeat(reduced[:, :, None], 3, axis=2)
        assert np.abs(colour.astype(int) - expected).max() <= 1, path
        count += 1
    assert count > 5
