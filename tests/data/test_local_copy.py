"""LocalCopy: one mapped file for all workers of a node, and nothing left of it."""

import logging
import pathlib
import tempfile
import types

import numpy as np
import pyarrow as pa
import pytest

from ranksr import images, storage, terminal
from ranksr.data import local_copy
from ranksr.data.local_copy import LocalCopy

ROWS, ROW_BYTES = 40, 100_000


@pytest.fixture
def source(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two Parquet files with rows of both splits, 4 MB, the first by name with the last images; the temporary folder is
    the test's own."""
    (tmp_path / "node").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    rng = np.random.default_rng(0)
    for part in range(2):
        rows = [
            {
                "image_id": f"{number // 2:02d}",
                "split": ("train", "val")[number % 2],
                "number": number,
                "png": rng.bytes(ROW_BYTES),
            }
            for number in range(part * ROWS // 2, (part + 1) * ROWS // 2)
        ]
        storage.write_table(str(tmp_path / "source" / f"part-{1 - part}.parquet"), pa.Table.from_pylist(rows))
    return str(tmp_path / "source")


def test_a_split_has_its_rows_in_the_order_of_image_ids_whatever_the_names_of_the_parts(source: str) -> None:
    copy = LocalCopy("run/srgan", "1", "png")
    assert copy.read(source, "train")["number"].to_pylist() == list(range(0, ROWS, 2))
    assert copy.read(source, "val")["number"].to_pylist() == list(range(1, ROWS, 2))


def test_a_file_without_a_row_of_the_split_is_not_read(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    splits = {"a": ["train"], "b": ["val"], "c": ["train", "val"], "d": []}
    schema = pa.schema([("image_id", pa.string()), ("split", pa.string())])
    for name, held in splits.items():
        rows = [{"image_id": name, "split": split} for split in held]
        storage.write_table(str(tmp_path / "source" / f"{name}.parquet"), pa.Table.from_pylist(rows, schema))
    read: list[str] = []
    whole = storage.read_table
    monkeypatch.setattr(storage, "read_table", lambda path: (read.append(pathlib.Path(path).stem), whole(path))[1])
    for split, expected in {"train": ["a", "c"], "val": ["b", "c"], "test": []}.items():
        read.clear()
        copy = LocalCopy("run/srgan", split, "png").read(str(tmp_path / "source"), split)
        assert copy["image_id"].to_pylist() == expected
        assert set(expected) <= set(read) <= {*expected, "d"}, "d does not say what it has"


def test_a_copy_that_takes_long_says_how_far_it_is_and_how_long_it_will_take(
    source: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(terminal, "SECONDS_PER_LINE", 0.0)
    with caplog.at_level(logging.INFO, "ranksr"):
        LocalCopy("run/srgan", "1", "png").read(source, "train")
    first, *_, last = (record.getMessage() for record in caplog.records)
    assert first.startswith("source, train: copy to this node: MB 2/4, ")
    assert first.endswith(" s left")
    assert last.startswith("source, train: copy to this node: MB 4/4, ")


def test_a_worker_maps_the_copy_instead_of_reading_it_into_its_memory(source: str) -> None:
    copy = LocalCopy("run/srgan", "1", "png")
    copy.read(source, "train")
    before = pa.total_allocated_bytes()
    table = LocalCopy("run/srgan", "1", "png").read(source, "train")
    assert table.nbytes > ROWS // 2 * ROW_BYTES
    assert pa.total_allocated_bytes() - before < ROW_BYTES


def test_rows_of_many_parts_share_a_batch_of_the_copy_up_to_its_size(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = LocalCopy("run/srgan", "1", "png").read(source, "train")
    assert one["png"].num_chunks == 1
    monkeypatch.setattr(local_copy, "BATCH_BYTES", ROW_BYTES)
    several = LocalCopy("run/srgan", "2", "png").read(source, "train")
    assert several["png"].num_chunks == 2  # a part is never divided
    assert one.combine_chunks().equals(several.combine_chunks())


def test_each_part_of_a_million_rows_is_measured_once_on_its_way_into_a_batch() -> None:
    measured: list[int] = []

    class Part:
        """A table that notes when it is asked for its size."""

        def __init__(self, number: int) -> None:
            self.number, self.table = number, pa.table({"number": [number]})

        @property
        def nbytes(self) -> int:
            measured.append(self.number)
            return self.table.nbytes

    def joined(parts: list[Part]) -> pa.Table:
        return pa.Table.from_batches([batch for part in parts for batch in part.table.to_batches()])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(local_copy.pa, "concat_tables", joined)
        (batch,) = local_copy._batches(Part(number) for number in range(1000))
    assert measured == batch["number"].to_pylist() == list(range(1000))


@pytest.fixture
def pictures(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Parquet file with the PNGs of a smooth picture, alone and in a list, of both splits; a temporary folder."""
    (tmp_path / "node").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    rows = []
    for number in range(10):
        image = np.full((24, 16 + number, 3), number, np.uint8)
        pngs = [images.encode_png(image + add) for add in range(3)]
        split = ("train", "val")[number > 6]
        rows.append({"image_id": str(number), "split": split, "hr": pngs[0], "pngs": pngs, "niqe": [1.0, 2.0, 3.0]})
    storage.write_table(str(tmp_path / "source" / "part-0.parquet"), pa.Table.from_pylist(rows))
    return str(tmp_path / "source")


def pixels_of(table: pa.Table) -> list[list[np.ndarray]]:
    return [
        [images.decode(each.as_buffer()) for each in (hr, *pngs.values)]
        for hr, pngs in zip(table["hr"], table["pngs"], strict=True)
    ]


@pytest.mark.parametrize("split", ["train", "val"])
def test_raw_pixels_are_those_of_the_pngs_and_all_else_stays(pictures: str, split: str) -> None:
    raw, png = (LocalCopy("run/srgan", kind, kind).read(pictures, split) for kind in ("raw", "png"))
    assert raw.drop(["hr", "pngs"]).equals(png.drop(["hr", "pngs"]))
    assert raw["hr"][0].as_py().startswith(images.RAW)
    assert png["hr"][0].as_py().startswith(b"\x89PNG")
    for found, expected in zip(pixels_of(raw), pixels_of(png), strict=True):
        assert len(found) == 4
        assert all(map(np.array_equal, found, expected))
        assert all(each.flags.writeable for each in found)


@pytest.mark.parametrize(("free", "starts"), [(10**9, images.RAW), (100, b"\x89PNG")])
def test_pixels_are_raw_where_they_take_no_more_than_half_of_the_free_disk(
    pictures: str, monkeypatch: pytest.MonkeyPatch, free: int, starts: bytes
) -> None:
    asked: list[pathlib.Path] = []
    usage = types.SimpleNamespace(free=free)
    monkeypatch.setattr(local_copy.shutil, "disk_usage", lambda folder: (asked.append(folder), usage)[1])
    copy = LocalCopy("run/srgan", "1")
    assert copy.read(pictures, "train")["hr"][0].as_py().startswith(starts)
    assert asked == [copy.folder]


def test_a_disk_that_fills_up_under_raw_pixels_gets_the_pngs(
    pictures: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images, "encode_raw", full)
    with caplog.at_level(logging.WARNING, logger="ranksr"):
        assert LocalCopy("run/srgan", "1").read(pictures, "train")["hr"][0].as_py().startswith(b"\x89PNG")
    assert "no room for raw pixels" in caplog.text
    assert [path.suffix for path in LocalCopy("run/srgan", "1").folder.iterdir() if path.name != "lock"] == [".arrow"]


def test_a_removed_copy_leaves_no_file_and_can_still_be_read(source: str) -> None:
    copy = LocalCopy("run/srgan", "1", "png")
    table = copy.read(source, "val")
    copy.remove()
    copy.remove()  # by the other worker
    assert list(pathlib.Path(tempfile.gettempdir()).iterdir()) == []
    assert table["number"].to_pylist() == list(range(1, ROWS, 2))
    assert len(table["png"][3].as_py()) == ROW_BYTES


def test_what_a_killed_start_of_the_same_training_left_is_deleted_by_the_next(source: str) -> None:
    killed, other = LocalCopy("run/srgan", "1", "png"), LocalCopy("run/ranksrgan", "1", "png")
    killed.read(source, "val")
    other.read(source, "val")
    LocalCopy("run/srgan", "2", "png")
    assert not killed.folder.exists()
    assert other.folder.exists()


def test_without_room_the_rows_are_read_into_memory_and_the_remedy_is_logged(
    source: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", f"{source}/part-0.parquet")  # a file: no folder can be made in it
    with caplog.at_level(logging.WARNING, logger="ranksr"):
        assert LocalCopy("run/srgan", "1", "png").read(source, "val")["number"].to_pylist() == list(range(1, ROWS, 2))
    assert "set TMPDIR to a folder with room" in caplog.text


def test_a_folder_without_a_parquet_file_is_named(source: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="no Parquet file in .*empty"):
        LocalCopy("run/srgan", "1", "png").read(str(tmp_path / "empty"), "val")
