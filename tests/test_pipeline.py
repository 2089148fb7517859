"""The whole method at a tiny size: every stage real, reuse, refusal, faults."""

import math
import pathlib
import shutil

import pytest

from ranksr import pipeline, storage
from ranksr.config import Config, UserError, load_config
from ranksr.runs import Run

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STAGES = ["calibration", "patches", "srresnet", "srgan", "rank_dataset", "ranker", "ranksrgan", "evaluation"]
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
    terms = storage.read_jsonl(f"{finished}/ranksrgan/metrics.jsonl")[0]
    assert {"pixel", "perceptual", "adversarial", "rank_content", "discriminator"} <= set(terms)


def test_a_finished_run_needs_no_ray_and_stays_as_it_is(config: Config, finished: str) -> None:
    before = storage.list_files(finished)

    def no_ray() -> None:
        raise AssertionError("Ray was started")

    story = pipeline.run_pipeline(pipeline.Context(config, Run(finished), no_ray), [])
    assert storage.list_files(finished) == before
    assert story.scores.num_rows > 0
    assert story.rank_dataset.splits["all"].num_locations == storage.read_table(f"{finished}/rank_dataset").num_rows
    assert all(len(flip.pngs) >= 2 for flip in story.rank_dataset.flips)


def test_the_report_scores_every_validation_location_with_the_ranker(
    config: Config, finished: str, tmp_path: pathlib.Path
) -> None:
    splits = storage.read_table(f"{finished}/rank_dataset", ["split"])["split"].to_pylist()
    assert pipeline.tell(context(config, finished)).ranker_scores.num_rows == splits.count("val") > 0
    older = shutil.copytree(finished, tmp_path / "older")
    (older / "ranker" / "ranker_scores.parquet").unlink()
    assert pipeline.tell(context(config, str(older))).ranker_scores is None


def test_a_changed_key_is_refused_by_name(config: Config, finished: str) -> None:
    changed = config.with_overrides(["methods.srgan.train.learning_rate=0.5"])
    with pytest.raises(UserError, match=r"srgan was made with other settings \(methods.srgan.train.learning_rate: "):
        pipeline.run_pipeline(context(changed, finished), [])


def test_compute_is_no_part_of_the_identity_of_a_stage(config: Config, finished: str) -> None:
    changed = config.with_overrides(["compute.num_workers=2", "compute.log_every_steps=1"])
    assert all(stage.done for stage in pipeline.plan(context(changed, finished)))


def test_photographs_added_later_are_noticed(config: Config, finished: str, tmp_path: pathlib.Path) -> None:
    for path in pathlib.Path(config.data.hr).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    moved = config.with_overrides([f"data.hr={tmp_path}"])
    assert all(stage.done for stage in pipeline.plan(context(moved, finished)))  # the same files elsewhere
    (tmp_path / "another.png").write_bytes((tmp_path / "coffee.png").read_bytes())
    with pytest.raises(UserError, match="input data.hr changed"):
        pipeline.plan(context(moved, finished))
