"""A config that does not fit metrics, names in a run or the wheel's photographs is refused at load."""

import importlib.util
import os
import pathlib

import pytest

from ranksr import cli, pipeline
from ranksr.config import Config, UserError
from ranksr.runs import BESIDE_STAGES

GAP = "rank_dataset.gap={{methods: [srgan, srresnet], more_than: 0.1, metric: {}}}".format

FAILED_AFTER_ALL_TRAININGS = [
    ("ranker.metric=psnr", "ranker.metric=psnr needs a reference image"),
    ("ranker.metric=ssim", "ranker.metric=ssim needs a reference image"),
    (
        "ranker.metric=nique",
        "metric 'nique' is unknown: use niqe, ma, pi, psnr, ssim or pyiqa:NAME (ranker.metric=nique)",
    ),
    (GAP("psnr"), "rank_dataset.gap.metric=psnr needs a reference image"),
    (
        GAP("nonsense"),
        "metric 'nonsense' is unknown: use niqe, ma, pi, psnr, ssim or pyiqa:NAME (rank_dataset.gap.metric=nonsense)",
    ),
    (
        "scoring.metrics=[niqe, foo]",
        "metric 'foo' is unknown: use niqe, ma, pi, psnr, ssim or pyiqa:NAME (scoring.metrics=foo)",
    ),
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
    monkeypatch.setattr(cli, "init_ray", lambda *_: pytest.fail("Ray starts"))
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
        pipeline.require_known(demo.with_overrides([f"ranker.metric=pyiqa:{name}"]))


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
        pipeline.require_known(demo.with_overrides([GAP("niqe"), "ranker.metric=ma", "rank_dataset.patch_px=96"]))
