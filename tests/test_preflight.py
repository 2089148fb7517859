"""Mistakes that a config alone does not show are refused by the command before Ray starts."""

import json
import pathlib

import pytest
import ray

from ranksr import cli
from ranksr.config import Config, UserError
from ranksr.preflight import require_known

GAP = "rank_dataset.gap={{methods: [srgan, srresnet], more_than: 0.1, metric: {}}}"


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting Ray fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that ends with exit code 2."""
    assert cli.main(list(arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["ranker.metric=psnr"], "ranker.metric=psnr compares with a reference"),
        (["ranker.metric=ssim"], "ranker.metric=ssim compares with a reference"),
        (["ranker.metric=nonsense"], "ranker.metric=nonsense: metric 'nonsense' is unknown"),
        ([GAP.format("nonsense")], "rank_dataset.gap.metric=nonsense"),
        ([GAP.format("psnr")], "rank_dataset.gap.metric=psnr compares with a reference"),
        ([GAP.format("pi"), "scoring.ma_model=null", "scoring.metrics=[niqe]"], "rank_dataset.gap.metric=pi needs scoring.ma_model"),
        (["scoring.metrics=[niqe, foo]"], "scoring.metrics=foo"),
        (["test_sets=[]"], "test_sets is empty"),
        (["scoring.metrics=[]"], "scoring.metrics is empty"),
        (["scoring.metrics=[niqe, niqe]"], "scoring.metrics names niqe twice"),
        (["evaluation.methods=[]"], "evaluation.methods is empty"),
        (["test_sets=[{name: a, hr: skimage:chelsea}, {name: a, hr: skimage:rocket}]"], "test_sets names a twice"),
        (["rank_dataset.max_locations_per_image=-3"], "rank_dataset.max_locations_per_image=-3"),
        (["seed=-1"], "seed=-1"),
        (["ranker.train.seed=-5"], "ranker.train.seed=-5"),
        (["methods.srgan.train.seed=99999999999999999999"], "methods.srgan.train.seed"),
        (["external.calibration=x.pth"], "external.calibration: the name is taken"),
        (["external.lock=x.pth"], "external.lock: the name is taken"),
        (["external.tensorboard=x.pth"], "external.tensorboard: the name is taken"),
        (["methods.srgan.train.best_metric=nique"], "methods.srgan.train.best_metric=nique is not validated: choose from niqe, psnr"),
        (["methods.srgan.train.best_metric=srocc"], "methods.srgan.train.best_metric=srocc is not validated"),
        (["ranker.train.best_metric=niqe"], "ranker.train.best_metric=niqe is not validated: choose from srocc"),
        (["methods.srgan.train.best_metric=pi", "scoring.ma_model=null", "scoring.metrics=[niqe]"], "give scoring.ma_model for pi"),
        (["methods.srgan.train.best_metric=niqe", "data.sub_image_px=196"], "methods.srgan.train.best_metric=niqe: data.sub_image_px=196 is too small"),
        (["compute.max_failures=-7"], "compute.max_failures=-7"),
        (["ranker.train.learning_rate=.inf"], "ranker.train.learning_rate=inf"),
        (["ranker.min_gap=.nan"], "ranker.min_gap=nan"),
        (["methods.srgan.train.beta1=1"], "methods.srgan.train.beta1=1"),
        (["methods.srgan.train.gamma=0"], "methods.srgan.train.gamma=0"),
        (["data.val_fraction=1"], "data.val_fraction=1"),
        (["data.val_fraction=0"], "data.val_fraction=0"),
        (["ranker.clamp=-1"], "ranker.clamp=-1"),
        (["name=a/b"], "name='a/b'"),
        (["data.hr=/nowhere"], "/nowhere does not exist"),
        (["data.hr=skimage:nosuch"], "skimage:nosuch is not in scikit-image's wheel"),
    ],
)  # fmt: skip
def test_what_would_fail_after_hours_is_refused_when_it_is_loaded(
    root: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], overrides: list[str], says: str
) -> None:
    run = tmp_path / "run"
    assert says in refused(capsys, "full_pipeline", str(root / "configs" / "demo.yaml"), *overrides, "--run", str(run))
    assert not run.exists()


@pytest.mark.parametrize(
    ("trained", "tested", "clash"),
    [
        ("{}", "{}/Set14", True),
        ("{}/Set14", "{}", True),
        ("{}/", "{}/../data", True),
        ("{}/../link", "{}/Set14", True),
        ("{}", "{}/a.png", True),
        ("s3://bucket/data/", "s3://bucket/data/Set14", True),
        ("s3://bucket/data", "s3://bucket/data2", False),
        ("{}/Set14", "{}/Set5", False),
    ],
)
def test_a_test_set_inside_the_training_photographs_is_a_leak_however_it_is_written(
    demo: Config, tmp_path: pathlib.Path, trained: str, tested: str, clash: bool
) -> None:
    (tmp_path / "data" / "Set14").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    folder = str(tmp_path / "data")
    change = [f"data.hr={trained.format(folder)}", f"test_sets=[{{name: s, hr: {tested.format(folder)}}}]"]
    if not clash:
        demo.with_overrides(change)
        return
    with pytest.raises(UserError, match="data.hr and the test set s share"):
        demo.with_overrides(change)


def test_a_relative_path_and_its_dotted_form_are_one_place(demo: Config) -> None:
    with pytest.raises(UserError, match="data.hr and the test set s share"):
        demo.with_overrides(["data.hr=x", "test_sets=[{name: s, hr: ./x}]"])


def test_an_ablation_that_does_not_evaluate_its_method_is_refused(
    root: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = {"about": "a test", "method": "ranksrgan", "trials": [{"name": "a"}]}
    (tmp_path / "study.yaml").write_text(json.dumps({**study, "common": ["evaluation.methods=[bicubic, hr]"]}))
    arguments = [str(root / "configs" / "demo.yaml"), str(tmp_path / "study.yaml"), "--run", str(tmp_path / "run")]
    assert "evaluation.methods=bicubic, hr leaves out ranksrgan" in refused(capsys, "ablation", *arguments)


def test_early_stopping_by_niqe_needs_sub_images_that_have_one(
    root: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = {"about": "a test", "method": "srgan", "trials": [{"name": "a"}], "early_stopping": {"metric": "niqe"}}
    (tmp_path / "study.yaml").write_text(json.dumps({**study, "common": ["data.sub_image_px=120"]}))
    arguments = [str(root / "configs" / "demo.yaml"), str(tmp_path / "study.yaml"), "--run", str(tmp_path / "run")]
    assert "early_stopping.metric=niqe: data.sub_image_px=120 is too small" in refused(capsys, "ablation", *arguments)


def test_sub_images_too_small_for_niqe_are_said_at_config_time(
    root: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        str(root / "configs" / "demo.yaml"),
        "data.sub_image_px=120",
        "data.hr=/nowhere",
        "--run",
        str(tmp_path),
    ]
    assert cli.main(["full_pipeline", *arguments]) == 2  # for the folder; the line comes before
    assert "validations will have no NIQE: data.sub_image_px=120 is too small for it" in capsys.readouterr().out


def test_every_preset_passes(demo: Config) -> None:
    require_known(demo)
