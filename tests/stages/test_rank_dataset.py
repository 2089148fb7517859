"""The rank dataset: which locations it holds, what it does about bad files, the same bytes however it is made."""

import collections
import pathlib
import shutil
from collections.abc import Mapping
from types import MappingProxyType

import cv2
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest

from ranksr import checkpoints, images, metrics, storage
from ranksr.config import Config
from ranksr.data import parts, sources, upscale
from ranksr.errors import UserError
from ranksr.metrics.engine import Judge
from ranksr.models import build_generator
from ranksr.stages import rank_dataset

METHODS = {"bicubic": "bicubic"}


@pytest.fixture(scope="module")
def judge(photographs: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """NIQE with a model fitted on the photographs."""
    grays = [metrics.to_gray(sources.read_photo(str(path))) for path in photographs.iterdir()]
    path = tmp_path_factory.mktemp("niqe") / "niqe.npz"
    metrics.save_niqe_model(metrics.fit_niqe_model(grays), str(path))
    return Judge("pirm", str(path), None)


def make(
    folder: pathlib.Path,
    source: pathlib.Path,
    demo: Config,
    judge: Judge,
    made: Mapping[str, str] = METHODS,
    folders: Mapping[str, str] | None = None,
    upscalers: int = 1,
    finished: rank_dataset.Finished | None = None,
    fingerprints: Mapping[str, str] = MappingProxyType({"bicubic": "f1"}),
    **changes: object,
) -> dict:
    """A rank dataset of the photographs of `source`; `changes` are fields of Data and RankDataset."""
    on_bad = {key: changes.pop(key) for key in ("on_bad_image", "max_bad_fraction") if key in changes}
    data = demo.data.model_copy(update={"images_per_part": 2, **on_bad})
    rules = demo.rank_dataset.model_copy(
        update={"patch_px": 200, "stride_px": 20, "min_sigma": 0, "methods": tuple(made), **changes}
    )
    return rank_dataset.write_rank_dataset(
        str(folder),
        sources.list_photos(str(source)),
        data,
        rules,
        rank_dataset.Made(made, folders or {}, fingerprints),
        ("niqe",),
        judge,
        upscale.Upscalers(upscalers, 0),
        seed=0,
        finished=finished,
    )


def test_a_cap_keeps_locations_from_all_over_the_image() -> None:
    corners = [(number, 0) for number in range(100)]
    assert rank_dataset._spread(corners, 3) == [(0, 0), (50, 0), (99, 0)]
    assert rank_dataset._spread(corners, 0) == corners


@pytest.mark.ray
def test_a_row_holds_a_location_by_every_method(
    ray_cluster: None, tmp_path: pathlib.Path, photographs: pathlib.Path, demo: Config, judge: Judge
) -> None:
    results = make(tmp_path / "a", photographs, demo, judge)
    table = storage.read_table(str(tmp_path / "a"))
    assert results["rows"] == table.num_rows == 3 * 9
    row = table.slice(4, 1).to_pylist()[0]
    assert row["methods"] == ["bicubic", "hr"]
    assert dict(row["fingerprints"]) == {"bicubic": "f1"}
    assert row["profile"] == "pirm"
    hr = images.decode((photographs / f"{row['image_id']}.png").read_bytes())
    at = slice(row["y"], row["y"] + 200), slice(row["x"], row["x"] + 200)
    bicubic = images.upscale_bicubic(images.downscale(hr))
    for png, score, picture in zip(row["pngs"], row["niqe"], (bicubic, hr), strict=True):
        assert np.array_equal(images.decode(png), picture[at])
        assert score == pytest.approx(metrics.score_niqe(picture[at], model=judge.niqe_model))
    split = collections.defaultdict(set)
    for each in table.select(["image_id", "split"]).to_pylist():
        split[each["image_id"]].add(each["split"])
    assert sorted(map(sorted, split.values())) == [["train"], ["train"], ["val"]]  # whole images


@pytest.mark.ray
def test_the_bytes_do_not_depend_on_the_number_of_workers(
    ray_cluster: None, tmp_path: pathlib.Path, photographs: pathlib.Path, demo: Config, judge: Judge
) -> None:
    for upscalers in (1, 2):
        make(tmp_path / str(upscalers), photographs, demo, judge, upscalers=upscalers)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).glob("part-*")} for name in "12")
    assert len(one) == 2
    assert one == two


@pytest.mark.ray
def test_one_method_more_costs_one_method_and_gives_the_bytes_of_a_dataset_from_nothing(
    ray_cluster: None, tmp_path: pathlib.Path, photographs: pathlib.Path, demo: Config, judge: Judge
) -> None:
    network = build_generator(demo.methods["srresnet"].generator)
    more, both = str(tmp_path / "more.pt"), {"bicubic": "f1", "more": "f2"}
    checkpoints.save_generator(more, demo.methods["srresnet"].generator, network.state_dict(), {})
    made = {"bicubic": "bicubic", "more": more}
    rules = {"min_sigma": 1.0, "max_locations_per_image": 3}
    make(tmp_path / "first", photographs, demo, judge, **rules)
    expected = make(tmp_path / "whole", photographs, demo, judge, made, fingerprints=both, **rules)
    # What is taken over is not made again: marked scores would come out otherwise.
    first = tmp_path / "first"
    finished = rank_dataset.Finished(str(first), ("bicubic", "hr"))
    found = make(tmp_path / "grown", photographs, demo, judge, made, finished=finished, fingerprints=both, **rules)
    assert found == expected
    grown, whole = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("part-*")} for name in ("grown", "whole")
    )
    assert grown == whole
    for path in first.glob("part-*"):
        table = storage.read_table(str(path))
        marked = pa.array([[99.0] * len(row) for row in table["niqe"].to_pylist()], pa.list_(pa.float64()))
        table = table.set_column(table.schema.get_field_index("niqe"), "niqe", marked)
        storage.write_table(str(path), table)
    make(tmp_path / "marked", photographs, demo, judge, made, finished=finished, fingerprints=both, **rules)
    assert {(row[0], row[2]) for row in storage.read_table(str(tmp_path / "marked"))["niqe"].to_pylist()} == {(99, 99)}


@pytest.mark.ray
def test_every_filter_counts_what_it_takes_away(
    ray_cluster: None, tmp_path: pathlib.Path, photographs: pathlib.Path, demo: Config, judge: Judge
) -> None:
    half = tmp_path / "photos"
    shutil.copytree(photographs, half)
    (half / "flat.png").write_bytes(images.encode_png(np.full((240, 240, 3), 128, np.uint8)))
    made = make(tmp_path / "all", half, demo, judge, min_sigma=1.0, max_locations_per_image=4)
    assert made["counts"] == {"grid": 36, "flat": 9, "over_cap": 15, "within_gap": 0}
    values = np.array(storage.read_table(str(tmp_path / "all"))["niqe"].to_pylist())
    middle = float(np.median(np.abs(values[:, 0] - values[:, 1])))
    gap = demo.rank_dataset.model_validate(
        {**demo.rank_dataset.model_dump(), "gap": {"methods": ["bicubic", "hr"], "more_than": middle, "metric": "niqe"}}
    ).gap
    made = make(tmp_path / "gap", half, demo, judge, min_sigma=1.0, max_locations_per_image=4, gap=gap)
    assert made["counts"]["within_gap"] == 6
    assert made["rows"] == 6
    values = np.array(storage.read_table(str(tmp_path / "gap"))["niqe"].to_pylist())
    assert (np.abs(values[:, 0] - values[:, 1]) > middle).all()


def bad_folder(folder: pathlib.Path, photographs: pathlib.Path) -> dict[str, str]:
    """Photographs of every kind in `folder`; what must be rejected, by file name, with words of the reason."""
    png = (photographs / "coffee.png").read_bytes()
    image = PIL.Image.open(photographs / "coffee.png")
    image.save(folder / "lossy.jpg", quality=95)
    jpg = (folder / "lossy.jpg").read_bytes()
    for mode, name in (("L", "grey.png"), ("P", "palette.png"), ("RGBA", "alpha.png"), ("CMYK", "cmyk.jpg")):
        image.convert(mode).save(folder / name)
    deep = np.asarray(image).astype(np.uint16)[:, :, ::-1] * 257
    (folder / "16 bit.png").write_bytes(cv2.imencode(".png", deep)[1].tobytes())
    exif = PIL.Image.Exif()
    exif[0x0112] = 8
    image.resize((280, 220)).save(folder / "turned.jpg", exif=exif)
    image.save(folder / "animated.webp", save_all=True, append_images=[image], lossless=True)
    (folder / "good.png").write_bytes(png)
    (folder / "ü and a space.png").write_bytes(png)
    (folder / "sub").mkdir()
    (folder / "sub" / "good.png").write_bytes(png)
    (folder / "notes.txt").write_text("no photograph")
    (folder / "truncated.jpg").write_bytes(jpg[: len(jpg) // 2])
    (folder / "half.png").write_bytes(png[: len(png) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no image")
    image.crop((0, 0, 1, 240)).save(folder / "narrow.png")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "pipe.png").mkdir()
    return {
        "truncated.jpg": "truncated",
        "half.png": "truncated",
        "empty.png": "is empty",
        "text.png": "no image",
        "narrow.png": "1x240 px, under 4 px",
        "gone.png": "nowhere.png, which does not exist",
    }


@pytest.mark.ray
def test_what_can_be_read_is_read_and_the_rest_is_rejected_by_name(
    ray_cluster: None, tmp_path: pathlib.Path, photographs: pathlib.Path, demo: Config, judge: Judge
) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    bad = bad_folder(source, photographs)
    made = make(tmp_path / "a", source, demo, judge, max_bad_fraction=0.5)
    rejected = storage.read_table(str(tmp_path / "a" / "rejected" / "rejected.parquet")).to_pylist()
    assert {pathlib.Path(entry["path"]).name for entry in rejected} == set(bad)
    for entry in rejected:
        assert bad[pathlib.Path(entry["path"]).name] in entry["reason"]
    good = {
        "lossy", "good", "sub/good", "grey", "palette", "alpha", "cmyk", "16 bit", "turned", "animated",
        "ü and a space",
    }  # fmt: skip
    table = storage.read_table(str(tmp_path / "a"))
    assert set(table["image_id"].to_pylist()) == good
    assert made["images"] == len(good) + len(bad)
    assert made["rejected"] == len(bad)
    rows = table.to_pylist()
    reference = next(row for row in rows if row["image_id"] == "good")
    for name in ("sub/good", "16 bit", "alpha", "animated", "ü and a space"):
        same = next(row for row in rows if row["image_id"] == name)
        assert same["pngs"] == reference["pngs"]
    turned = max(row["y"] for row in rows if row["image_id"] == "turned")
    assert turned == 80  # 280 px high once it stands upright


@pytest.mark.ray
def test_more_bad_files_may_be_allowed_afterwards_and_what_is_made_stays(
    ray_cluster: None, tmp_path: pathlib.Path, photographs: pathlib.Path, demo: Config, judge: Judge
) -> None:
    source = tmp_path / "photos"
    shutil.copytree(photographs, source)
    (source / "zero.png").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"1 of the 4 images read so far cannot be used \(.*zero.png: the file is empty\)"
    ):
        make(tmp_path / "a", source, demo, judge, max_bad_fraction=0.1)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("part-*")}
    assert kept
    assert make(tmp_path / "a", source, demo, judge, max_bad_fraction=0.3)["rows"] == 27
    assert {name: (tmp_path / "a" / name).stat().st_mtime_ns for name in kept} == kept


@pytest.mark.ray
def test_a_job_gives_up_when_too_many_files_are_bad(
    ray_cluster: None, tmp_path: pathlib.Path, photographs: pathlib.Path, demo: Config, judge: Judge
) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for number in range(60):
        (source / f"{number:02d}.png").write_bytes(b"")
    (source / "99.png").write_bytes((photographs / "coffee.png").read_bytes())
    with pytest.raises(
        UserError, match=r"\d+ of the \d+ images read so far cannot be used \(.*/00.png: the file is empty"
    ):
        make(tmp_path / "a", source, demo, judge, on_bad_image="fail")
    assert len(list((tmp_path / "a").glob("part-*"))) < 28  # it did not look at all 31 parts


@pytest.mark.ray
def test_photographs_that_no_patch_fits_into_are_listed_and_no_bad_files(
    ray_cluster: None, tmp_path: pathlib.Path, photographs: pathlib.Path, demo: Config, judge: Judge
) -> None:
    """The stage `patches` takes them: to remove them afterwards would mean to build it again."""
    source = shutil.copytree(photographs, tmp_path / "photos")
    whole = images.decode((source / "coffee.png").read_bytes())
    for number in range(3):
        (source / f"small{number}.png").write_bytes(images.encode_png(np.ascontiguousarray(whole[: 100 + number])))
    results = make(tmp_path / "a", source, demo, judge, max_bad_fraction=0)
    assert (results["images"], results["rejected"], results["rows"]) == (6, 3, 27)
    rejected = storage.read_table(str(tmp_path / "a" / "rejected")).to_pylist()
    assert {entry["reason"] for entry in rejected} == {"240x100 px is smaller than a patch of 200 px"}
    with pytest.raises(UserError, match=r"3 of the \d images read so far cannot be used \(.*small0.png: 240x100 px is"):
        make(tmp_path / "b", source, demo, judge, on_bad_image="fail")
    for path in photographs.iterdir():
        (source / path.name).unlink()
    with pytest.raises(UserError, match="none of the 3 photographs has a location .*patch_px=200.*lower patch_px"):
        make(tmp_path / "c", source, demo, judge)


@pytest.mark.ray
def test_images_made_elsewhere_stand_beside_ours(
    ray_cluster: None, tmp_path: pathlib.Path, photographs: pathlib.Path, demo: Config, judge: Judge
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for path in photographs.iterdir():
        blurred = images.upscale_bicubic(images.downscale(images.decode(path.read_bytes())))
        (theirs / path.name).write_bytes(images.encode_png(blurred))
    make(tmp_path / "a", photographs, demo, judge, {"theirs": "given", **METHODS}, {"theirs": str(theirs)})
    for row in storage.read_table(str(tmp_path / "a")).to_pylist():
        assert row["methods"] == ["theirs", "bicubic", "hr"]
        assert row["pngs"][0] == row["pngs"][1]
    (theirs / "coffee.png").unlink()
    with pytest.raises(UserError, match="no image of 1 of 3 photographs"):
        make(tmp_path / "b", photographs, demo, judge, {"theirs": "given"}, {"theirs": str(theirs)})


def test_parts_are_bounded_by_the_size_of_their_photographs() -> None:
    sizes = [1, 1, 1, 1, 1, parts.PART_BYTES, 1, parts.PART_BYTES - 1, 1, 3 * parts.PART_BYTES]
    photos = [sources.Photo(str(number), "", size) for number, size in enumerate(sizes)]
    most_images = 10**30  # and no name ends a part
    found = [[int(each.photo.image_id) for each in part] for part in parts.split(parts.describe(photos), most_images)]
    assert found == [[0, 1, 2, 3, 4], [5], [6, 7], [8], [9]]
