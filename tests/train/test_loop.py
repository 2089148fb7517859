"""The loop: resumes exactly, keeps the best, stops before a broken step."""

import json
import pathlib
from typing import Any

import boto3
import numpy as np
import pytest
import torch

from ranksr import checkpoints, storage
from ranksr.config import Compute, Training
from ranksr.data.prefetch import prefetch
from ranksr.train import journal, loop, pictures
from ranksr.train.world import World

TRAINING = Training(
    steps=6, batch_size=2, learning_rate=0.1, beta2=0.999, milestones=(2, 4), validate_every_steps=2
)  # fmt: skip
COMPUTE = Compute(log_every_steps=1, checkpoint_every_steps=2, keep_checkpoints=2)


class Line:
    """A learner of one weight."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.network, self.dies_at = torch.nn.Linear(1, 1), dies_at
        torch.nn.init.constant_(self.network.weight, 0.5)
        torch.nn.init.constant_(self.network.bias, 0.0)
        self.optimizer = loop.make_adam(self.network, TRAINING)
        self.rates: list[float] = []

    def update(self, batch: dict[str, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        if step == self.dies_at:
            raise KeyboardInterrupt
        loss = (self.network(batch["x"]) - 3 * batch["x"]).square().mean()
        loop.set_learning_rate(self.optimizer, loop.learning_rate(TRAINING, step))
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"square": loss.detach()}

    def validate(self) -> dict[str, float]:
        return {"psnr": -abs(float(self.network.weight.detach()) - 0.75)}

    def observe(self) -> dict[str, torch.Tensor]:
        return {"gradient_norm": loop.gradient_norm(self.network)}

    def pictures(self) -> pictures.Pictures:
        grey = np.full((4, 4, 3), min(255, int(100 * abs(float(self.network.weight.detach())))), np.uint8)
        return {"one": {"lr": grey[:1, :1], "bicubic": grey, "sr": grey, "hr": grey}}

    def state(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])

    def save_weights(self, path: str, about: dict[str, Any]) -> None:
        checkpoints.write(path, {"weights": self.network.state_dict(), "about": about})


def run(folder: pathlib.Path, learner: Line, training: Training = TRAINING) -> list[dict[str, float]]:
    reports: list[dict[str, float]] = []

    def batches(steps: range):
        return prefetch(lambda step: {"x": torch.full((2, 1), 1.0 + step)}, steps, threads=1)

    place = loop.Place("line", str(folder / "line"), str(folder / "tensorboard"), {"train.steps": 6})
    loop.fit(learner, batches, training, place, World(compute=COMPUTE), reports.append)
    return reports


def test_the_learning_rate_is_halved_at_its_milestones(tmp_path: pathlib.Path) -> None:
    learner = Line()
    run(tmp_path, learner)
    assert learner.rates == [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]


def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: pathlib.Path) -> None:
    whole = Line()
    run(tmp_path / "whole", whole)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", Line(dies_at=5))
    resumed = Line()
    run(tmp_path / "killed", resumed)
    assert len(resumed.rates) == 2  # from the checkpoint of step 4
    assert torch.equal(resumed.network.weight, whole.network.weight)
    rows = [storage.read_jsonl(str(tmp_path / name / "line" / "metrics.jsonl")) for name in ("whole", "killed")]
    assert rows[0] == rows[1]


def test_validations_come_at_their_steps_and_at_the_last(tmp_path: pathlib.Path) -> None:
    reports = run(tmp_path, Line(), TRAINING.model_copy(update={"steps": 5}))
    assert [report["step"] for report in reports] == [2, 4, 5]


def test_only_the_newest_checkpoints_are_kept(tmp_path: pathlib.Path) -> None:
    run(tmp_path, Line())
    assert checkpoints.Checkpoints(str(tmp_path / "line" / "checkpoints"), keep=2).steps() == [4, 6]


def test_the_best_weights_are_taken_when_the_config_says_so(tmp_path: pathlib.Path) -> None:
    best = TRAINING.model_copy(update={"checkpoint": "best", "best_metric": "psnr"})
    reports = run(tmp_path, Line(), best)
    kept = checkpoints.read(str(tmp_path / "line" / "weights.pt"))
    assert kept["about"]["validation"]["psnr"] == max(report["psnr"] for report in reports)
    assert kept["about"]["step"] < 6


def test_a_term_that_is_not_finite_is_named_before_the_step() -> None:
    terms = {"pixel": torch.tensor(1.0), "adversarial": torch.tensor(float("nan"))}
    with pytest.raises(loop.NonFiniteLossError, match="adversarial is not finite at step 8"):
        loop.check_finite(terms, 7, World())


def test_a_finished_training_is_not_trained_again(tmp_path: pathlib.Path) -> None:
    run(tmp_path, Line())
    again = Line()
    run(tmp_path, again)
    assert again.rates == []


def test_the_event_file_reads_back_with_one_value_a_step(tmp_path: pathlib.Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    run(tmp_path, Line())
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    speed = ("steps_per_second", "images_per_second", "data_wait_fraction", "memory_gib", "seconds_left")
    trained = {"train/square", "train/learning_rate", "train/gradient_norm"}
    assert set(events.Tags()["scalars"]) == {*trained, "val/psnr", *(f"speed/{name}" for name in speed)}
    assert [event.step for event in events.Scalars("val/psnr")] == [2, 4, 6]
    assert [event.step for event in events.Images("val/lr_bicubic_sr_hr")] == [2, 4, 6]
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    hparams = plugin_data_pb2.HParamsPluginData.FromString(
        events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    ).session_start_info.hparams
    assert hparams["train.steps"].number_value == 6


def test_best_weights_are_those_of_the_run_that_the_checkpoint_belongs_to(tmp_path: pathlib.Path) -> None:
    """Killed between a validation and the next checkpoint, and resumed on another path: the lost best is forgotten."""
    training = TRAINING.model_copy(update={"checkpoint": "best", "best_metric": "psnr", "validate_every_steps": 1})
    whole, resumed = Line(), Line()
    run(tmp_path / "whole", whole, training)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", Line(dies_at=3), training)
    found = checkpoints.Checkpoints(str(tmp_path / "killed" / "line" / "checkpoints"), keep=2)
    assert found.steps() == [2]
    lost = found.best_path(3)  # validated after the checkpoint, and better than all before
    assert storage.exists(lost)
    checkpoints.write(lost, {"weights": {}, "about": {"step": 3, "validation": {}}})
    for path in (tmp_path / "killed" / "line" / "checkpoints").glob("best_*"):
        state = checkpoints.read(str(path))
        state["about"]["from"] = "the killed run"
        checkpoints.write(str(path), state)
    run(tmp_path / "killed", resumed, training)
    kept, expected = (checkpoints.read(str(tmp_path / name / "line" / "weights.pt")) for name in ("killed", "whole"))
    assert kept["about"] == expected["about"]
    assert all(torch.equal(kept["weights"][name], weight) for name, weight in expected["weights"].items())
    assert [path.name for path in (tmp_path / "killed").rglob("best_*")] == [f"best_{kept['about']['step']:08d}.pt"]


def curves(folder: pathlib.Path) -> dict[str, list[int]]:
    """Steps of every scalar that TensorBoard shows of a run, and of its pictures."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    found = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return found | {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}


@pytest.mark.parametrize("dies_at", [1, 3, 5])
def test_curves_do_not_double_back_after_a_kill_whether_or_not_there_was_a_checkpoint(
    tmp_path: pathlib.Path, dies_at: int
) -> None:
    training = TRAINING.model_copy(update={"validate_every_steps": 1})
    run(tmp_path / "whole", Line(), training)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", Line(dies_at=dies_at), training)
    assert curves(tmp_path / "killed")["val/psnr"] == list(range(1, dies_at + 1))
    run(tmp_path / "killed", Line(), training)
    assert curves(tmp_path / "killed") == curves(tmp_path / "whole")


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """The pictures of a training."""
    kept = folder / "line" / "images" / "validation"
    return {str(path.relative_to(kept)): path.read_bytes() for path in kept.rglob("*") if path.is_file()}


@pytest.mark.parametrize("dies_at", [1, 3, 5])
def test_pictures_after_a_kill_are_those_of_an_undisturbed_training(tmp_path: pathlib.Path, dies_at: int) -> None:
    training = TRAINING.model_copy(update={"validate_every_steps": 1})
    run(tmp_path / "whole", Line(), training)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", Line(dies_at=dies_at), training)
    rarer = training.model_copy(update={"validate_every_steps": 4})  # steps that are lost are not validated again
    run(tmp_path / "killed", Line(), rarer)
    steps = [step for step in range(1, 7) if step <= dies_at // 2 * 2 or step in (4, 6)]
    names = ["lr", "bicubic", "hr", *(f"step_{step:08d}" for step in steps)]
    found, expected = files(tmp_path / "killed"), files(tmp_path / "whole")
    assert found == {f"{name}/one.png": expected[f"{name}/one.png"] for name in names}
    assert pictures.kept(str(tmp_path / "killed")) == {"line": {step: ["one"] for step in steps}}


@pytest.mark.parametrize(
    ("steps", "every", "first"), [(5, 10, 5), (160, 10, 10), (170, 10, 20), (1_000_000, 5000, 65000)]
)
def test_few_validations_leave_pictures_the_last_one_always(steps: int, every: int, first: int) -> None:
    training = TRAINING.model_copy(update={"steps": steps, "validate_every_steps": every})
    validated = [*range(every, steps, every), steps]
    kept = [step for step in validated if pictures.is_kept(training, step)]
    assert len(kept) <= pictures.MOST_STEPS + 1
    assert (kept[0], kept[-1]) == (first, steps)


def test_pictures_are_kept_and_forgotten_in_a_bucket_too(s3_server: str) -> None:
    boto3.client("s3").create_bucket(Bucket="validations")
    grey = np.zeros((4, 4, 3), np.uint8)
    for step in (2, 4):
        pictures.write("s3://validations/run/srgan", step, {"a/b": {"lr": grey, "sr": grey}})
    pictures.forget_after("s3://validations/run/srgan", 2)
    found = [name for name, _ in storage.list_files("s3://validations/run/srgan")]
    assert found == ["images/validation/lr/a/b.png", "images/validation/step_00000002/a/b.png"]


def test_a_validation_without_a_score_is_strict_json_with_a_reason(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Line, "validate", lambda _: {"niqe": float("nan"), "psnr": float("inf")})
    run(tmp_path, Line())

    def refuse(literal: str) -> None:
        raise AssertionError(f"{literal} is no JSON")

    path = tmp_path / "line" / "metrics.jsonl"
    rows = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    (last,) = (row for row in rows if row["split"] == "val" and row["step"] == 6)
    assert last == {
        "step": 6,
        "split": "val",
        "niqe": None,
        "psnr": "Infinity",
        "reasons": {"niqe": "nothing has a score", "psnr": "infinite"},
    }
    (again,) = (row for row in journal.read_metrics(str(path)) if row["split"] == "val" and row["step"] == 6)
    assert np.isnan(again["niqe"])
    assert again["psnr"] == float("inf")
