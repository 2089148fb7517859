"""Part files: made once, whole, with the same bytes however often and by however many workers."""

import dataclasses
import pathlib
import re
import weakref

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import ray.exceptions

from ranksr import images, storage
from ranksr.data import parts, sources
from ranksr.errors import UserError
from ranksr.stages import patches

pytestmark = pytest.mark.ray


def count_letters(part: parts.Part) -> parts.Content:
    """A row per photograph; those named bad are rejected."""
    photos = [each.photo for each in part.photos]
    good = [photo for photo in photos if "bad" not in photo.image_id]
    rejected = [parts.Rejected(photo.path, "bad name") for photo in photos if photo not in good]
    return parts.Content([{"image_id": photo.image_id} for photo in good], rejected, {"seen": len(good)})


def make_photos(*names: str) -> list[sources.Photo]:
    return [sources.Photo(name, f"/photos/{name}", digest=f"content of {name}") for name in names]


def run(
    folder: pathlib.Path, names: list[str], per_part: int = 2, photos: list[sources.Photo] | None = None
) -> dict[str, bytes]:
    job = parts.Job("test", str(folder), pa.schema([("image_id", pa.string())]), count_letters, per_part)
    parts.run_job(job, parts.describe(photos or make_photos(*names)))
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


def groups(photos: list[sources.Photo], most_images: int) -> list[list[str]]:
    return [[each.photo.image_id for each in part] for part in parts.split(parts.describe(photos), most_images)]


def plan(
    photos: list[sources.Photo], given: dict[str, str] | None = None, digest: str = "", held_out: str = ""
) -> dict[str, parts.Part]:
    """Of photographs, for each of which another file may be `given` by its path."""
    of_photos = {"theirs": given} if given else {}
    digests = dict.fromkeys((given or {}).values(), digest)
    return parts.plan(parts.describe(photos, of_photos, digests, {held_out}), 2)


def test_each_group_of_photographs_is_one_file(ray_cluster: None, tmp_path: pathlib.Path) -> None:
    assert len(run(tmp_path, list("abcde"))) == len(groups(make_photos(*"abcde"), 2)) >= 3
    assert storage.read_table(str(tmp_path))["image_id"].to_pylist() == list("abcde")


def test_a_job_goes_on_when_the_node_of_rays_own_bookkeeping_is_lost(
    ray_cluster: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = iter([True, False])
    make = parts._make

    def make_once_lost(job: parts.Job, todo: list[parts.Part]) -> bool:
        if next(lost):
            make(job, todo[:1])
            raise ray.exceptions.ActorUnschedulableError("its node doesn't exist any more")
        return make(job, todo)

    monkeypatch.setattr(parts, "_make", make_once_lost)
    assert len(run(tmp_path, list("abcde"))) >= 3
    assert storage.read_table(str(tmp_path))["image_id"].to_pylist() == list("abcde")


def test_a_photograph_that_comes_or_goes_changes_the_parts_around_it_and_no_others() -> None:
    names = [f"{number:04d}" for number in range(2000)]
    before = {tuple(group) for group in groups(make_photos(*names), 4)}
    for gone in names[::97]:
        after = {tuple(group) for group in groups(make_photos(*(name for name in names if name != gone)), 4)}
        assert len(before - after) <= 12, gone
    assert max(map(len, before)) == 4
    assert len(before) < 2000 / 2.5  # not many more than there must be
    assert groups(make_photos(*reversed(names)), 4) == groups(make_photos(*names), 4)
    assert groups(make_photos(*names), 1) == [[name] for name in names]


def test_a_part_is_named_after_all_that_decides_its_rows() -> None:
    one = plan(make_photos("sub/ä b"))
    (name,) = one
    assert re.fullmatch(r"part-sub_b-[0-9a-f]{16}.parquet", name)
    elsewhere = [sources.Photo("sub/ä b", "/moved", 7, digest="content of sub/ä b")]
    assert plan(elsewhere).keys() == one.keys()
    given = {"sub/ä b": "/theirs/b.png"}
    others = [
        plan([sources.Photo("sub/ä b", "/photos/b", digest="mended")]),
        plan(make_photos("sub/ä b"), held_out="sub/ä b"),
        plan(make_photos("sub/ä b"), given, "one"),
        plan(make_photos("sub/ä b"), given, "mended"),
    ]
    assert len({*one, *(name for other in others for name in other)}) == 5


def test_an_unfinished_job_keeps_the_parts_whose_photographs_stay_and_deletes_the_others(
    ray_cluster: None, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos = make_photos(*"abcdefghijkl")
    run(tmp_path, [], photos=photos)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("part-*")}
    mended = dataclasses.replace(photos[5], digest="mended")
    now = [*photos[:5], mended, *photos[6:11], *make_photos("m")]
    with caplog.at_level("INFO", logger="ranksr"):
        made = run(tmp_path, [], photos=now)
    kept = [name for name in before if (path := tmp_path / name).exists() and path.stat().st_mtime_ns == before[name]]
    assert len(before) - 4 <= len(kept) < len(before)
    assert f"test: {len(kept)} of {len(made)} parts stay" in caplog.text
    assert storage.read_table(str(tmp_path))["image_id"].to_pylist() == list("abcdefghijkm")
    assert made == run(tmp_path / "undisturbed", [], photos=now)


def test_a_repeated_job_makes_only_what_is_missing_with_the_same_bytes(
    ray_cluster: None, tmp_path: pathlib.Path
) -> None:
    before = run(tmp_path, list("abcde"))
    first, second = sorted(before)[:2]
    kept = (tmp_path / first).stat().st_mtime_ns
    (tmp_path / second).unlink()
    assert run(tmp_path, list("abcde")) == before
    assert (tmp_path / first).stat().st_mtime_ns == kept


def test_rejected_files_are_listed_and_counts_added(ray_cluster: None, tmp_path: pathlib.Path) -> None:
    run(tmp_path, ["a", "b", "c", "bad1", "d"])
    collected = parts.collect(str(tmp_path), "skip", 0.5)
    assert collected == {"images": 5, "rejected": 1, "rows": 4, "counts": {"seen": 4}}
    assert storage.read_table(str(tmp_path / "rejected" / "rejected.parquet")).to_pylist() == [
        {"path": "/photos/bad1", "reason": "bad name"}
    ]


class Footer:
    """A footer of Parquet that can be counted."""

    def __init__(self, footer: pyarrow.parquet.FileMetaData) -> None:
        self.metadata, self.num_rows = footer.metadata, footer.num_rows


def test_footers_of_a_large_folder_are_read_without_being_kept(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = pa.schema([("image_id", pa.string())])
    for name, part in parts.plan(parts.describe(make_photos(*(f"{number:04d}" for number in range(400)))), 1).items():
        content = parts.Content([{"image_id": name}] * 2, [], {"seen": 1})
        parts.write_part(str(tmp_path), schema, part, content)
    read, kept, most = storage.read_parquet_footer, weakref.WeakSet[Footer](), 0

    def watched(path: str) -> Footer:
        nonlocal most
        seen = Footer(read(path))
        kept.add(seen)
        most = max(most, len(kept))
        return seen

    monkeypatch.setattr(storage, "read_parquet_footer", watched)
    found = parts.collect(str(tmp_path), "skip", 0.5)
    assert found == {"images": 400, "rejected": 0, "rows": 800, "counts": {"seen": 400}}
    assert most <= 2 * 32 + 1


@pytest.mark.parametrize(("on_bad", "fraction"), [("fail", 1.0), ("skip", 0.1)])
def test_too_many_bad_files_stop_the_run_by_name(
    ray_cluster: None, tmp_path: pathlib.Path, on_bad: str, fraction: float
) -> None:
    folder = tmp_path / "stage"
    run(folder, ["a", "bad1", "c"], per_part=1)
    with pytest.raises(UserError, match=r"1 of the 3 images read so far cannot be used \(/photos/bad1: bad name\)"):
        parts.collect(str(folder), on_bad, fraction)
    left = sorted(path.name.split("-")[1] for path in folder.glob("part-*"))
    assert left == ["a", "c"]  # mended files are looked at again


def test_patches_are_aligned_and_carry_their_split(
    ray_cluster: None, tmp_path: pathlib.Path, photographs: pathlib.Path, demo
) -> None:
    data = demo.data.model_copy(update={"sub_image_px": 120, "sub_image_stride_px": 100})
    results = patches.write_patches(str(tmp_path), sources.list_photos(str(photographs)), data, seed=0)
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
