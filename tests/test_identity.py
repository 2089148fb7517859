"""Identity: what decides the result of a stage, and no more."""

import pathlib

import pytest

from ranksr import identity, pipeline, scoring, storage
from ranksr.checkpoints import Checkpoints
from ranksr.config import Config, config_of, with_overrides
from ranksr.runs import Run, Stage

MODELS = {"scoring.niqe_model": "n1", "scoring.ma_model": "m1"}
REFRESH = "{every_steps: 5, patches: 2, ranker_steps: 1, pool: 9}"
KEY = "methods.ranksrgan"


def best_by(metric: str) -> list[str]:
    return [f"{KEY}.train.checkpoint=best", f"{KEY}.train.best_metric={metric}"]


def training(config: Config, *changes: str, models: dict[str, str] = MODELS) -> identity.Identity:
    return identity.training(with_overrides(config, changes), KEY, {"patches": "p"}, models)


def test_with_the_last_weights_no_validation_and_no_scoring_is_part_of_a_training(demo: Config) -> None:
    made = training(demo)
    assert made.inputs == {"patches": "p"}
    assert not [key for key in made.settings if key.startswith(("scoring", "validation"))]
    assert not [key for key in made.settings if "validate" in key or "best_metric" in key]
    assert made.remarks == {
        "validation.num_patches": demo.validation.num_patches,
        "scoring.profile": "pirm",
        f"{KEY}.train.validate_every_steps": demo.methods["ranksrgan"].train.validate_every_steps,
        f"{KEY}.train.best_metric": None,
        **MODELS,
    }


@pytest.mark.parametrize(
    ("metric", "needs"),
    [("psnr", set()), ("niqe", {"scoring.niqe_model"}), ("pi", {"scoring.niqe_model", "scoring.ma_model"})],
)
def test_with_the_best_weights_what_the_best_metric_is_computed_by_is_part(
    demo: Config, metric: str, needs: set[str]
) -> None:
    made = training(demo, *best_by(metric))
    assert made.inputs.keys() == {"patches", *needs}
    assert made.settings[f"{KEY}.train.best_metric"] == metric
    assert {"validation.num_patches", f"{KEY}.train.validate_every_steps"} <= made.settings.keys()
    assert ("scoring.profile" in made.settings) == bool(needs)
    assert made.remarks.keys() == {*MODELS, "scoring.profile"} - needs - made.settings.keys()


def test_the_best_ranker_depends_on_its_validations_and_the_last_does_not(demo: Config) -> None:
    last, best = (
        identity.training(with_overrides(demo, changes), "ranker", {}, {})
        for changes in ([], ["ranker.train.checkpoint=best", "ranker.train.best_metric=srocc"])
    )
    assert "validation.num_patches" in last.remarks
    assert "validation.num_patches" in best.settings
    assert not best.remarks


@pytest.mark.parametrize(
    "change",
    [
        "methods.srgan.hr_patch_px=96",
        "ranker.margin=0.1",
        "discriminator.features=8",
        "methods.ranksrgan.adversarial=relativistic",
    ],
)
def test_a_training_is_not_affected_by_keys_that_it_does_not_read(demo: Config, change: str) -> None:
    alone = [f"{KEY}.weights={{pixel: 1, perceptual: 0, adversarial: 0, rank_content: 0}}"]
    assert training(demo, *alone) == training(demo, *alone, change)


@pytest.mark.parametrize(
    "change", [f"{KEY}.train.steps=7", f"{KEY}.hr_patch_px=32", "seed=5", f"{KEY}.train.checkpoint=best"]
)
def test_a_training_is_affected_by_what_it_reads(demo: Config, change: str) -> None:
    metric = [f"{KEY}.train.best_metric=psnr"]
    assert training(demo, *metric).settings != training(demo, *metric, change).settings


def stage(made: identity.Identity) -> Stage:
    return Stage("any", "/any", "f", made.settings, made.inputs, "done", {}, made.remarks)


def test_a_curve_that_is_compared_counts(demo: Config) -> None:
    """Early stopping compares validations: a training that others made with other ones is no part of it."""
    made, other = training(demo), training(demo, "validation.num_patches=99")
    assert made.settings == other.settings
    assert identity.watched(made).settings != identity.watched(other).settings
    assert identity.is_made_as(stage(made), stage(identity.watched(made)))
    assert not identity.is_made_as(stage(other), stage(identity.watched(made)))
    assert not identity.is_made_as(stage(training(demo, models={})), stage(identity.watched(made)))


def test_keys_that_came_later_change_no_fingerprint_of_what_was_made_before_them(demo: Config) -> None:
    for key, changes in (
        ("ranker", ["ranker.crop_px=96"]),
        ("methods.ranksrgan", ["rank_content_loss.shift_px=3"]),
        ("methods.ranksrgan", [f"rank_content_loss.refresh={REFRESH}"]),
    ):
        before = identity.training(demo, key, {}, {}).settings
        assert not before.keys() & identity.LATER.keys()
        after = identity.training(with_overrides(demo, changes), key, {}, {}).settings
        assert before.items() < after.items()
    refreshed = with_overrides(demo, [f"rank_content_loss.refresh={REFRESH}"])
    before = identity.training(refreshed, "methods.ranksrgan", {}, {}).settings
    for change in ("perturbed=3", "standardise=true"):
        changed = with_overrides(refreshed, [f"rank_content_loss.refresh.{change}"])
        assert before.items() < identity.training(changed, "methods.ranksrgan", {}, {}).settings.items()


@pytest.mark.parametrize("method", ["srgan", "ranksrgan"])
def test_the_weight_of_the_only_ranker_is_hashed_as_the_number_of_a_config_with_one_ranker(
    demo: Config, method: str
) -> None:
    weight = f"methods.{method}.weights.rank_content"
    settings = identity.training(demo, f"methods.{method}", {}, {}).settings
    # Equal is not enough: 0 == 0.0, and JSON, which is hashed, tells them apart.
    assert storage.to_json(settings[weight]) == storage.to_json(demo.select(weight)[weight])


def test_the_name_of_a_ranker_and_of_a_rank_dataset_is_no_setting(demo: Config) -> None:
    tree = demo.model_dump(mode="json")
    tree |= {
        "rankers": {"other": tree["rankers"]["ranker"]},
        "rank_datasets": {"patches_of": tree["rank_datasets"]["rank_dataset"]},
    }
    renamed = config_of(tree, "a test")
    for key, other in (("ranker", "rankers.other"), ("methods.ranksrgan", "methods.ranksrgan")):
        assert identity.training(demo, key, {}, {}) == identity.training(renamed, other, {}, {})
    assert identity.rank_dataset(demo, "rank_dataset", {}, MODELS) == identity.rank_dataset(
        renamed, "patches_of", {}, MODELS
    )


def rank_dataset(config: Config, models: dict[str, str]) -> Stage:
    return stage(identity.rank_dataset(config, "rank_dataset", {"srgan": "g"}, models))


def test_a_finished_rank_dataset_serves_a_ranker_whose_metric_it_stores(demo: Config) -> None:
    both = with_overrides(demo, ["ranker.metric=niqe", "scoring.ma_model=fit"])
    alone = with_overrides(demo, ["ranker.metric=niqe", "scoring.ma_model=null", "scoring.metrics=[niqe]"])
    niqe = {"scoring.niqe_model": "n1"}
    assert identity.holds_labels(
        both, "rank_dataset", rank_dataset(alone, niqe), rank_dataset(both, MODELS)
    )  # PI came to the tables
    assert identity.holds_labels(
        alone, "rank_dataset", rank_dataset(both, MODELS), rank_dataset(alone, niqe)
    )  # and went
    by_ma = with_overrides(both, ["ranker.metric=ma"])
    assert not identity.holds_labels(by_ma, "rank_dataset", rank_dataset(alone, niqe), rank_dataset(by_ma, MODELS))
    assert identity.holds_labels(by_ma, "rank_dataset", rank_dataset(both, MODELS), rank_dataset(by_ma, MODELS))
    other = {**MODELS, "scoring.ma_model": "m2"}
    assert identity.holds_labels(both, "rank_dataset", rank_dataset(both, other), rank_dataset(both, MODELS))
    assert not identity.holds_labels(by_ma, "rank_dataset", rank_dataset(both, other), rank_dataset(by_ma, MODELS))
    changed = with_overrides(both, ["rank_dataset.stride_px=32"])
    assert not identity.holds_labels(changed, "rank_dataset", rank_dataset(both, MODELS), rank_dataset(changed, MODELS))


def test_an_evaluation_depends_on_the_models_of_its_own_metrics(demo: Config) -> None:
    changed = with_overrides(demo, ["scoring.metrics=[niqe, psnr]"])
    assert identity.evaluation(changed, {}, MODELS).inputs == {"scoring.niqe_model": "n1"}
    changed = with_overrides(demo, ["scoring.metrics=[pi]", "scoring.ma_model=fit"])
    assert identity.evaluation(changed, {}, MODELS).inputs == MODELS


def test_opinions_count_with_the_content_of_the_images_that_they_are_of(demo: Config, tmp_path: pathlib.Path) -> None:
    config = with_overrides(demo, ["scoring.ma_model=fit", f"scoring.ma_opinions={tmp_path / 'opinions.csv'}"])
    (tmp_path / "opinions.csv").write_text("image,opinion\na.png,5\nb.png,7\na.png,6\n")

    def fingerprint() -> str:
        run = Run(str(tmp_path / "run"))
        return scoring.calibration_ma(pipeline.Context(config, run, start_ray=lambda: None, dry=True)).fingerprint

    (tmp_path / "a.png").write_bytes(b"1")
    before = fingerprint()
    (tmp_path / "unrated.png").write_bytes(b"1")
    assert fingerprint() == before
    (tmp_path / "a.png").write_bytes(b"2")
    assert fingerprint() != before


def test_the_identity_of_a_training_is_taken_once_however_many_rounds_build_on_it(
    demo: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = demo.model_dump(mode="json")
    gan, methods = tree["methods"]["ranksrgan"], ["srresnet", "srgan"]
    rank_datasets, rankers = tree["rank_datasets"], tree["rankers"]
    first = {"dataset": rank_datasets.pop("rank_dataset"), "ranker": rankers.pop("ranker")}
    for number in range(1, 7):
        rank_datasets[f"dataset_{number}"] = first["dataset"] | {"methods": list(methods)}
        rankers[f"ranker_{number}"] = first["ranker"] | {
            "rank_dataset": f"dataset_{number}",
            "methods": ["srresnet", "srgan"],
        }
        steered = gan["weights"] | {"rank_content": {f"ranker_{number}": 0.03}}
        tree["methods"][name := "ranksrgan" if number == 1 else f"ranksrgan_{number}"] = gan | {"weights": steered}
        methods.append(name)
    config = config_of(tree | {"evaluation": {"methods": methods}}, "a test")
    asked: list[str] = []
    taken = identity.training
    monkeypatch.setattr(identity, "training", lambda config, key, *rest: asked.append(key) or taken(config, key, *rest))
    stages = pipeline.plan(pipeline.Context(config, Run(str(tmp_path)), start_ray=lambda: None))
    generators = [key for key in asked if key.startswith("methods.")]
    assert sorted(generators) == sorted(f"methods.{name}" for name in methods)
    assert {f"ranker_{number}" for number in range(1, 7)} <= {stage.name for stage in stages}


@pytest.mark.parametrize("changes", [[], best_by("psnr"), best_by("niqe")])
def test_an_earlier_step_is_taken_from_a_checkpoint_whatever_weights_its_training_kept(
    demo: Config, tmp_path: pathlib.Path, changes: list[str]
) -> None:
    step, inputs = 7, {"patches": "p"}
    config = with_overrides(demo, [*changes, f"{KEY}.train.steps=9"])
    made = identity.training(config, KEY, inputs, MODELS)
    run = Run(str(tmp_path / "run"))
    begun = run.find("ranksrgan", made.settings, made.inputs)
    run.begin(begun)
    Checkpoints(begun.path("checkpoints"), 5).save(step, {"step": step})
    methods = {**config.methods, "ranksrgan": config.method_of(f"ranksrgan@{step}")}
    shorter = config.model_copy(update={"methods": methods})
    context = pipeline.Context(shorter, run, start_ray=lambda: None)
    slower = with_overrides(shorter, [f"{KEY}.train.learning_rate=0.01"])
    asked = [(shorter, inputs), (slower, inputs), (shorter, {"patches": "q"})]
    found = []
    for changed, made_from in asked:
        wanted = identity.training(changed, KEY, made_from, MODELS)
        stage = run.find(f"ranksrgan@{step}", wanted.settings, wanted.inputs)
        found.append(pipeline._kept_state(context, stage, "ranksrgan"))
    assert found == [{"step": step}, None, None]
