"""GrowingCopy: patches are the same before, while and after they are copied, and each is copied once."""

import errno
import logging
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from ranksr import images, storage, terminal
from ranksr.data import growing_copy, local_copy
from ranksr.data.labels import Patches
from ranksr.data.local_copy import LocalCopy

METHODS = 3


@pytest.fixture
def source(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Three Parquet files of 20 locations each in row groups of 4, the first by name with the last images; every third
    photograph, of two locations, is one of validation. Its copies grow, into a folder of the test's own."""
    (tmp_path / "node").mkdir()
    (tmp_path / "source").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    monkeypatch.setattr(local_copy, "GROWS_FROM_BYTES", 0)
    rng = np.random.default_rng(0)
    for part in range(3):
        rows = [
            {
                "image_id": f"{number // 2:02d}",
                "split": "val" if number // 2 % 3 == 0 else "train",
                "number": number,
                "pngs": [images.encode_png(rng.integers(0, 256, (8, 9, 3), np.uint8)) for _ in range(METHODS)],
            }
            for number in range(part * 20, (part + 1) * 20)
        ]
        path = tmp_path / "source" / f"part-{2 - part}.parquet"
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
    return str(tmp_path / "source")


@pytest.fixture
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is copied."""
    monkeypatch.setattr(growing_copy, "_num_threads", lambda: 0)


Open = Callable[..., growing_copy.GrowingCopy]


@pytest.fixture
def opened(source: str) -> Iterator[Open]:
    """A worker's patches of a split."""
    copies = list[LocalCopy]()

    def read(split: str, pixels: Literal["raw", "png"] = "raw") -> growing_copy.GrowingCopy:
        copies.append(LocalCopy("run/ranker", "1", pixels))
        _, patches = copies[-1].read_labelled(source, split)
        assert isinstance(patches, growing_copy.GrowingCopy)
        return patches

    yield read
    for copy in copies:
        copy.remove()
        copy.close()
    assert list(pathlib.Path(tempfile.gettempdir()).iterdir()) == []


def same(patches: Patches, source: str, split: str) -> bool:
    """Whether patches are those of the Parquet files, in another order than theirs."""
    expected = pa.concat_tables(local_copy.read_parts(source, split))["pngs"].to_pylist()
    return all(
        np.array_equal(images.decode(patches.stored(location, column)), images.decode(expected[location][column]))
        for location in np.random.default_rng(1).permutation(len(expected)).tolist()
        for column in range(METHODS)
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_rows_and_their_patches_are_there_before_anything_is_copied(
    source: str, opened: Open, split: str, at_rest: None
) -> None:
    patches = opened(split)
    expected = pa.concat_tables(local_copy.read_parts(source, split)).drop_columns(["pngs"])
    assert patches.table.combine_chunks().equals(expected.combine_chunks())
    assert same(patches, source, split)
    assert not patches._places[:-2].any()


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("pixels", ["raw", "png"])
def test_a_whole_copy_has_the_patches_of_its_split_and_no_parquet_file_is_opened_any_more(
    source: str, opened: Open, split: str, pixels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = opened(split, pixels)
    patches.wait()
    assert patches._places[:-2].all()
    with monkeypatch.context() as gone:
        gone.setattr(storage, "open_parquet", None)
        stored = bytes(patches.stored(0, 0))
        assert stored.startswith(images.RAW if pixels == "raw" else b"\x89PNG")
        drawn = [bytes(patches.stored(place, 1)) for place in range(len(patches.table))]
    assert same(patches, source, split)
    assert len(set(drawn)) == len(drawn) == {"train": 40, "val": 20}[split]


def test_workers_of_a_node_copy_each_group_once_and_draw_meanwhile(
    source: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended, append = list[int](), growing_copy.GrowingCopy._append

    def slowly(self: growing_copy.GrowingCopy, group: int) -> None:
        time.sleep(0.02)
        appended.append(group)
        append(self, group)

    monkeypatch.setattr(growing_copy.GrowingCopy, "_append", slowly)
    monkeypatch.setattr(growing_copy, "_num_threads", lambda: 3)
    one, other = opened("train"), opened("train")
    for _ in range(3):
        assert same(one, source, "train")
        assert same(other, source, "train")
    for each in (one, other):
        each.wait()
        assert same(each, source, "train")
    assert sorted(appended) == list(range(len(one._places) - 2))
    starts = np.sort(one._places[:-2])
    assert (np.diff(starts) > 0).all()


def test_nothing_is_left_by_a_worker_that_is_killed(source: str, opened: Open, at_rest: None) -> None:
    patches = opened("train")
    LocalCopy("run/ranker", "1").remove()
    assert list(pathlib.Path(tempfile.gettempdir()).iterdir()) == []
    patches._copy()  # goes on without a name
    assert patches._places[:-2].all()
    assert same(patches, source, "train")


@pytest.mark.parametrize("cause", ["disk", "ratio"])
def test_where_the_disk_is_full_the_rest_is_read_at_each_draw(
    source: str, opened: Open, cause: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written, pwrite = list[int](), os.pwrite

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        written.append(offset)
        if len(written) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, data[:100], offset)  # nor need it take all at once

    if cause == "disk":
        monkeypatch.setattr(os, "pwrite", full)
    else:
        monkeypatch.setattr(growing_copy, "HIGHEST_RATIO", 0)
    with caplog.at_level(logging.WARNING, logger="ranksr"):
        patches = opened("train")
        patches.wait()
    assert not patches._places[:-2].all()
    assert same(patches, source, "train")
    assert "source, train: copy to this node ends here, what is missing is read at each draw" in caplog.text


def test_a_closed_copy_copies_no_more(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing_copy.GrowingCopy, "_append", lambda *_: time.sleep(0.05))
    patches = opened("train")
    patches.close()
    assert not any(thread.is_alive() for thread in patches._threads)
    assert patches._places[-1] < len(patches._places) - 2


def test_one_of_the_workers_says_how_far_the_copy_is(
    opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(terminal, "SECONDS_PER_LINE", 0.0)
    with caplog.at_level(logging.INFO, "ranksr"):
        opened("train").wait()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("source, train: copy to this node: MB ")
    assert lines[0].endswith(" left")


def test_a_small_rank_dataset_is_copied_before_the_first_step(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_copy, "GROWS_FROM_BYTES", 10**9)
    table, patches = LocalCopy("run/ranker", "1").read_labelled(source, "train")
    assert "pngs" in table.column_names
    assert same(patches, source, "train")
