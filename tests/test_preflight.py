"""A config that does not fit metrics, names in a run or the wheel's photographs is refused at load."""

import importlib.util
import json
import os
import pathlib

import pytest

from ranksr import cli, pipeline, session
from ranksr.config import Config, with_overrides
from ranksr.errors import UserError
from ranksr.runs import BESIDE_STAGES

GAP = "rank_dataset.gap={{methods: [srgan, srresnet], more_than: 0.1, metric: {}}}".format

FAILED_AFTER_ALL_TRAININGS = [
    ("ranker.metric=psnr", "ranker.metric=psnr needs a reference image"),
    ("ranker.metric=ssim", "ranker.metric=ssim needs a reference image"),
    (
        "ranker.metric=nique",
        "metric 'nique' is unknown: use niqe, ma, pi, psnr, ssim, pyiqa:NAME or ranker:RUN (ranker.metric=nique)",
    ),
    (GAP("psnr"), "rank_dataset.gap.metric=psnr needs a reference image"),
    (
        GAP("nonsense"),
        "metric 'nonsense' is unknown: use niqe, ma, pi, psnr, ssim, pyiqa:NAME or ranker:RUN (rank_dataset.gap.metric=nonsense)",
    ),
    (
        "scoring.metrics=[niqe, foo]",
        "metric 'foo' is unknown: use niqe, ma, pi, psnr, ssim, pyiqa:NAME or ranker:RUN (scoring.metrics=foo)",
    ),
    ("ranker.metric=ranker:runs/other", "a Ranker's score is for `ranksr score` alone"),
    ("data.hr=skimage:nosuch", "skimage:nosuch is not in scikit-image's wheel"),
    ("rank_dataset.hr=skimage:nosuch", "skimage:nosuch is not in scikit-image's wheel"),
    ("test_sets=[{name: a, hr: 'skimage:rocket,nosuch'}]", "skimage:nosuch is not in scikit-image's wheel"),
    ("data.hr=skimage:coffee,astronaut,coffee", "names a photograph twice"),
    ("external.patches=/x", "external.patches: the name is taken"),
    ("external.calibration=/x", "external.calibration: the name is taken"),
    ("external.lock=/x", "external.lock: the name is taken"),
    ("external.stages=/x", "external.stages: the name is taken"),
    ("external.tensorboard=/x", "external.tensorboard: the name is taken"),
]


@pytest.mark.parametrize(("override", "says"), FAILED_AFTER_ALL_TRAININGS)
def test_what_would_fail_after_all_trainings_is_refused_at_load(
    root: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    override: str,
    says: str,
) -> None:
    monkeypatch.setattr(session, "init_ray", lambda *_: pytest.fail("Ray starts"))
    code = cli.main(["full_pipeline", str(root / "configs" / "demo.yaml"), "--run", str(tmp_path / "run"), override])
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (2, 1)
    assert says in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [("nosuch", "has no metric 'nosuch'"), ("lpips", "ranker.metric=pyiqa:lpips needs a reference image")],
)
def test_metrics_of_pyiqa_are_known_at_load(demo: Config, name: str, says: str) -> None:
    if importlib.util.find_spec("pyiqa") is None:
        pytest.skip("pyiqa is not installed")
    with pytest.raises(UserError, match=says):
        pipeline.require_known(with_overrides(demo, [f"ranker.metric=pyiqa:{name}"]))


@pytest.mark.ray
def test_no_method_may_have_the_name_of_anything_in_a_run(finished_run: pathlib.Path, demo: Config) -> None:
    found = {name.split(".")[0] for name in os.listdir(finished_run)} - demo.methods.keys()
    assert {"patches", "evaluation", "run", "report", "tensorboard"} <= found
    method = demo.methods["srresnet"].model_dump(mode="json")
    for name in {*found, *(name.split(".")[0] for name in BESIDE_STAGES)}:
        taken = Config.model_validate(
            {**demo.model_dump(mode="json"), "methods": {**demo.model_dump(mode="json")["methods"], name: method}}
        )
        with pytest.raises(UserError, match=f"methods.{name}: the name is taken"):
            pipeline.require_known(taken)


def test_a_gap_in_niqe_needs_patches_that_niqe_can_score(demo: Config) -> None:
    with pytest.raises(UserError, match="rank_dataset.patch_px=96 is too small for rank_dataset.gap.metric=niqe"):
        pipeline.require_known(with_overrides(demo, [GAP("niqe"), "ranker.metric=ma", "rank_dataset.patch_px=96"]))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["methods.srgan.train.best_metric=nique"], "methods.srgan.train.best_metric=nique is not validated: choose from niqe, psnr"),
        (["methods.srgan.train.best_metric=srocc"], "methods.srgan.train.best_metric=srocc is not validated"),
        (["ranker.train.best_metric=niqe"], "ranker.train.best_metric=niqe is not validated: choose from srocc"),
        (
            ["methods.srgan.train.best_metric=pi", "scoring.ma_model=null", "scoring.metrics=[niqe]"],
            "give scoring.ma_model for pi",
        ),
        (
            ["methods.srgan.train.best_metric=niqe", "data.sub_image_px=196"],
            "methods.srgan.train.best_metric=niqe: data.sub_image_px=196 is too small",
        ),
    ],
)  # fmt: skip
def test_the_metric_that_chooses_weights_must_be_validated(
    root: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], overrides: list[str], says: str
) -> None:
    arguments = ["full_pipeline", str(root / "configs" / "demo.yaml"), *overrides, "--run", str(tmp_path / "run")]
    assert cli.main(arguments) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert says in said


def test_early_stopping_by_niqe_needs_sub_images_that_have_one(
    root: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = {"about": "a test", "method": "srgan", "trials": [{"name": "a"}], "early_stopping": {"metric": "niqe"}}
    (tmp_path / "study.yaml").write_text(json.dumps({**study, "common": ["data.sub_image_px=120"]}))
    arguments = [str(root / "configs" / "demo.yaml"), str(tmp_path / "study.yaml"), "--run", str(tmp_path / "run")]
    assert cli.main(["ablation", *arguments]) == 2
    assert "early_stopping.metric=niqe: data.sub_image_px=120 is too small" in capsys.readouterr().err


def test_sub_images_too_small_for_niqe_are_said_at_config_time(
    root: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(root / "configs" / "demo.yaml"), "data.sub_image_px=120", "data.hr=/nowhere"]
    assert cli.main(["full_pipeline", *arguments, "--run", str(tmp_path)]) == 2  # for the folder; the line comes before
    assert "validations will have no NIQE: data.sub_image_px=120 is too small for it" in capsys.readouterr().out
