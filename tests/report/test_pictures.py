"""`ranksr compare --html` and `ranksr figure`, as commands, on a run whose pictures exist."""

import base64
import json
import shutil
import urllib.parse

import numpy as np
import pytest

from ranksr import cli, images, storage
from ranksr.inspect import pages


@pytest.fixture
def run(story, tmp_path, make_config, write_ablation, make_entry):
    """A run with the story's evaluation, and an ablation of one trial with two seeds of the same pictures."""
    root = str(tmp_path / "run")
    storage.write_json(f"{root}/run.json", {"config": make_config().model_dump(mode="json")})
    stages = ["evaluation", "ablation/stages/evaluation-0", "ablation/stages/evaluation-1"]
    for folder in stages:
        entry = {"stage": "evaluation", "done": True, "fingerprint": "f", "results": {}, "inputs": {}}
        storage.write_json(f"{root}/{folder}/stage.json", entry | {"settings": {"scoring.profile": "pirm"}})
        storage.write_table(f"{root}/{folder}/scores.parquet", story.scores)
        shutil.copytree(story.images, f"{root}/{folder}/images")
    entries = [make_entry("plain", seed, stages={"evaluation": stages[1 + seed]}) for seed in (0, 1)]
    write_ablation(root, entries, {("plain", seed, "Set14", "niqe"): {"zebra": 3.0 + seed} for seed in (0, 1)})
    return root


def gallery_of(folder):
    return json.loads((folder / "gallery.js").read_text(encoding="utf-8").partition("=")[2].rstrip(";\n"))


def test_one_run_has_a_page_of_its_methods(run, tmp_path, capsys):
    assert cli.main(["compare", run, "--html", str(tmp_path / "page")]) == 0
    assert f"page: {tmp_path / 'page' / 'index.html'}" in capsys.readouterr().out
    assert gallery_of(tmp_path / "page")["methods"] == ["lr", "bicubic", "srgan", "ranksrgan", "hr"]
    assert "± 95 % over images" in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")


def test_any_seed_of_an_ablation_stands_beside_any_run(run, tmp_path):
    assert cli.main(["compare", run, f"{run}/ablation/loss", "--html", str(tmp_path / "page")]) == 0
    shown = gallery_of(tmp_path / "page")["methods"]
    assert shown == ["lr", "bicubic", f"{run}:srgan", f"{run}:ranksrgan", "plain seed 0", "plain seed 1", "hr"]


def test_runs_are_read_once_and_every_method_is_shown_beside_the_one_compared(run, tmp_path, capsys, monkeypatch):
    read, asked = storage.read_bytes, []
    monkeypatch.setattr(storage, "read_bytes", lambda path: asked.append(path) or read(path))
    assert cli.main(["compare", run, f"{run}/.", "--method", "srgan", "--html", str(tmp_path / "page")]) == 0
    assert [path for path in asked if path.endswith("run.json")] == [f"{run}/run.json"] * 2
    assert "ranksrgan" not in capsys.readouterr().out
    assert {f"{run}:srgan", f"{run}:ranksrgan"} <= set(gallery_of(tmp_path / "page")["methods"])


def test_any_kept_step_of_any_training_stands_beside_any_other(run, tmp_path, capsys, keep_pictures):
    trial = f"{run}/ablation/loss/plain"
    assert cli.main(["compare", run, "--html", str(tmp_path / "page"), "--validation"]) == 2
    assert "no picture of a validation was kept yet (no training has begun)" in capsys.readouterr().err
    training = {"stage": "ranksrgan", "done": False, "fingerprint": "f", "results": {}, "inputs": {}, "settings": {}}
    results = storage.read_json(f"{run}/ablation/loss/results.json")
    for seed, entry in enumerate(results["trials"]):
        entry["stages"]["ranksrgan"] = f"ablation/stages/ranksrgan-{seed}"
    storage.write_json(f"{run}/ablation/loss/results.json", results)
    for folder, steps in (("ranksrgan", (10, 20)), ("ablation/stages/ranksrgan-0", (20,)), ("srgan", ())):
        storage.write_json(f"{run}/{folder}/stage.json", training)  # not done: a training need not have ended
        keep_pictures(f"{run}/{folder}", *steps)
    assert cli.main(["compare", run, trial, "--html", str(tmp_path / "page"), "--validation"]) == 0
    assert capsys.readouterr().out == f"page: {tmp_path / 'page' / 'index.html'}\n"
    shown = gallery_of(tmp_path / "page")
    trained = [f"{run}:ranksrgan@10", f"{run}:ranksrgan@20", f"{trial} seed 0@20"]
    assert shown["methods"] == ["lr", "bicubic", *trained, "hr"]
    assert [each["id"] for each in shown["images"]] == ["validation/photo_0_0_0", "validation/photo_1_0_0"]
    kept = storage.read_bytes(f"{run}/ablation/stages/ranksrgan-0/images/validation/step_00000020/photo_0_0_0.png")
    assert (tmp_path / "page" / urllib.parse.unquote(shown["images"][0]["files"][trained[2]])).read_bytes() == kept
    out = str(tmp_path / "figure.png")
    methods = ",".join(trained)
    command = ["figure", *shown["sources"], "--image", "photo_0_0_0", "--methods", methods, "--out", out]
    assert cli.main(command) == 0
    assert cli.main(["compare", run, "--validation"]) == 2
    assert "give --html DIR" in capsys.readouterr().err


def embedded(path):
    """What the viewer reads of a page of one file."""
    return json.loads(path.read_text(encoding="utf-8").partition("window.GALLERY = ")[2].partition(";\n")[0])


def test_a_page_of_one_file_holds_the_very_pixels_of_its_squares(run, tmp_path, capsys):
    out = tmp_path / "alone" / "squares.html"
    squares = ["--image", "zebra", "--crop", "64,32,48", "--crop", "0,2,30"]
    assert cli.main(["compare", run, "--html", str(out), "--embed", *squares]) == 0
    assert f"page: {out}" in capsys.readouterr().out
    assert list(out.parent.iterdir()) == [out]
    first, second = embedded(out)["images"]
    assert (first["id"], second["id"]) == ("Set14/zebra 64,32,48", "Set14/zebra 0,2,30")
    assert first["of"] == {"image": "Set14/zebra", "y": 64, "x": 32}
    assert list(first["files"]) == ["bicubic", "hr", "lr", "ranksrgan", "srgan"]
    png = base64.b64decode(first["files"]["hr"].removeprefix("data:image/png;base64,"))
    hr = images.decode(storage.read_bytes(f"{run}/evaluation/images/Set14/hr/zebra.png"))
    assert np.array_equal(images.decode(png), hr[64:112, 32:80])
    lr = images.decode(base64.b64decode(second["files"]["lr"].partition(",")[2]))
    assert lr.shape == (30, 30, 3)  # as large as the others: the square need not begin with an LR pixel
    assert first["scores"]["srgan"].keys() == {"niqe", "psnr"}


def test_without_names_a_page_of_one_file_has_the_detail_of_every_image(run, tmp_path):
    folder = tmp_path / "page"
    assert cli.main(["compare", run, f"{run}/ablation/loss/plain", "--html", str(folder), "--embed"]) == 0
    shown = embedded(folder / "index.html")
    assert [each["of"]["image"] for each in shown["images"]] == ["Mine/street", "Set14/baboon", "Set14/zebra"]
    assert {each["height"] for each in shown["images"]} == {80}
    assert f"{run}/ablation/loss/plain seed 1" in shown["methods"]


def test_a_name_cannot_end_the_script_of_a_page_of_one_file(run, tmp_path):
    name = "a</script><b>"
    for method in ("lr", "srgan", "hr"):
        folder = f"{run}/evaluation/images/Mine/{method}"
        storage.write_bytes(f"{folder}/{name}.png", storage.read_bytes(f"{folder}/street.png"))
    assert cli.main(["compare", run, "--html", str(tmp_path), "--embed", "--image", name]) == 0
    assert (tmp_path / "index.html").read_text(encoding="utf-8").count("</script>") == 1
    assert embedded(tmp_path / "index.html")["images"][0]["of"]["image"] == f"Mine/{name}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--embed", "--image", "zebre"], ["zebre", "Set14/zebra"]),
        (["--embed", "--crop", "0,0,8", "--crop", "0,0,8"], ["3 images and 2 --crop"]),
        (["--embed", "--image", "zebra", "--crop", "100,0,40"], ["100,0,40", "120 x 160"]),
        (["--image", "zebra"], ["give --embed as well"]),
    ],
)
def test_a_mistake_about_a_page_of_one_file_names_the_remedy(run, tmp_path, capsys, options, words):
    assert cli.main(["compare", run, "--html", str(tmp_path / "page"), *options]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words)
    assert said.count("\n") == 1
    assert not (tmp_path / "page").exists()


def test_a_page_of_one_file_is_not_made_too_large(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pages, "MOST_MB", 0.05)
    command = ["compare", run, "--html", str(tmp_path / "page"), "--embed"]
    assert cli.main(command) == 2
    assert "3 squares are more than 0.05 MB: name fewer or smaller ones" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()
    assert cli.main([*command, "--image", "zebra", "--crop", "64,32,16"]) == 0


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_a_figure_is_written_in_the_form_of_its_name(run, tmp_path, kind):
    out = tmp_path / f"fig5.{kind}"
    command = ["figure", run, "--image", "Set14/zebra", "--crop", "40,60,32", "--methods", "lr,srgan,hr"]
    assert cli.main([*command, "--out", str(out)]) == 0
    begins = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    assert out.read_bytes().startswith(begins[kind])


def test_a_figure_shows_the_very_pixels_of_the_square(run, tmp_path):
    out = tmp_path / "fig5.png"
    assert (
        cli.main(["figure", run, "--image", "zebra", "--crop", "64,32,48", "--methods", "hr", "--out", str(out)]) == 0
    )
    figure = images.decode(out.read_bytes())
    hr = images.decode(storage.read_bytes(f"{run}/evaluation/images/Set14/hr/zebra.png"))[64:112, 32:80]
    shown = {tuple(colour) for colour in figure[10:500, -520:-40].reshape(-1, 3).tolist()}
    known = {tuple(colour) for colour in hr.reshape(-1, 3).tolist()}
    assert shown <= known  # nearest: no colour in between
    assert len(shown) > 0.8 * len(known)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--image", "zebre"], ["zebre", "Set14/zebra"]),
        (["--image", "zebra", "--methods", "esrgan"], ["esrgan", "lr, bicubic, srgan, ranksrgan, hr"]),
        (["--image", "zebra", "--crop", "1,2"], ["1,2", "y,x,size"]),
        (["--image", "zebra", "--crop", "100,0,40"], ["100,0,40", "120 x 160"]),
        (["--image", "zebra", "--out", "x.bmp"], ["x.bmp", ".png"]),
    ],
)
def test_a_mistake_names_the_remedy(run, tmp_path, capsys, options, words):
    out = [] if "--out" in options else ["--out", str(tmp_path / "f.png")]
    assert cli.main(["figure", run, *options, *out]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words)
    assert said.count("\n") == 1
