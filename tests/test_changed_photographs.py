"""Photographs that change between two starts of a command: an unfinished stage goes on, a finished one refuses."""

import logging
import pathlib
import shutil

import numpy as np
import pytest

from ranksr import cli, images, metrics, session, storage
from ranksr.data import sources

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NAMES = [f"{number:02d}" for number in range(12)]


@pytest.fixture
def photos(tmp_path: pathlib.Path) -> pathlib.Path:
    """Twelve photographs of 240 px; the fifth is truncated."""
    folder = tmp_path / "photos"
    folder.mkdir()
    whole = sources.read_photo("skimage:astronaut")
    for number, name in enumerate(NAMES):
        crop = np.ascontiguousarray(whole[10 * number : 10 * number + 240, 20 * number : 20 * number + 240])
        (folder / f"{name}.png").write_bytes(images.encode_png(crop))
    (tmp_path / "whole.png").write_bytes((folder / "04.png").read_bytes())
    (folder / "04.png").write_bytes((folder / "04.png").read_bytes()[:5000])
    return folder


@pytest.fixture
def command(
    root: pathlib.Path,
    tiny: list[str],
    photos: pathlib.Path,
    ray_cluster: None,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Runs `ranksr NAME` on the photographs, in the Ray of the tests; gives exit code and what was said."""
    monkeypatch.setattr(session, "init_ray", lambda *_: None)
    monkeypatch.setenv("RANKSR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "cup.png").write_bytes(
        images.encode_png(sources.read_photo("skimage:coffee")[60:300, 160:400])
    )

    def run(name: str, *overrides: str) -> tuple[int, str]:
        given = [
            f"data.hr={photos}",
            "data.max_bad_fraction=0",
            "data.images_per_part=2",
            "rank_dataset.methods=[bicubic]",
        ]
        tested = [f"test_sets=[{{name: cups, hr: {tmp_path / 'test'}}}]", "ranker.methods=[bicubic, hr]"]
        arguments = [str(root / "configs" / "demo.yaml"), *tiny, *given, *tested, *overrides]
        code = cli.main([name, *arguments, "--run", str(tmp_path / "run")])
        for handler in logging.getLogger("ranksr").handlers:
            handler.flush()
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


@pytest.fixture
def niqe_file(tmp_path: pathlib.Path) -> str:
    gray = metrics.to_gray(sources.read_photo("skimage:astronaut"))
    metrics.save_niqe_model(metrics.fit_niqe_model([gray]), str(tmp_path / "niqe.npz"))
    return f"scoring.niqe_model={tmp_path / 'niqe.npz'}"


def parts(folder: pathlib.Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*")}


def content(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


def remove(photos: pathlib.Path) -> str:
    (photos / "04.png").unlink()
    return "1 gone"


def mend(photos: pathlib.Path) -> str:
    shutil.copy(photos.parent / "whole.png", photos / "04.png")
    return "1 changed"


def remove_and_add(photos: pathlib.Path) -> str:
    shutil.copy(photos / "00.png", photos / "12.png")
    return f"{remove(photos)}, 1 added"


@pytest.mark.parametrize("remedy", [remove, mend, remove_and_add])
def test_the_advised_remedy_continues_with_what_is_made(command, photos, niqe_file, tmp_path, remedy) -> None:
    code, said = command("rank_dataset", niqe_file)
    assert code == 2
    assert "04.png" in said
    assert "Remove or mend them" in said
    stage = tmp_path / "run" / "rank_dataset"
    before = parts(stage)
    assert len(before) >= 4

    changed = remedy(photos)
    code, said = command("rank_dataset", niqe_file)
    assert code == 0, said
    after = parts(stage)
    kept = [name for name in before if after.get(name) == before[name]]
    assert len(kept) >= len(before) - 2, (before, after)  # two whose photographs have another split or neighbour
    assert f"photographs changed ({changed})" in said
    assert f"rank_dataset: {len(kept)} of {len(after)} parts stay" in said
    assert set(storage.read_json(str(stage / "photographs.json"))["photographs"]) == {p.stem for p in photos.iterdir()}

    made = content(stage)
    shutil.rmtree(tmp_path / "run")
    assert command("rank_dataset", niqe_file)[0] == 0
    assert content(stage) == made  # the same bytes without that history


def test_an_image_made_elsewhere_is_mended_like_a_photograph(command, photos, niqe_file, tmp_path) -> None:
    mend(photos)
    shutil.copytree(photos, tmp_path / "theirs")
    (tmp_path / "theirs" / "07.png").write_bytes(b"")
    theirs = [f"external.theirs={tmp_path / 'theirs'}", "rank_dataset.methods=[bicubic, theirs]", niqe_file]
    code, said = command("rank_dataset", *theirs)
    assert code == 2
    assert "its theirs image" in said
    before = parts(tmp_path / "run" / "rank_dataset")
    shutil.copy(photos / "07.png", tmp_path / "theirs" / "07.png")
    code, said = command("rank_dataset", *theirs)
    assert code == 0, said
    after = parts(tmp_path / "run" / "rank_dataset")
    assert {name: after.get(name) for name in before} == before
    assert "photographs changed (1 changed)" in said
    rows = storage.read_table(str(tmp_path / "run" / "rank_dataset"), ["image_id", "fingerprints"]).to_pylist()
    theirs_of = {row["image_id"]: dict(row["fingerprints"])["theirs"] for row in rows}
    assert len(set(theirs_of.values())) == len(theirs_of) == len(NAMES)  # each row tells of its own image


def test_a_finished_stage_names_the_photographs_that_changed(command, photos, niqe_file) -> None:
    mend(photos)
    assert command("rank_dataset", niqe_file)[0] == 0
    (photos / ".DS_Store").write_bytes(b"x")
    moved = photos.rename(photos.parent / "elsewhere")
    assert command("rank_dataset", niqe_file, f"data.hr={moved}")[0] == 0  # the same photographs
    content = (moved / "00.png").read_bytes()
    (moved / "00.png").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # of the same name and size
    (moved / "01.png").unlink()
    (moved / "02.png").unlink()
    shutil.copy(moved / "03.png", moved / "new.png")
    code, said = command("rank_dataset", niqe_file, f"data.hr={moved}")
    assert code == 2
    assert "changed: 00; added: new; gone: 01, ... (4 in all)" in said
    assert "made with other photographs" in said


def test_a_photograph_mended_in_the_middle_of_a_pipeline_lets_it_finish(command, photos, tmp_path) -> None:
    """With models fitted to the photographs themselves, which are fitted after patches has looked at them."""
    single = ["evaluation.methods=[srresnet]"]
    code, said = command("evaluate", *single)
    assert code == 2
    assert "04.png" in said
    before = parts(tmp_path / "run" / "patches")
    assert len(before) >= 4
    mend(photos)
    code, said = command("evaluate", *single)
    assert code == 0, said
    after = parts(tmp_path / "run" / "patches")
    assert len([name for name in before if after.get(name) == before[name]]) >= len(before) - 2
    assert "photographs changed (1 changed)" in said


def test_a_model_that_is_fitted_to_bad_photographs_alone_waits_for_the_remedy(command, photos) -> None:
    code, said = command("rank_dataset")  # no stage before it looks at them
    assert code == 2
    assert "04.png" in said
    mend(photos)
    assert command("rank_dataset")[0] == 0
