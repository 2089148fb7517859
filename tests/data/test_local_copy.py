"""LocalCopy: one mapped file for all workers of a node, and nothing left of it."""

import logging
import pathlib
import tempfile

import numpy as np
import pyarrow as pa
import pytest

from ranksr import storage
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
    copy = LocalCopy("run/srgan", "1")
    assert copy.read(source, "train")["number"].to_pylist() == list(range(0, ROWS, 2))
    assert copy.read(source, "val")["number"].to_pylist() == list(range(1, ROWS, 2))


def test_a_worker_maps_the_copy_instead_of_reading_it_into_its_memory(source: str) -> None:
    copy = LocalCopy("run/srgan", "1")
    copy.read(source, "train")
    before = pa.total_allocated_bytes()
    table = LocalCopy("run/srgan", "1").read(source, "train")
    assert table.nbytes > ROWS // 2 * ROW_BYTES
    assert pa.total_allocated_bytes() - before < ROW_BYTES


def test_rows_of_many_parts_share_a_batch_of_the_copy_up_to_its_size(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = LocalCopy("run/srgan", "1").read(source, "train")
    assert one["png"].num_chunks == 1
    monkeypatch.setattr(local_copy, "BATCH_BYTES", ROW_BYTES)
    several = LocalCopy("run/srgan", "2").read(source, "train")
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


def test_a_removed_copy_leaves_no_file_and_can_still_be_read(source: str) -> None:
    copy = LocalCopy("run/srgan", "1")
    table = copy.read(source, "val")
    copy.remove()
    copy.remove()  # by the other worker
    assert list(pathlib.Path(tempfile.gettempdir()).iterdir()) == []
    assert table["number"].to_pylist() == list(range(1, ROWS, 2))
    assert len(table["png"][3].as_py()) == ROW_BYTES


def test_what_a_killed_start_of_the_same_training_left_is_deleted_by_the_next(source: str) -> None:
    killed, other = LocalCopy("run/srgan", "1"), LocalCopy("run/ranksrgan", "1")
    killed.read(source, "val")
    other.read(source, "val")
    LocalCopy("run/srgan", "2")
    assert not killed.folder.exists()
    assert other.folder.exists()


def test_without_room_the_rows_are_read_into_memory_and_the_remedy_is_logged(
    source: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", f"{source}/part-0.parquet")  # a file: no folder can be made in it
    with caplog.at_level(logging.WARNING, logger="ranksr"):
        assert LocalCopy("run/srgan", "1").read(source, "val")["number"].to_pylist() == list(range(1, ROWS, 2))
    assert "set TMPDIR to a folder with room" in caplog.text


def test_a_folder_without_a_parquet_file_is_named(source: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="no Parquet file in .*empty"):
        LocalCopy("run/srgan", "1").read(str(tmp_path / "empty"), "val")
