"""Tables with raw pixels where they had PNGs."""

import pyarrow as pa
import pyarrow.compute

from ranksr import images


def with_raw_pixels(table: pa.Table) -> pa.Table:
    """The table with the pixels of its PNGs (`images.encode_raw`) in their place, alone or in lists."""
    for number, field in enumerate(table.schema):
        column = table.column(number)
        if field.type == pa.binary():
            pixels: pa.Array = _raw_array(column.combine_chunks())
        elif field.type == pa.list_(pa.binary()):
            lists = column.combine_chunks()
            offsets = pyarrow.compute.subtract(lists.offsets, lists.offsets[0])
            pixels = pa.ListArray.from_arrays(offsets, _raw_array(lists.flatten()))
        else:
            continue
        table = table.set_column(number, field.name, pixels)
    return table


def _raw_array(pngs: pa.Array) -> pa.Array:
    """Large: a part can have more than the 2 GB of pixels that 32-bit offsets reach."""
    return pa.array((images.encode_raw(images.decode(png.as_buffer())) for png in pngs), pa.large_binary())
