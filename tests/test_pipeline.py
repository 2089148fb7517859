"""The whole method at a tiny size: every stage real, reuse, refusal, faults."""

import math
import pathlib
import shutil

import pytest
import torch
import yaml

from ranksr import checkpoints, pipeline, storage
from ranksr.config import Config, load_config, with_overrides
from ranksr.errors import UserError
from ranksr.runs import Run, Stage
from ranksr.train import pictures

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STAGES = [
    *("patches", "calibration_niqe", "calibration_ma", "srresnet", "srgan"),
    *("rank_dataset", "ranker", "ranksrgan", "evaluation"),
]
WITHOUT_ESRGAN = [  # two more trainings of the same kind
    "methods.esrgan=null",
    "methods.esrgan_psnr=null",
    "rank_dataset.methods=[srresnet, srgan]",
    "evaluation.methods=[bicubic, srresnet, srgan, ranksrgan, hr]",
]


def context(config: Config, folder: str) -> pipeline.Context:
    return pipeline.Context(config, Run(folder), start_ray=lambda: None)


@pytest.fixture(scope="module")
def config(root: pathlib.Path, tiny: list[str]) -> Config:
    every_metric = ["scoring.ma_model=fit", "scoring.metrics=[niqe, ma, pi, psnr]"]
    return load_config(root / "configs" / "demo.yaml", [*tiny, *WITHOUT_ESRGAN, *every_metric])


@pytest.fixture(scope="module")
def finished(config: Config, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a finished run."""
    folder = str(tmp_path_factory.mktemp("run"))
    pipeline.run_pipeline(context(config, folder), [])
    return folder


def test_every_stage_is_done_and_explains_itself(config: Config, finished: str) -> None:
    stages = pipeline.plan(context(config, finished))
    assert sorted(stage.name for stage in stages) == sorted(STAGES)
    assert all(stage.done and stage.settings is not None for stage in stages)
    assert storage.exists(f"{finished}/run.json")


def test_the_rank_dataset_has_a_row_per_location_with_every_method(finished: str) -> None:
    table = storage.read_table(f"{finished}/rank_dataset")
    assert table["methods"][0].as_py() == ["srresnet", "srgan", "hr"]
    assert set(table["profile"].to_pylist()) == {"pirm"}
    for row in table.to_pylist():
        assert len(row["pngs"]) == len(row["niqe"]) == len(row["ma"]) == 3
        assert all(0 < value < 12 for value in row["ma"])
        assert all(2 < value < 100 for value in row["niqe"])
    splits = {(row["image_id"], row["split"]) for row in table.select(["image_id", "split"]).to_pylist()}
    assert len({image for image, _ in splits}) == len(splits)  # no image is in both splits


def test_scores_cover_every_method_and_metric(config: Config, finished: str) -> None:
    rows = storage.read_table(f"{finished}/evaluation/scores.parquet").to_pylist()
    scores = {(row["method"], row["metric"]): row["value"] for row in rows}
    assert {method for method, _ in scores} == set(config.evaluation.methods)
    assert all(math.isfinite(value) for value in scores.values())
    assert ("hr", "psnr") not in scores
    assert {row["profile"] for row in rows} == {"pirm"}


def test_every_training_leaves_weights_curves_and_events(finished: str) -> None:
    for stage in ("srresnet", "srgan", "ranker", "ranksrgan"):
        assert storage.exists(f"{finished}/{stage}/weights.pt")
        rows = storage.read_jsonl(f"{finished}/{stage}/metrics.jsonl")
        assert [row["step"] for row in rows if row["split"] == "val"] == [2, 4]
        assert storage.list_files(f"{finished}/tensorboard/{stage}")
        assert pictures.kept_steps(f"{finished}/{stage}") == ([] if stage == "ranker" else [2, 4])
    terms = storage.read_jsonl(f"{finished}/ranksrgan/metrics.jsonl")[0]
    assert {"pixel", "perceptual", "adversarial", "rank_content", "discriminator"} <= set(terms)


def test_a_finished_run_needs_no_ray_and_stays_as_it_is(config: Config, finished: str) -> None:
    before = storage.list_files(finished)

    def no_ray() -> None:
        raise AssertionError("Ray was started")

    story = pipeline.run_pipeline(pipeline.Context(config, Run(finished), no_ray), [])
    assert storage.list_files(finished) == before
    assert story.scores.num_rows > 0
    ranked = story.rankers[0].rank_dataset
    assert ranked.splits["all"].num_locations == storage.read_table(f"{finished}/rank_dataset").num_rows
    assert all(len(flip.pngs) >= 2 for flip in ranked.flips)


def test_the_report_of_a_finished_run_shows_what_people_said_since(
    config: Config, finished: str, tmp_path: pathlib.Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    studied = {"participants": 1, "votes": 0, "rankings": 0, "shares": [], "ranks": {}, "pair_strengths": {}}
    studied |= {"ranking_strengths": {}, "concordance": {"value": None, "low": None, "high": None}, "metrics": {}}
    found = {"title": "t", "test_set": "held-out", "groups": {"Everybody asked": studied}}
    storage.write_json(str(run / "studies" / "first" / "results.json"), found)
    pipeline.run_pipeline(context(config, str(run)), [])
    assert "Everybody asked: 1 participant," in (run / "report" / "index.html").read_text()


def test_the_report_scores_every_validation_location_with_the_ranker(
    config: Config, finished: str, tmp_path: pathlib.Path
) -> None:
    splits = storage.read_table(f"{finished}/rank_dataset", ["split"])["split"].to_pylist()
    assert pipeline.tell(context(config, finished)).rankers[0].scores.num_rows == splits.count("val") > 0
    older = shutil.copytree(finished, tmp_path / "older")
    (older / "ranker" / "ranker_scores.parquet").unlink()
    assert pipeline.tell(context(config, str(older))).rankers[0].scores is None


def test_a_round_two_rankers_a_blend_and_an_earlier_network_are_stages_that_build_on_the_others(
    config: Config, finished: str, tmp_path: pathlib.Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.glob("*/stage.json") if path.parent.name != "evaluation"}
    shutil.rmtree(run / "evaluation")
    changed = with_overrides(
        config,
        [
            "rank_datasets.wider={methods: [srresnet, srgan, ranksrgan], patch_px: 200, stride_px: 200}",
            f"rankers.second={yaml.safe_dump(config.ranker.model_dump(mode='json'), default_flow_style=True).strip()}",
            "rankers.second={rank_dataset: wider, methods: [srgan, ranksrgan, hr]}",
            "ranker.rank_dataset=rank_dataset",
            "methods.ranksrgan.weights.rank_content={ranker: 0.03}",
            f"methods.again={yaml.safe_dump(config.methods['ranksrgan'].model_dump(mode='json'), default_flow_style=True)}",
            "methods.again={start: srgan@2, weights: {rank_content: {ranker: 0.01, second: 0.02}}}",
            "blends.between={methods: [srresnet, srgan], weight: 0.25}",
            "evaluation.methods=[between, srgan@2, again, hr]",
        ],
    )
    assert [stage.name for stage in pipeline.rank_datasets(context(changed, str(run)), "rank_dataset")] == [
        "rank_dataset"
    ]
    assert not (run / "wider").exists()  # a rank dataset asked for by name builds no other
    story = pipeline.run_pipeline(context(changed, str(run)), [])
    assert {path: path.read_bytes() for path in before} == before  # nothing else was built again
    assert {row["method"] for row in story.scores.to_pylist()} == {"between", "srgan@2", "again", "hr"}
    assert [each.name for each in story.rankers] == ["ranker", "second"]
    first, second = (storage.read_table(str(run / name)).to_pylist() for name in ("rank_dataset", "wider"))
    assert [row["pngs"][:2] for row in first] == [row["pngs"][:2] for row in second]
    assert [row["niqe"] for row in first] == [[row["niqe"][at] for at in (0, 1, 3)] for row in second]
    terms = storage.read_jsonl(str(run / "again" / "metrics.jsonl"))
    assert {"rank_content_ranker", "rank_content_second"} <= set(terms[0])
    assert {"ranking_score_ranker", "ranking_phase_second", "ranking_correlation_second"} <= set(terms[1])
    kept = checkpoints.read(str(run / "srgan" / "checkpoints" / "step_00000002.pt"))["learner"]["generator"]
    early, between, srresnet, srgan = (
        checkpoints.read(str(run / name / "weights.pt"))["state_dict"]
        for name in ("srgan@2", "between", "srresnet", "srgan")
    )
    for key, value in kept.items():
        assert torch.equal(early[key], value)
        assert torch.allclose(between[key], 0.75 * srresnet[key] + 0.25 * srgan[key], atol=1e-6)
    shutil.rmtree(run / "srgan@2")
    shutil.rmtree(run / "srgan" / "checkpoints")
    again = pipeline.network(context(changed, str(run)), "srgan@2")  # trained that far once more
    assert again.fingerprint == next(stage["fingerprint"] for stage in story.stages if stage["name"] == "srgan@2")
    trained = checkpoints.read(again.path("weights.pt"))["state_dict"]
    assert all(torch.equal(early[key], value) for key, value in trained.items())


def test_a_changed_key_is_refused_by_name(config: Config, finished: str) -> None:
    changed = with_overrides(config, ["methods.srgan.train.learning_rate=0.5"])
    with pytest.raises(UserError, match=r"srgan was made with other settings \(methods.srgan.train.learning_rate: "):
        pipeline.run_pipeline(context(changed, finished), [])


def test_compute_is_no_part_of_the_identity_of_a_stage(config: Config, finished: str) -> None:
    changed = with_overrides(config, ["compute.num_workers=2", "compute.log_every_steps=1"])
    assert all(stage.done for stage in pipeline.plan(context(changed, finished)))


def later(context: pipeline.Context) -> Stage:
    """The last training, which needs all stages but the evaluation."""
    return pipeline.stage_of(context, "ranksrgan")


@pytest.mark.parametrize(
    "changes",
    [
        ["scoring.ma_model=null", "scoring.metrics=[niqe, psnr]"],
        ["validation.num_patches=1"],
        ["scoring.metrics=[niqe]", "methods.srgan.train.validate_every_steps=1", "ranker.train.validate_every_steps=1"],
        ["methods.srgan.train.best_metric=psnr", "methods.ranksrgan.train.best_metric=pi"],
        ["data.images_per_part=1", "data.max_bad_fraction=0.5", "data.on_bad_image=fail"],
        ["methods.srresnet.adversarial=relativistic"],  # without an adversarial loss
    ],
)
def test_what_does_not_decide_the_weights_refuses_no_training(
    config: Config, finished: str, changes: list[str]
) -> None:
    stages = pipeline.plan(context(with_overrides(config, changes), finished), later)
    assert {stage.state for stage in stages} == {"done"}
    assert {stage.name for stage in stages} >= {"srresnet", "srgan", "rank_dataset", "ranker", "ranksrgan"}


def test_a_metric_added_to_the_tables_scores_again_and_trains_nothing(
    config: Config, finished: str, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    fewer = with_overrides(config, ["scoring.metrics=[niqe, psnr]", "validation.num_patches=1"])
    with pytest.raises(UserError, match=r"evaluation was made with other settings \(scoring.metrics: "):
        pipeline.plan(context(fewer, str(run)))
    shutil.rmtree(run / "evaluation")  # as the message says
    before = {path: path.stat().st_mtime_ns for path in run.glob("*/*") if path.is_file()}
    with caplog.at_level("INFO", logger="ranksr"):
        pipeline.run_pipeline(context(fewer, str(run)), [])
    assert "to build: evaluation" in caplog.messages
    said = "stage srgan: its curves were made with other values of validation.num_patches; reused"
    assert said in caplog.messages
    assert {path: path.stat().st_mtime_ns for path in before if "report" not in path.parts} == {
        path: time for path, time in before.items() if "report" not in path.parts
    }


def test_another_methods_larger_crop_changes_that_method_alone(config: Config, finished: str) -> None:
    changed = context(with_overrides(config, ["methods.srgan.hr_patch_px=96"]), finished)
    assert pipeline.plan(changed, lambda each: pipeline.stage_of(each, "srresnet"))[-1].done
    with pytest.raises(UserError, match=r"srgan was made with other settings \(methods.srgan.hr_patch_px: 48 -> 96\)"):
        pipeline.plan(changed)


def test_a_run_of_an_older_ranksr_is_refused_by_that_name(
    config: Config, finished: str, tmp_path: pathlib.Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    entry = storage.read_json(f"{run}/patches/stage.json")
    del entry["identity"]
    storage.write_json(f"{run}/patches/stage.json", entry)
    with pytest.raises(UserError, match=r"patches was made by an older ranksr, .*choose another --run"):
        pipeline.plan(context(config, str(run)))


def test_photographs_added_later_are_noticed(config: Config, finished: str, tmp_path: pathlib.Path) -> None:
    for path in pathlib.Path(config.data.hr).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    moved = with_overrides(config, [f"data.hr={tmp_path}"])
    assert all(stage.done for stage in pipeline.plan(context(moved, finished)))  # the same files elsewhere
    (tmp_path / "another.png").write_bytes((tmp_path / "coffee.png").read_bytes())
    with pytest.raises(UserError, match=r"other photographs \(photographs of data.hr: added: another\)"):
        pipeline.plan(context(moved, finished))
