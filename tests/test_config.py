"""Configs: recipes load, overrides and bases merge, mistakes are named."""

import pathlib

import pytest

from ranksr.config import Config, SRResNet, UserError, load_config

RECIPES = ("paper", "authors_code", "single_gpu", "demo", "external")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads(root: pathlib.Path, name: str) -> None:
    assert load_config(root / "configs" / f"{name}.yaml").name == name


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_begins_with_what_it_reproduces_expects_costs_and_its_command(
    root: pathlib.Path, name: str
) -> None:
    head = (root / "configs" / f"{name}.yaml").read_text().split("\nname:")[0]
    assert all(word in head for word in ("# Expected", "# Hours", "# Command", f"configs/{name}.yaml"))


def test_paper_preset_has_the_papers_numbers(root: pathlib.Path) -> None:
    config = load_config(root / "configs" / "paper.yaml")
    gan, ranker = config.methods["ranksrgan"], config.ranker
    assert dict(gan.weights) == {"pixel": 0, "perceptual": 1, "adversarial": 0.005, "rank_content": 0.03}  # Eq. 12
    assert (gan.train.steps, gan.train.batch_size, gan.hr_patch_px) == (600_000, 8, 296)  # 4.2
    assert gan.train.milestones == (50_000, 100_000, 200_000, 300_000)  # 4.2
    assert (ranker.margin, ranker.train.learning_rate, ranker.train.weight_decay) == (0.5, 1e-3, 1e-4)  # 4.1
    assert gan.generator == SRResNet(arch="srresnet", features=64, blocks=16, skip="none")


def test_authors_preset_differs_only_where_it_says(root: pathlib.Path) -> None:
    paper, authors = (load_config(root / "configs" / f"{name}.yaml").model_dump() for name in ("paper", "authors_code"))
    sections = {key for key in paper if paper[key] != authors[key]}
    assert sections == {"name", "perceptual", "rank_content", "methods", "rank_dataset", "ranker"}


def test_an_override_changes_one_value_and_nothing_else(demo: Config) -> None:
    changed = demo.with_overrides(["ranker.train.steps=7"])
    assert changed.ranker.train.steps == 7
    assert changed.with_overrides([f"ranker.train.steps={demo.ranker.train.steps}"]) == demo


def test_null_removes_a_method(demo: Config) -> None:
    changed = demo.with_overrides(
        ["methods.esrgan=null", "rank_dataset.methods=[srresnet, srgan]", "ranker.methods=[srresnet, srgan]",
         "evaluation.methods=[srgan]"]
    )  # fmt: skip
    assert "esrgan" not in changed.methods


def test_another_architecture_keeps_no_key_of_the_old_one(demo: Config) -> None:
    changed = demo.with_overrides(
        ["methods.esrgan_psnr.generator={arch: fsrcnn}", "methods.esrgan.generator={arch: fsrcnn}"]
    )
    assert changed.methods["esrgan"].generator.arch == "fsrcnn"


def test_selected_settings_are_flat_and_dotted(demo: Config) -> None:
    assert demo.select("seed", "rank_content") == {
        "seed": demo.seed,
        "rank_content.reduction": "mean",
        "rank_content.ranker_bn": "running",
    }


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("ranker.trian.steps=5", "unknown key ranker.trian"),
        ("ranker.train.steps=many", "ranker.train.steps='many'"),
        ("ranker.train.steps=0", "ranker.train.steps=0"),
        ("ranker", "is not key.path=value"),
        ("methods.srgan.start=nowhere", "methods.srgan.start='nowhere'"),
        ("methods.hr={generator: {arch: fsrcnn}, weights: {pixel: 1}, hr_patch_px: 96, train: {steps: 1, batch_size: 8, learning_rate: 1, beta2: 0.9, validate_every_steps: 1}}", "methods.hr"),
        ("methods.srgan.weights={pixel: 0, perceptual: 0, adversarial: 0}", "methods.srgan.weights"),
        ("methods.srgan.generator.features=32", "methods.srgan.generator differs from methods.srresnet.generator"),
        ("methods.srgan.hr_patch_px=98", "methods.srgan.hr_patch_px=98"),
        ("methods.srgan.hr_patch_px=28", "methods.srgan.hr_patch_px=28"),
        ("data.sub_image_px=60", "data.sub_image_px=60"),
        ("compute.num_workers=3", "compute.num_workers=3"),
        ("rank_dataset.methods=[srresnet, srgan, esrgan, ranksrgan]", "leave it out"),
        ("rank_dataset.methods=[srresnet, magic]", "'magic'"),
        ("ranker.methods=[srresnet, bicubic]", "ranker.methods names 'bicubic'"),
        ("ranker.methods=[srresnet]", "ranker.methods needs at least two"),
        ("evaluation.methods=[srgan, srgan]", "names srgan twice"),
        ("ranker.train.ema_decay=0.9", "ranker.train.ema_decay=0.9"),
        ("methods.srgan.train.ema_decay=1", "methods.srgan.train.ema_decay=1"),
        ("data.hr=skimage:rocket,coffee", "data.hr and the test set held-out share rocket"),
        ("rank_dataset.hr=skimage:chelsea", "rank_dataset.hr and the test set held-out share chelsea"),
        ("rank_dataset.patch_px=16", "rank_dataset.patch_px=16"),
        ("ranker.train.checkpoint=best", "best_metric"),
        ("scoring={niqe_model: fit, ma_model: published, ma_opinions: a.csv}", "ma_opinions=a.csv is read only with ma_model=fit"),
        ("methods.srgan.generator.arch=unet", "methods.srgan.generator"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_key(demo: Config, override: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        demo.with_overrides([override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "half.yaml").write_text("name: half\n")
    with pytest.raises(UserError, match="key seed is missing"):
        load_config(tmp_path / "half.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "cannot read config"), ("- 1\n", "holds no mapping but list"), ("a: [", "is not YAML"), ("base: x.yaml\n", "x.yaml: base leads back")],
)  # fmt: skip
def test_a_file_that_is_no_config_is_named(tmp_path: pathlib.Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=says):
        load_config(tmp_path / "x.yaml")
