import json
import pathlib
import re

import numpy as np
import pyarrow.parquet
import pytest
import skimage.data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ranksr import cli, terminal
from ranksr.images import decode, encode_png
from ranksr.inspect.score import Request, score_paths


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Six patches in two folders, and their references without the noise."""
    root, photo = tmp_path_factory.mktemp("images"), skimage.data.astronaut()
    rng = np.random.default_rng(0)
    for index in range(6):
        patch = np.ascontiguousarray(photo[50 * index : 50 * index + 200, 60 * index : 60 * index + 200])
        noisy = np.clip(patch + rng.normal(0, 9, patch.shape), 0, 255).astype(np.uint8)
        for kind, image in (("sr", noisy), ("hr", patch)):
            path = root / kind / ("a" if index < 3 else "b") / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(image))
    return root


@pytest.fixture
def score_command(model_files, capsys):
    """Run `ranksr score` with fitted models: exit code, standard output, standard error."""

    def command(*arguments: object) -> tuple[int, str, str]:
        models = ["--niqe-model", model_files[0], "--ma-model", model_files[1]]
        code = cli.main(["score", *map(str, arguments), *models])
        return code, *capsys.readouterr()

    return command


def test_one_and_two_processes_give_identical_bits(folder, model_files):
    request = Request(("niqe", "ma", "pi", "psnr", "ssim"), "pirm", *model_files)
    rows = [score_paths([str(folder / "sr")], request, str(folder / "hr"), jobs) for jobs in (1, 2)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 6
    assert all(row.reason is None for row in rows[0])


def test_json_has_one_object_a_line(folder, score_command):
    code, out, _ = score_command(folder / "sr" / "a", "--json", "--jobs", 1)
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [pathlib.Path(line["image"]).name for line in lines] == ["0.png", "1.png", "2.png"]
    assert list(lines[0]) == ["image", "niqe", "ma", "pi", "reason", "profile", "note"]
    assert lines[0]["pi"] == pytest.approx((lines[0]["niqe"] + 10 - lines[0]["ma"]) / 2)
    assert lines[0]["reason"] is None
    assert lines[0]["profile"] == "pirm"
    assert "not comparable with published values" in lines[0]["note"]


def test_bad_files_are_named_and_the_rest_is_scored(folder, tmp_path, score_command):
    (tmp_path / "broken.png").write_bytes((folder / "sr/a/0.png").read_bytes()[:60])
    (tmp_path / "flat.png").write_bytes(encode_png(np.full((200, 200, 3), 7, np.uint8)))
    (tmp_path / "good.png").write_bytes((folder / "sr/a/0.png").read_bytes())
    code, out, err = score_command(tmp_path, tmp_path / "missing.png", "--metrics", "niqe", "--json", "--jobs", 1)
    values = {pathlib.Path(line["image"]).name: line for line in map(json.loads, out.splitlines())}
    assert code == 1
    assert values["good.png"]["niqe"] > 0
    assert "constant" in values["flat.png"]["reason"]
    assert values["broken.png"]["niqe"] is None
    for name in ("broken.png", "flat.png", "missing.png"):
        assert name in err
    assert "good.png" not in err


def test_the_table_ends_in_means_and_says_how_scores_were_made(folder, score_command):
    _, out, _ = score_command(folder / "sr", "--reference", folder / "hr", "--jobs", 1)
    lines = out.splitlines()
    assert lines[0].split() == ["image", "niqe", "ma", "pi", "psnr", "ssim"]
    means = lines[9].split()
    assert means[0] == "mean"
    assert float(means[4]) == pytest.approx(np.mean([float(line.split()[4]) for line in lines[2:8]]), abs=1e-3)
    assert lines[10] == "profile pirm"
    assert "calibrated here, not comparable with published values" in lines[11]


def test_the_table_says_how_many_have_a_score_where_some_have_none(folder, tmp_path, score_command):
    (tmp_path / "flat.png").write_bytes(encode_png(np.full((200, 200, 3), 7, np.uint8)))
    _, out, _ = score_command(tmp_path / "flat.png", folder / "sr", "--metrics", "niqe", "--jobs", 1)
    assert "scored of 7  " in out
    assert out.splitlines()[-2 if "calibrated" not in out else -3].split()[-1] == "6"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_out_writes_every_row_with_its_profile_and_note(folder, tmp_path, score_command, suffix):
    out = tmp_path / f"scores.{suffix}"
    score_command(folder / "sr" / "a", "--metrics", "niqe", "--profile", "gray", "--out", out, "--jobs", 1)
    read = pyarrow.parquet.read_table if suffix == "parquet" else pyarrow.csv.read_csv
    rows = read(out).to_pylist()
    assert len(rows) == 3
    assert set(rows[0]) == {"image", "niqe", "reason", "profile", "note"}
    assert rows[0]["profile"] == "gray"
    assert "niqe: calibrated here" in rows[0]["note"]


def test_a_reference_may_have_another_suffix_and_a_missing_one_is_a_reason(folder, tmp_path, score_command):
    skimage.io.imsave(tmp_path / "0.bmp", decode((folder / "hr/a/0.png").read_bytes()), check_contrast=False)
    code, out, _ = score_command(
        folder / "sr" / "a", "--reference", tmp_path, "--metrics", "psnr", "--json", "--jobs", 1
    )
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert 20 < lines[0]["psnr"] < 40
    assert lines[1]["reason"] == "no reference image"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "psnr"], "--reference"),
        (["--metrics", "nothing"], "unknown"),
        (["--metrics", ","], "names no metric"),
        (["--out", "scores.txt"], r"\.csv or \.parquet"),
        (["--jobs", "0"], "--jobs 0"),
    ],
)
def test_a_mistake_is_one_clear_error(folder, score_command, arguments, message):
    code, _, said = score_command(folder / "sr", *arguments)
    assert (code, said.count("\n"), bool(re.search(message, said))) == (2, 1, True)


def test_a_folder_without_images_is_an_error(tmp_path, score_command):
    code, _, said = score_command(tmp_path)
    assert (code, "holds no image" in said) == (2, True)


@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_image_has_a_score_or_a_reason(folder, tmp_path, model_files, data):
    sound = (folder / "sr/a/0.png").read_bytes()
    damaged = bytearray(sound[: data.draw(st.integers(0, len(sound)))])
    for place in data.draw(st.lists(st.integers(0, len(sound) - 1), max_size=4)):
        if place < len(damaged):
            damaged[place] = data.draw(st.integers(0, 255))
    (tmp_path / "damaged.png").write_bytes(damaged)
    (row,) = score_paths([str(tmp_path / "damaged.png")], Request(("niqe",), "pirm", *model_files), jobs=1)
    assert np.isnan(row.scores["niqe"].value) == (row.reason is not None)


def test_all_cores_are_used_where_the_system_does_not_tell_which(monkeypatch):
    """macOS has no sched_getaffinity."""
    monkeypatch.delattr(terminal.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(terminal.os, "cpu_count", lambda: 3)
    assert terminal.num_cores() == 3
