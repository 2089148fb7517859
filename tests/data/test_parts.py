"""Part files: made once, whole, with the same bytes however often and by however many workers."""

import pathlib

import numpy as np
import pyarrow as pa
import pytest

from ranksr import images, storage
from ranksr.config import UserError
from ranksr.data import parts, patches, sources

pytestmark = pytest.mark.ray


def count_letters(part: parts.Row) -> parts.Row:
    """A row per photograph; those named bad are rejected."""
    good = [photo for photo in part["photos"] if "bad" not in photo["image_id"]]
    rejected = [{"path": photo["path"], "reason": "bad name"} for photo in part["photos"] if photo not in good]
    return {
        **part,
        "rows": [{"image_id": photo["image_id"]} for photo in good],
        "rejected": rejected,
        "counts": {"seen": len(good)},
    }


def run(folder: pathlib.Path, names: list[str], per_part: int = 2) -> dict[str, bytes]:
    photos = [sources.Photo(name, f"/photos/{name}") for name in names]
    sink = parts.PartSink(str(folder), pa.schema([("image_id", pa.string())]))
    parts.run_job("test", photos, per_part, count_letters, sink)
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


def test_each_group_of_photographs_is_one_file(ray_cluster: None, tmp_path: pathlib.Path) -> None:
    assert sorted(run(tmp_path, list("abcde"))) == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert storage.read_table(str(tmp_path))["image_id"].to_pylist() == list("abcde")


def test_a_repeated_job_makes_only_what_is_missing_with_the_same_bytes(
    ray_cluster: None, tmp_path: pathlib.Path
) -> None:
    before = run(tmp_path, list("abcde"))
    kept = (tmp_path / "part-00000.parquet").stat().st_mtime_ns
    (tmp_path / "part-00001.parquet").unlink()
    assert run(tmp_path, list("abcde")) == before
    assert (tmp_path / "part-00000.parquet").stat().st_mtime_ns == kept


def test_a_job_of_many_parts_goes_in_several_executions(
    ray_cluster: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PARTS_AT_ONCE", 2)
    assert len(run(tmp_path, list("abcdefghi"))) == 5
    assert storage.read_table(str(tmp_path))["image_id"].to_pylist() == list("abcdefghi")


def test_rejected_files_are_listed_and_counts_added(ray_cluster: None, tmp_path: pathlib.Path) -> None:
    run(tmp_path, ["a", "b", "c", "bad1", "d"])
    collected = parts.collect(str(tmp_path), "skip", 0.5)
    assert collected == {"images": 5, "rejected": 1, "rows": 4, "counts": {"seen": 4}}
    assert storage.read_table(str(tmp_path / "rejected" / "rejected.parquet")).to_pylist() == [
        {"path": "/photos/bad1", "reason": "bad name"}
    ]


@pytest.mark.parametrize(("on_bad", "fraction"), [("fail", 1.0), ("skip", 0.1)])
def test_too_many_bad_files_stop_the_run_by_name(
    ray_cluster: None, tmp_path: pathlib.Path, on_bad: str, fraction: float
) -> None:
    folder = tmp_path / "stage"
    run(folder, ["a", "bad1", "c"])
    with pytest.raises(UserError, match=r"1 of the 3 images read so far cannot be used \(/photos/bad1: bad name\)"):
        parts.collect(str(folder), on_bad, fraction)
    assert [path.name for path in folder.glob("part-*")] == ["part-00001.parquet"]  # mended files are looked at again


def test_patches_are_aligned_and_carry_their_split(
    ray_cluster: None, tmp_path: pathlib.Path, photographs: pathlib.Path, demo
) -> None:
    data = demo.data.model_copy(update={"hr": str(photographs), "sub_image_px": 120, "sub_image_stride_px": 100})
    results = patches.write_patches(str(tmp_path), data, smallest_px=96, seed=0)
    rows = storage.read_table(str(tmp_path)).to_pylist()
    assert results["rows"] == len(rows) == 3 * 9
    assert {row["split"] for row in rows} == {"train", "val"}
    whole = images.decode((photographs / "coffee.png").read_bytes())
    for row in rows:
        hr, lr = images.decode(row["hr"]), images.decode(row["lr"])
        assert (hr.shape, lr.shape) == ((120, 120, 3), (30, 30, 3))
        if row["image_id"] == "coffee":
            assert np.array_equal(hr, whole[row["y"] : row["y"] + 120, row["x"] : row["x"] + 120])
            at = slice(row["y"] // 4, row["y"] // 4 + 30), slice(row["x"] // 4, row["x"] // 4 + 30)
            assert np.array_equal(lr, images.downscale(whole)[at])  # LR is made of the whole photograph, not of the cut
