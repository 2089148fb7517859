"""What ends a training before its end, and that the same command then gives the weights of an undisturbed one.

Run as a program, this file is the driver that the tests end: `test_training_faults.py FOLDER WORKERS [FAULT STEP]
[FOLDER]`, the last a folder for another training without a fault.
"""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from ranksr import checkpoints, images, metrics, pipeline, storage
from ranksr.config import load_config
from ranksr.data import sources
from ranksr.data.feed import Batch
from ranksr.data.local_copy import LocalCopy
from ranksr.metrics.engine import Judge
from ranksr.models import build_ranker
from ranksr.runs import Run
from ranksr.stages import patches
from ranksr.train import launch, loop, stopping
from ranksr.train.journal import Place
from ranksr.train.world import World

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS = 60
CONFIG = [
    *(f"methods.{name}=null" for name in ("srresnet", "srgan", "esrgan_psnr", "esrgan")),
    "rank_dataset.methods=[bicubic]",
    "ranker={methods: [bicubic, hr], features: 2, crop_px: 64, train: {batch_size: 4}}",
    "rank_content_loss={shift_px: 0, refresh: {every_steps: 4, patches: 2, ranker_steps: 1, pool: 6}}",
    "evaluation.methods=[ranksrgan]",
    "methods.ranksrgan={start: null, hr_patch_px: 32, generator: {features: 4, blocks: 1}}",
    f"methods.ranksrgan.train={{steps: {STEPS}, validate_every_steps: 25, milestones: [15, 45], ema_decay: 0.9, "
    "checkpoint: best, best_metric: psnr}",
    "perceptual.network=squeezenet",
    "discriminator.features=2",
    "validation.num_patches=3",
    "compute={log_every_steps: 5, checkpoint_every_steps: 10, keep_checkpoints: 9, max_failures: 1}",
]
"""RankSRGAN with every term, an average and a Ranker that keeps up, as small as can be."""


@dataclasses.dataclass(frozen=True)
class Job(launch.SRJob):
    """An SRJob in which the last worker meets a `fault` at a step, once for each folder."""

    fault: tuple[str, int] | None = None
    once: str = ""

    def build(self, world: World, copy: LocalCopy) -> Any:
        learner, draw = super().build(world, copy)
        stopping.LOOK_FOR_STOP_SECONDS = 0.1
        kind, at = self.fault or ("", 0)
        mine = kind in ("killed", "not finite") and world.worker_rank == world.num_workers - 1
        update = learner.update

        def disturbed(batch: Any, step: int) -> Any:
            if mine and step == at and not os.path.exists(self.once):
                pathlib.Path(self.once).touch()
                if kind == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                batch = {**batch, "hr": batch["hr"] * float("nan")}
            # Time to be killed in, and not to end in: the workers of a killed driver live on for 3 to 4 s.
            time.sleep(0.2 if kind == "slow" else 0.03)
            return update(batch, step)

        learner.update = disturbed
        return learner, draw


def make_job(folder: pathlib.Path, num_workers: int, fault: tuple[str, int] | None = None) -> tuple[Job, Place]:
    """The training on the inputs beside its `folder`."""
    config = load_config(ROOT / "configs" / "demo.yaml", [*CONFIG, f"compute.num_workers={num_workers}"])
    inputs = folder.parent / "inputs"
    judge = Judge("pirm", str(inputs / "niqe.npz"), None)
    paths = [str(inputs / name) for name in ("ranker.pt", "rank_dataset")]
    rankers, rank_datasets = ({"ranker": path} for path in paths)
    job = Job(config, "ranksrgan", str(inputs / "patches"), None, rankers, judge, rank_datasets, fault, f"{folder}.met")
    return job, Place("ranksrgan", str(folder / "ranksrgan"), str(folder / "tensorboard"))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the inputs of the training: sub-images, a NIQE model, a rank dataset, a Ranker."""
    folder = tmp_path_factory.mktemp("faults")
    photograph, inputs = sources.read_photo("skimage:astronaut"), folder / "inputs"
    rows = []
    for number, (y, x) in enumerate(itertools.product((0, 150, 300), (0, 150, 300))):
        hr = np.ascontiguousarray(photograph[y : y + 200, x : x + 200])
        pngs = {"hr": images.encode_png(hr), "lr": images.encode_png(images.downscale(hr))}
        rows.append({"image_id": str(number), "y": y, "x": x, "split": "val" if number > 5 else "train", **pngs})
    table = pa.Table.from_pylist(rows, schema=patches.SCHEMA)
    storage.write_table(str(inputs / "patches" / "part-0.parquet"), table)
    metrics.save_niqe_model(metrics.fit_niqe_model([metrics.to_gray(photograph)]), str(inputs / "niqe.npz"))
    ranked = [{**row, "methods": ["bicubic", "hr"], **_ranked(row)} for row in rows]
    storage.write_table(str(inputs / "rank_dataset" / "part-0.parquet"), pa.Table.from_pylist(ranked))
    torch.manual_seed(0)
    ranker = make_job(folder / "any", 1)[0].config.ranker
    checkpoints.save_ranker(str(inputs / "ranker.pt"), ranker, build_ranker(ranker).state_dict(), {})
    return folder


def _ranked(row: dict[str, Any]) -> dict[str, Any]:
    """The PNGs of bicubic and HR of a sub-image, and what stands for their NIQE."""
    bicubic = images.encode_png(images.upscale_bicubic(images.decode(row["lr"])))
    return {"pngs": [bicubic, row["hr"]], "niqe": [8.0, 4.0]}


def alone(folder: pathlib.Path) -> None:
    """The training in this process, without Ray."""
    job, place = make_job(folder, 1)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with contextlib.closing(LocalCopy(str(folder), "test")) as copy:
        learner, draw = job.build(World(), copy)
        copy.remove()
        size = job.training.batch_size
        world = World(compute=job.config.compute)

        def batches(steps: range) -> Iterator[Batch]:
            return (draw(range(step * size, step * size + size)) for step in steps)

        loop.fit(learner, batches, job.training, place, world, lambda _: None)


def command(folder: pathlib.Path, num_workers: int, *fault: str) -> list[str]:
    return [sys.executable, __file__, str(folder), str(num_workers), *fault]


def main(folder: str, num_workers: str, *fault: str) -> None:
    """The driver: with 0 workers without Ray, else as a stage of the pipeline."""
    from ranksr import terminal

    terminal.log_lines()
    if num_workers == "0":
        return alone(pathlib.Path(folder))
    # With less, Train starts two workers again and again where a busy machine needs longer.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "180"
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", object_store_memory=2**27)
    met = [(fault[0], int(fault[1]))] if fault else [None]
    for each, kind in zip((folder, *fault[2:]), (*met, None), strict=False):
        job, place = make_job(pathlib.Path(each), int(num_workers), kind)
        stage = types.SimpleNamespace(name=place.name, folder=place.folder)
        pipeline._train(types.SimpleNamespace(run=Run(each), tuned=None, label=""), stage, job)
    return None


def start(folder: pathlib.Path, arguments: list[str], until: str) -> subprocess.Popen[str]:
    """The driver, once the file `until` is there and a random moment has passed."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = time.monotonic() + 280
    while not (folder / "ranksrgan" / until).exists():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f"{until} was not written\n{process.stdout.read()[-3000:]}")
        time.sleep(0.01)
    time.sleep(random.SystemRandom().uniform(0, 0.4))
    return process


def final_state(folder: pathlib.Path) -> dict[str, torch.Tensor]:
    """Every tensor of the last checkpoint and of the exported weights, by its path."""
    last = checkpoints.read(str(folder / "ranksrgan" / "checkpoints" / f"step_{STEPS:08d}.pt"))
    return tensors({"last": last, "exported": checkpoints.read(str(folder / "ranksrgan" / "weights.pt"))})


def tensors(state: Any, path: str = "") -> dict[str, torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return {path: state}
    inner = state.items() if isinstance(state, dict) else ()
    return {name: tensor for key, value in inner for name, tensor in tensors(value, f"{path}/{key}").items()}


def assert_same_end(folder: pathlib.Path, undisturbed: pathlib.Path) -> None:
    """Bit-equal networks, average and optimisers, and the same rows of metrics."""
    found, expected = final_state(folder), final_state(undisturbed)
    assert {name.split("/")[3] for name in expected if name.startswith("/last")} == {
        "generator", "average", "optimizer", "discriminator", "discriminator_optimizer", "steering"
    }  # fmt: skip
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []
    rows = [storage.read_jsonl(str(each / "ranksrgan" / "metrics.jsonl")) for each in (folder, undisturbed)]
    assert rows[0] == rows[1]
    pictures, kept = (pictures_of(each) for each in (folder, undisturbed))
    assert pictures == kept
    assert {path.split("/")[0] for path in kept} == {"lr", "bicubic", "hr", *(f"step_{at:08d}" for at in (25, 50, 60))}


def pictures_of(folder: pathlib.Path) -> dict[str, bytes]:
    """Kept pictures of validations."""
    root = str(folder / "ranksrgan" / "images" / "validation")
    return {path: storage.read_bytes(f"{root}/{path}") for path, _ in storage.list_files(root)}


def test_kill_9_at_any_step_and_the_same_command_end_with_the_same_bits(here: pathlib.Path) -> None:
    alone(here / "one")
    process = start(here / "one killed", command(here / "one killed", 0), "checkpoints/step_00000020.pt")
    process.kill()
    assert "continues from" not in process.communicate()[0]
    assert not (here / "one killed" / "ranksrgan" / "weights.pt").exists()
    alone(here / "one killed")
    assert_same_end(here / "one killed", here / "one")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)  # three starts of Ray, which take minutes on a busy machine
def test_two_workers_end_with_the_same_bits_after_sigterm_kill_9_and_the_death_of_a_worker(here: pathlib.Path) -> None:
    folder, undisturbed = here / "two killed", here / "two"
    process = start(folder, command(folder, 2, "slow", "0"), "checkpoints/step_00000010.pt")
    process.terminate()
    said, _ = process.communicate(timeout=280)
    assert process.returncode == 128 + signal.SIGTERM, said[-3000:]
    assert "the same command continues" in said
    step = int(said.split("stopped by SIGTERM after step ")[1].split(",")[0])
    assert (folder / "ranksrgan" / "checkpoints" / f"step_{step:08d}.pt").exists()
    assert not (folder / "ranksrgan" / stopping.STOP_FILE).exists()

    following = next(at for at in range(0, STEPS, 10) if at > step)
    process = start(folder, command(folder, 2, "slow", "0"), f"checkpoints/step_{following:08d}.pt")
    process.kill()
    assert f"continues from the checkpoint of step {step}" in process.communicate()[0]
    last = last_checkpoint(folder)
    # The undisturbed training comes last: on workers of which one is new, and one has trained before.
    last_driver = command(folder, 2, "killed", str(last + 3), str(undisturbed))
    done = subprocess.run(last_driver, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert pathlib.Path(f"{folder}.met").exists()
    assert done.stdout.count(f"continues from the checkpoint of step {last}") == 2  # the driver's start, the recovery
    assert_same_end(folder, undisturbed)


def last_checkpoint(folder: pathlib.Path) -> int:
    """Once there is no newer one: the workers of a driver that was killed live on for a moment."""
    steps, before = checkpoints.Checkpoints(str(folder / "ranksrgan" / "checkpoints"), 9).steps, None
    while (found := steps()) != before:
        before = found
        time.sleep(1.5)
    return found[-1]


@pytest.mark.ray
@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_worker_ends_the_stage_and_keeps_the_last_checkpoint(
    here: pathlib.Path,
) -> None:
    folder = here / "broken"
    done = subprocess.run(
        command(folder, 2, "not finite", "12"), capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 1
    assert "ranksrgan: loss term pixel, perceptual, discriminator is not finite at step 13" in done.stderr
    assert checkpoints.Checkpoints(str(folder / "ranksrgan" / "checkpoints"), 9).steps() == [10]
    assert not (folder / "ranksrgan" / "weights.pt").exists()


if __name__ == "__main__":
    main(*sys.argv[1:])
