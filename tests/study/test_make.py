"""A study of a run: what is written, that names tell nothing, and mistakes that are named."""

import pathlib

import numpy as np
import pytest

from ranksr import cli, images, storage
from ranksr.errors import UserError
from ranksr.study import design
from ranksr.study.make import make, view_of


def picture(folder: pathlib.Path, name: str) -> np.ndarray:
    return images.decode((folder / "pictures" / name).read_bytes())


def test_the_papers_study_asks_pairs_of_every_rival_and_rankings_of_every_image(made: pathlib.Path) -> None:
    items = design.read_items(str(made))
    assert {tuple(item.versions) for item in items.of("pairs")} == {("ranksrgan", "srgan"), ("ranksrgan", "esrgan")}
    assert len(items.of("pairs")) == 12
    assert [set(item.versions) for item in items.of("ranking")] == [{"srresnet", "esrgan", "ranksrgan", "hr"}] * 6
    assert [item.best for item in items.of("pairs", "trap")] == ["hr", "hr"]
    assert (len(items.of("pairs", "practice")), len(items.of("ranking", "practice"))) == (2, 1)


def test_pictures_are_the_runs_and_their_names_and_files_tell_nothing(made: pathlib.Path, run: pathlib.Path) -> None:
    item = design.read_items(str(made)).of("ranking")[2]
    for method, name in item.versions.items():
        stored = storage.read_bytes(f"{run}/evaluation/images/Set6/{method}/{item.image}.png")
        assert np.array_equal(picture(made, name), images.decode(stored))
        assert b"tEXt" not in (made / "pictures" / name).read_bytes()
    every = " ".join(path.name for path in (made / "pictures").iterdir())
    assert not any(word in every for word in ("srgan", "hr", "im2", "esr"))
    assert len({len(path.name) for path in (made / "pictures").iterdir()}) == 1


def test_what_is_shown_is_scored_by_the_runs_metrics_and_rankers(made: pathlib.Path) -> None:
    scores = design.read_items(str(made)).scores["im0"]
    assert scores["ranksrgan"]["niqe"] != scores["srgan"]["niqe"]
    assert scores["ranksrgan"]["ranker:ranker"] != scores["srgan"]["ranker:ranker"]
    assert set(scores["hr"]) == {"niqe", "ranker:ranker"}  # no PSNR of HR with itself
    assert scores["ranksrgan"]["psnr"] > scores["srgan"]["psnr"] > scores["srresnet"]["psnr"]


def test_the_patch_is_where_the_methods_differ_most_and_stays_inside_what_is_shown() -> None:
    hr = np.full((400, 600, 3), 90, np.uint8)
    other = hr.copy()
    other[300:330, 500:530] = 200
    plan = design.Design(picture_px=128, patch_px=32)
    view = view_of({"hr": hr, "a": hr, "b": other}, ["a", "b", "hr"], plan, "image")
    y, x, side = view.patch
    assert (view.height, view.width, side) == (128, 128, 32)
    assert other[view.y + y : view.y + y + side, view.x + x : view.x + x + side].max() == 200
    assert (other[view.y + y : view.y + y + side, view.x + x : view.x + x + side] == 200).mean() > 0.8
    given = design.Design(picture_px=128, patch_px=32, patches={"image": design.Patch(y=0, x=590)})
    view = view_of({"hr": hr, "a": hr, "b": other}, ["a", "b"], given, "image")
    assert (view.y + view.patch[0], view.x + view.patch[1]) == (0, 600 - 32)


def test_a_study_without_a_session_and_with_its_own_texts(run: pathlib.Path, tmp_path: pathlib.Path, capsys) -> None:
    overrides = [
        "ranking=null",
        "pairs.rivals=[srgan]",
        "pairs.question=Which one?",
        "fields={age: 'How old are you?'}",
    ]
    assert cli.main(["study", "make", str(run), *overrides, "--out", str(tmp_path / "new")]) == 0
    assert "6 pairs of 6 images of Set6" in capsys.readouterr().out
    written = design.load_design(str(tmp_path / "new" / "study.yaml"))
    assert written.ranking is None
    assert written.pairs is not None
    assert (written.pairs.question, written.fields) == ("Which one?", {"age": "How old are you?"})


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["pairs.rivals=[nosuch]"], "no pictures of nosuch on Set6"),
        (["pairs.rivals=[srgan, srgan]"], "name srgan twice"),
        (["test_set=Set5"], "choose from Set6"),
        (["pairs=null", "ranking=null"], "a study needs one of them"),
        (["pears.images=3"], "unknown key pears"),
        (["patches={im9: {y: 0, x: 0}}"], "patches names im9"),
    ],
)
def test_a_mistake_is_named_and_leaves_nothing(
    run: pathlib.Path, tmp_path: pathlib.Path, capsys, overrides: list[str], said: str
) -> None:
    assert cli.main(["study", "make", str(run), *overrides, "--out", str(tmp_path / "new")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_folder_that_may_hold_answers_is_left_alone(run: pathlib.Path, study: pathlib.Path) -> None:
    before = sorted(study.rglob("*"))
    with pytest.raises(UserError, match="may hold answers"):
        make(str(run), str(study), design.Design())
    assert sorted(study.rglob("*")) == before


def test_a_run_without_pictures_is_named(tmp_path: pathlib.Path, capsys) -> None:
    assert cli.main(["study", "make", str(tmp_path), "--out", str(tmp_path / "new")]) == 2
    assert "has no pictures yet" in capsys.readouterr().err
