"""The command line: a user's mistake is one clear line and exit code 2, said before Ray starts."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from ranksr import cli, images, runs, session


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code, and what was said on standard error."""
    code = cli.main(["full_pipeline", *arguments])
    return code, capsys.readouterr().err


@pytest.fixture
def demo_path(root: pathlib.Path) -> str:
    return str(root / "configs" / "demo.yaml")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.hr=/nowhere/at/all", "/nowhere/at/all does not exist"),
        ("ranker.trian.steps=5", "unknown key ranker.trian"),
        ("seed=five", "seed='five'"),
        ("scoring.metrics=[nique]", "metric 'nique' is unknown"),
        ("scoring.ma_model=null", "metric 'ma' needs scoring.ma_model"),
        ("scoring.niqe_model=/no/model.mat", "/no/model.mat does not exist"),
        ("perceptual.weights=/no/vgg.pth", "/no/vgg.pth does not exist"),
        ("methods.srresnet.start=/no/start.pth", "/no/start.pth does not exist"),
        ("test_sets=[{name: a, hr: /no/set14}]", "/no/set14 does not exist"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    capsys: pytest.CaptureFixture[str], demo_path: str, tmp_path: pathlib.Path, override: str, says: str
) -> None:
    code, said = run(capsys, demo_path, override, "--run", str(tmp_path / "run"))
    assert (code, said.count("\n")) == (2, 1)
    assert says in said
    assert not (tmp_path / "run").exists()


def test_overrides_may_stand_on_either_side_of_the_run(
    capsys: pytest.CaptureFixture[str], demo_path: str, tmp_path: pathlib.Path
) -> None:
    code, said = run(capsys, demo_path, "seed=1", "--run", str(tmp_path), "data.hr=/nowhere/at/all")
    assert (code, "/nowhere/at/all does not exist" in said) == (2, True)


def test_a_second_command_for_the_same_run_is_refused(
    capsys: pytest.CaptureFixture[str], demo_path: str, tmp_path: pathlib.Path
) -> None:
    with runs.lock(str(tmp_path)):
        code, said = run(capsys, demo_path, "--run", str(tmp_path))
    assert (code, said.count("\n")) == (2, 1)
    assert f"{tmp_path} is in use by process {os.getpid()} on " in said


def test_an_unknown_option_is_an_error(capsys: pytest.CaptureFixture[str], demo_path: str) -> None:
    assert cli.main(["full_pipeline", demo_path, "--rnu", "x"]) == 2
    assert "--rnu" in capsys.readouterr().err


def test_an_empty_folder_is_named(capsys: pytest.CaptureFixture[str], demo_path: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "photos").mkdir()
    code, said = run(capsys, demo_path, f"data.hr={tmp_path / 'photos'}", "--run", str(tmp_path / "run"))
    assert code == 2
    assert f"{tmp_path / 'photos'} holds no image file" in said


def test_a_config_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(capsys, "nowhere.yaml")
    assert code == 2
    assert "cannot read config nowhere.yaml" in said


def test_a_run_folder_that_cannot_be_written_is_named(
    capsys: pytest.CaptureFixture[str], demo_path: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    code, said = run(capsys, demo_path, "--run", str(tmp_path / "file" / "run"))
    assert code == 2
    assert "cannot write to run folder" in said


@pytest.mark.ray
@pytest.mark.parametrize(("kind", "says"), [("text", "no image"), ("pixel", "1x1 px")])
def test_an_image_that_is_none_is_named_with_the_remedy(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    ray_cluster: None,
    demo_path: str,
    tmp_path: pathlib.Path,
    photographs: pathlib.Path,
    kind: str,
    says: str,
) -> None:
    monkeypatch.setattr(session, "init_ray", lambda *_: None)
    (tmp_path / "photos").mkdir()
    for path in photographs.iterdir():
        (tmp_path / "photos" / path.name).write_bytes(path.read_bytes())
    bad = tmp_path / "photos" / "bad.png"
    bad.write_bytes(b"text" if kind == "text" else images.encode_png(np.zeros((1, 1, 3), np.uint8)))
    plain = ["scoring.ma_model=null", "scoring.metrics=[niqe, psnr]"]  # the fit of Ma takes long and has its own tests
    code, said = run(capsys, demo_path, *plain, f"data.hr={tmp_path / 'photos'}", "--run", str(tmp_path / "run"))
    assert code == 2
    assert f"{bad}: " in said
    assert says in said
    assert "data.on_bad_image" in said


def test_the_jobs_explain_themselves(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for name in ("full_pipeline", "rank_dataset", "evaluate", "ablation", "doctor"):
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, str(root / "jobs" / f"{name}.py"), "--help"],
            capture_output=True, text=True, cwd=tmp_path, env=environment, check=True,
        )  # fmt: skip
        assert f"jobs/{name}.py" in done.stdout


def test_a_rank_dataset_is_shown_as_text_and_as_json(capsys: pytest.CaptureFixture[str], made_up: Any) -> None:
    root = made_up.write()
    assert cli.main(["dataset", "show", root]) == 0
    assert capsys.readouterr().out.startswith(f"{root}/rank_dataset: 7 locations of 4 images")
    assert cli.main(["dataset", "show", root, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["val"]["num_locations"] == 2


def test_a_reader_that_has_seen_enough_is_no_error(made_up: Any) -> None:
    show = f"import sys; from ranksr import cli; sys.exit(cli.main(['dataset', 'show', {made_up.write()!r}]))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", show], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_rank_dataset_is_exported_once(
    capsys: pytest.CaptureFixture[str], made_up: Any, tmp_path: pathlib.Path
) -> None:
    root, folder = made_up.write(), str(tmp_path / "out")
    assert cli.main(["dataset", "export", root, folder]) == 0
    assert capsys.readouterr().out.startswith(f"{folder}: 4 training and 2 validation locations of b, a")
    assert cli.main(["dataset", "export", root, folder]) == 2
    assert f"{folder} is not an empty folder" in capsys.readouterr().err


def test_a_trial_that_shares_its_runs_rank_dataset_is_told_so(capsys: pytest.CaptureFixture[str], made_up: Any) -> None:
    root = made_up.write()
    for arguments in (["show", f"{root}/ablation/loss/pixel"], ["export", f"{root}/ablation/loss/pixel", "out"]):
        assert cli.main(["dataset", *arguments]) == 2
        said = capsys.readouterr().err
        assert (said.count("\n"), f"give {root}\n" in said) == (1, True)


def test_a_rank_dataset_that_the_config_lacks_is_told_those_that_it_has(
    capsys: pytest.CaptureFixture[str], demo_path: str, tmp_path: pathlib.Path
) -> None:
    code = cli.main(["rank_dataset", demo_path, "--run", str(tmp_path / "run"), "--name", "wider"])
    said = capsys.readouterr().err
    assert (code, said) == (2, "ranksr: no rank dataset is called wider: this config has rank_dataset\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["full_pipeline", "rank_dataset", "evaluate"])
@pytest.mark.parametrize(
    ("place", "says"),
    [("s3://bucket/run#1", "Ray would write to s3://bucket/run"), ("http://host/run", "give a local folder")],
)
def test_a_run_that_would_be_written_elsewhere_is_refused_before_work_starts(
    capsys: pytest.CaptureFixture[str], demo_path: str, command: str, place: str, says: str
) -> None:
    code = cli.main([command, demo_path, "--run", place])
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (2, 1)
    assert f"--run {place}" in said
    assert says in said


@pytest.mark.parametrize("name", ["dup_block.yaml", "dup_method.yaml"])
def test_reported_configs_with_a_key_twice_are_refused(
    shared, root: pathlib.Path, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path, name: str
) -> None:
    for path in (root / "configs" / "demo.yaml", shared(f"bugs/yaml/{name}")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    code, said = run(capsys, str(tmp_path / name), "--run", str(tmp_path / "run"))
    assert (code, said.count("\n")) == (2, 1)
    assert "stands twice, in lines " in said


def test_a_reported_ablation_with_a_key_twice_is_refused(
    shared, capsys: pytest.CaptureFixture[str], demo_path: str, tmp_path: pathlib.Path
) -> None:
    code = cli.main(["ablation", demo_path, str(shared("bugs/yaml/ablation/dup_common.yaml")), "--run", str(tmp_path)])
    assert code == 2
    assert "common stands twice, in lines 4 and 5" in capsys.readouterr().err
