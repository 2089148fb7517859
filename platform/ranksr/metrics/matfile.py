"""A strict reader of MATLAB's MAT-files of version 5 (`save -v6`, `-v7`), for the models of NIQE and Ma.

scipy.io.loadmat ends the whole process on some damaged files. This one checks every length before it reads, and knows
numeric arrays, text, cells and structs: what these models are made of. Format: MathWorks, "MAT-File Format", R2023b.
"""

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

HEADER_BYTES = 128
MAX_BYTES = 2**30
"""After decompression; the published model of Ma takes a tenth of it."""
MAX_DEPTH = 8
MATRIX, COMPRESSED = 14, 15
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Type of a data element to that of its numbers."""
NUMERIC = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""Class of an array to that of its numbers, which may be stored in a smaller type."""
TEXT_STORED = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, TEXT = 1, 2, 4
COMPLEX = 0x0800


def read_matfile(data: bytes, names: Collection[str]) -> dict[str, np.ndarray]:
    """The named variables of a MAT-file that are there, in MATLAB's shapes (a vector is (1, n) or (n, 1)).

    Numbers are numeric arrays, text a scalar string, cells object arrays, structs structured arrays of objects. Raises
    ValueError for a damaged file and for anything else that a file may hold.
    """
    if data[:10] == b"MATLAB 7.3" or data[:4] == b"\x89HDF":
        raise ValueError("it is of version 7.3; save it with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise ValueError("it is no MAT-file of version 5")
    found: dict[str, np.ndarray] = {}
    for outer in _elements(data[HEADER_BYTES:], order):
        packed = outer[0] == COMPRESSED
        kind, content = next(_elements(_decompressed(outer[1]), order), (0, b"")) if packed else outer
        if kind == MATRIX:
            parts = _elements(content, order)
            flags, shape, name = _heading(parts, order)
            if name in names:
                found[name] = _array(flags, shape, parts, order, depth=0)
    return found


def _decompressed(content: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(content, MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"its compression is damaged ({error})") from None
    if not unpacker.eof:
        raise ValueError(f"a variable is cut off, or larger than {MAX_BYTES} bytes")
    return data


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, content) of consecutive data elements."""
    place = 0
    while place < len(data):
        if place + 8 > len(data):
            raise ValueError("it is cut off")
        kind, size = struct.unpack_from(f"{order}II", data, place)
        start = place + 8
        if kind >> 16:  # small element: both in one word, the content in the other
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            if size > 4:
                raise ValueError("a small data element is too long")
        if start + size > len(data):
            raise ValueError("a data element is longer than the file")
        yield kind, data[start : start + size]
        # Compressed elements are not padded.
        place = place + 8 if start == place + 4 else start + size + (0 if kind == COMPRESSED else -size % 8)


def _next(parts: Iterator[tuple[int, bytes]]) -> tuple[int, bytes]:
    try:
        return next(parts)
    except StopIteration:
        raise ValueError("an array is incomplete") from None


def _numbers(element: tuple[int, bytes], order: str) -> np.ndarray:
    kind, content = element
    if kind not in STORED:
        raise ValueError(f"a data element of type {kind} stands where numbers should")
    dtype = np.dtype(order + STORED[kind])
    if len(content) % dtype.itemsize:
        raise ValueError("a data element ends within a number")
    return np.frombuffer(content, dtype)


def _heading(parts: Iterator[tuple[int, bytes]], order: str) -> tuple[int, tuple[int, ...], str]:
    """Flags, shape and name of an array."""
    flags, shape = _numbers(_next(parts), order), _numbers(_next(parts), order)
    name = _next(parts)[1].decode("latin-1")
    if flags.size != 2 or shape.size < 2 or shape.dtype.kind == "f" or (shape < 0).any():
        raise ValueError("the heading of an array is damaged")
    return int(flags[0]), tuple(map(int, shape)), name


def _array(
    flags: int, shape: tuple[int, ...], parts: Iterator[tuple[int, bytes]], order: str, depth: int
) -> np.ndarray:
    kind, count = flags & 0xFF, math.prod(shape)
    if depth > MAX_DEPTH or count > MAX_BYTES:
        raise ValueError("an array is too large or too deep")
    if kind in NUMERIC and not flags & COMPLEX:
        numbers = _numbers(_next(parts), order)
        if numbers.size != count:
            raise ValueError(f"an array of shape {shape} has {numbers.size} numbers")
        return numbers.astype(NUMERIC[kind]).reshape(shape, order="F")
    if kind == TEXT:
        stored, content = _next(parts)
        return np.array(content.decode(TEXT_STORED.get(stored, "latin-1"), "replace"))
    if kind == CELL:
        return _objects(shape, [_nested(parts, order, depth) for _ in range(count)])
    if kind == STRUCT:
        width = _numbers(_next(parts), order)
        text = _next(parts)[1]
        if width.size != 1 or width[0] < 1 or len(text) % int(width[0]):
            raise ValueError("the names of a struct's fields are damaged")
        each = int(width[0])
        names = [text[at : at + each].split(b"\0")[0].decode("latin-1") for at in range(0, len(text), each)]
        if not names or len(set(names)) != len(names) or not all(names):
            raise ValueError("the names of a struct's fields are damaged")
        # Read before room is made for them: the shape of a damaged file may be of any size.
        rows = [[_nested(parts, order, depth) for _ in names] for _ in range(count)]
        records = np.empty(count, [(name, object) for name in names])
        for place, row in enumerate(rows):
            for name, value in zip(names, row, strict=True):
                records[name][place] = value
        return records.reshape(shape, order="F")
    raise ValueError(f"it holds an array of class {kind}, which no model has")


def _nested(parts: Iterator[tuple[int, bytes]], order: str, depth: int) -> np.ndarray:
    kind, content = _next(parts)
    if kind != MATRIX:
        raise ValueError(f"a data element of type {kind} stands where an array should")
    if not content:
        return np.zeros((0, 0))  # how MATLAB writes an empty cell
    inner = _elements(content, order)
    flags, shape, _ = _heading(inner, order)
    return _array(flags, shape, inner, order, depth + 1)


def _objects(shape: tuple[int, ...], values: list[Any]) -> np.ndarray:
    """An object array; numpy would make one array of arrays of equal shapes."""
    cells = np.empty(len(values), object)
    for place, value in enumerate(values):
        cells[place] = value
    return cells.reshape(shape, order="F")
