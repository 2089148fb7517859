"""The estimate of a run that is not made yet: its arithmetic, whose rates it takes, and that it reads no corpus."""

import io
import pathlib

import pytest
import torch

from ranksr import pipeline
from ranksr.ablation.schedule import plan_trial
from ranksr.cluster import Node
from ranksr.config import Config, with_overrides
from ranksr.data import digests
from ranksr.data.sources import Photo
from ranksr.inspect import estimate, rates
from ranksr.inspect.estimate import Asked, Estimate, Estimator, Machines
from ranksr.inspect.rates import Network, Photographs, Rates
from ranksr.runs import Run
from ranksr.train.world import World

NODES = [Node("a", 4, 1, 0)]
TRAINED, TESTED = "skimage:astronaut,coffee,ihc,motorcycle_left", "skimage:chelsea,rocket"


def estimator(config: Config, pixel_seconds: float = 0.0, **changes: object) -> Estimator:
    """Of a step of 2 s, photographs of 1000 px and ten locations, and all else free but for `changes`."""
    photo = Photographs(pixels=1000, read_seconds=0, sub_images=1600, locations={"rank_dataset": 10})
    network = Network(pixel_seconds, step_seconds=2, checkpoint_bytes=100, weights_bytes=10)
    free = {"png_seconds": 0.0, "png_bytes": 0.0, "metric_seconds": {}, "fit_seconds": 0.0, **changes}
    names = [*config.methods, *config.rankers]
    found = Rates("here", 0.0, {config.data.hr: photo, TESTED: photo}, dict.fromkeys(names, network), **free)  # type: ignore[arg-type]
    photographs = {config.data.hr: [Photo(str(n), "") for n in range(40)], TESTED: [Photo("x", "")] * 4}
    return Estimator(config, photographs, found, Machines(NODES, start_seconds=1))


def seconds_of(found: Estimator, name: str, run: pathlib.Path) -> float:
    (stage,) = (each for each in estimate.missing(found.config, str(run)) if each.name == name)
    return found.of(stage)[0]


def test_each_kind_of_work_takes_its_time(demo: Config, tmp_path: pathlib.Path) -> None:
    assert seconds_of(estimator(demo), "srresnet", tmp_path) == pytest.approx(0.3 + 400 * 2)
    several = with_overrides(demo, ["compute.gpus_per_worker=1"])
    assert seconds_of(estimator(several), "srresnet", tmp_path) == pytest.approx(8.5 + 400 * 2)
    scored = estimator(demo, metric_seconds={"niqe": 1e-5, "psnr": 0.0, "ma": 3e-5})
    # Four validations of 16 images of 200 px by two workers.
    assert seconds_of(scored, "srresnet", tmp_path) == pytest.approx(0.3 + 800 + 4 * 16 * 200**2 * 4e-5 / 2)
    # Ten locations of four methods of 200 px, by four processes.
    assert seconds_of(scored, "rank_dataset", tmp_path) == pytest.approx(1 + 40 * 10 * 4 * 200**2 * 4e-5 / 4)
    # Six methods that are made, of four photographs.
    upscaled = estimator(demo, pixel_seconds=1e-3)
    assert seconds_of(upscaled, "evaluation", tmp_path) == pytest.approx(1 + 4 * 5 * 1000 * 1e-3 / 4)
    cut = estimator(demo, png_seconds=1e-3)
    assert seconds_of(cut, "patches", tmp_path) == pytest.approx(1 + 40 * 1700 * 1e-3 / 4)


def test_a_refresh_scores_the_perturbed_copies_as_well(demo: Config, tmp_path: pathlib.Path) -> None:
    refresh = "rank_content_loss.refresh={every_steps: 5, patches: 4, ranker_steps: 2, pool: 64"
    plain, perturbed = (
        seconds_of(
            estimator(with_overrides(demo, [f"{refresh}, perturbed: {copies}}}"]), metric_seconds={"niqe": 1e-5}),
            "ranksrgan",
            tmp_path,
        )
        for copies in (0, 3)
    )
    # 80 steps: 16 refreshes, three times four patches of 200 px more in each, by two workers.
    assert perturbed - plain == pytest.approx(16 * 3 * 4 * 200**2 * 1e-5 / 2)


def test_bytes_are_those_of_the_runs_storage(demo: Config, tmp_path: pathlib.Path) -> None:
    found = estimator(demo, png_bytes=2.0)
    stages = {stage.name: found.of(stage)[1] for stage in estimate.missing(demo, str(tmp_path))}
    assert stages["srresnet"] == 2 * 100 + 10
    assert stages["patches"] == 40 * 1700 * 2
    assert stages["rank_dataset"] == 40 * 10 * 4 * 200**2 * 2


def test_a_fresh_run_is_planned_without_reading_photographs(
    demo: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(source: str) -> list[Photo]:
        raise AssertionError(source)

    monkeypatch.setattr(digests, "digested", read)
    names = [stage.name for stage in estimate.missing(demo, str(tmp_path / "run"))]
    assert {"calibration_ma", "patches", "srresnet", "rank_dataset", "ranker", "ranksrgan"} < set(names)
    assert names[-1] == "evaluation"


def test_finished_stages_of_a_run_tell_their_rates(demo: Config, tmp_path: pathlib.Path) -> None:
    run = Run(str(tmp_path / "run"))
    stages = {each.name: each for each in pipeline.plan(pipeline.Context(demo, run, start_ray=lambda: None))}
    run.finish(run.begin(stages["rank_dataset"]), {"seconds": 60.0, "images": 4})
    trial = with_overrides(demo, ["methods.fsrcnn.train.steps=100"])
    (trained,) = (each for each in plan_trial(trial, run, {}) if each.name == "fsrcnn")
    run.trials.finish(run.trials.begin(trained), {"seconds": 70.0, "num_workers": 1})
    # Of another run: ten times as many photographs; twice the steps on two workers.
    found = estimate.recorded_seconds(run, stages.values(), {"rank_dataset": 40, "patches": 40}, num_workers=2)
    assert found == {"rank_dataset": pytest.approx(600), "fsrcnn": pytest.approx(70)}


def test_the_row_says_whose_rates_they_are() -> None:
    measured = [
        Estimate("srgan", 7200, 2e9, "measured on x (CPU)"),
        Estimate("patches", 30, 1e9, "measured on x (CPU)"),
    ]
    assert estimate.as_text(measured) == (
        "2 stages to build; about 2.0 h and 3 GB (srgan 2.0 h, patches 30 s) at rates measured on x (CPU)"
    )
    assert estimate.as_text([*measured, Estimate("ranker", 90, 0, "of runs/a")]).endswith(
        "at rates measured on x (CPU) (srgan, patches); of runs/a (ranker)"
    )


def test_the_price_is_that_of_all_present_nodes() -> None:
    both = Asked(price_per_core_hour=0.05, price_per_gpu_hour=2.0)
    assert estimate.price(2.0, NODES, both) == (pytest.approx(4.4), "4 CPU and 1 GPU")
    assert estimate.price(2.0, NODES, Asked(price_per_core_hour=0.05)) == (pytest.approx(0.4), "4 CPU")
    assert estimate.price(2.0, NODES, Asked()) is None


def test_a_measurement_times_every_kind_of_work_and_counts_the_detailed_locations(
    demo: Config, tiny: list[str], photographs: pathlib.Path
) -> None:
    config = with_overrides(demo, [*tiny, "blends.between={methods: [srresnet, srgan]}"])
    sampled = {str(photographs): [str(path) for path in sorted(photographs.iterdir())][:2]}
    found = rates.measure(config, sampled, ["between"], ["niqe", "psnr", "pyiqa:musiq"])
    assert set(found.networks) == {"between", *config.methods, "ranker"}
    assert all(each.pixel_seconds > 0 for each in found.networks.values())
    trained = {name: each for name, each in found.networks.items() if name != "between"}
    assert all(each.step_seconds > 0 for each in trained.values())
    srresnet, learner = trained["srresnet"], rates.sr_learner(config, "srresnet", World(), 48)
    learner.update({"lr": torch.zeros(2, 3, 12, 12), "hr": torch.ones(2, 3, 48, 48)}, 0)
    file = io.BytesIO()
    torch.save(learner.state(), file)
    assert srresnet.checkpoint_bytes == pytest.approx(len(file.getvalue()), rel=0.1)
    assert trained["srgan"].checkpoint_bytes > srresnet.checkpoint_bytes > 3 * srresnet.weights_bytes * 0.99
    assert set(found.metric_seconds) == {"niqe", "psnr"}  # nobody timed the other one
    (photo,) = found.photographs.values()
    assert (photo.pixels, photo.sub_images, photo.locations) == (240**2, 4 * 120**2, {"rank_dataset": 1.0})
    flat = with_overrides(config, ["rank_dataset.min_sigma=200"])
    (photo,) = rates.measure(flat, sampled, [], []).photographs.values()
    assert photo.locations == {"rank_dataset": 0.0}
