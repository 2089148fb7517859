"""Two workers: the losses of one, the same networks on both; run as a program, this file is one worker."""

import gc
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed

from ranksr import images, losses, storage
from ranksr.config import Compute, load_config
from ranksr.data import sources
from ranksr.data.feed import Batch, shard
from ranksr.metrics.engine import Judge
from ranksr.models import build_discriminator, build_ranker
from ranksr.train import loop
from ranksr.train.journal import Place
from ranksr.train.sr import SRLearner, update_average
from ranksr.train.steering import Steer, Steering
from ranksr.train.world import World, unwrap

Tensors = Callable[[Any], dict[str, torch.Tensor]]

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS, BATCH = 20, 8
SMALL = [
    "perceptual.network=squeezenet",
    "discriminator.features=4",
    "ranker.features=4",
    "methods.ranksrgan={start: null, hr_patch_px: 32, generator: {features: 8, blocks: 1}}",
    f"methods.ranksrgan.train={{steps: {STEPS}, batch_size: {BATCH}, validate_every_steps: 100, ema_decay: 0.5}}",
    "compute={log_every_steps: 1, checkpoint_every_steps: 10}",
]
COMPUTE = Compute(log_every_steps=1, checkpoint_every_steps=10)
NO_NORMALISATION = ["methods.ranksrgan.weights={pixel: 1, perceptual: 1, adversarial: 0, rank_content: 0}"]
FAST = ["compute={channels_last: true, fused_adam: true, compile: true}", "methods.ranksrgan.train.bf16=true"]


class InTwoPasses(SRLearner):
    """The order of work of the authors' code: the discriminator judges the SR images once for each network."""

    def update(self, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        rate, kind = loop.learning_rate(self.method.train, step), self.method.adversarial
        hr, weights = batch["hr"], self.method.weights
        critic = unwrap(self.discriminator).requires_grad_(False)
        with self.world.autocast(self.method.train.bf16):
            sr = self.generator(batch["lr"]).float()
            terms = {
                "pixel": weights.pixel * losses.pixel(sr.view_as(sr), hr, self.method.pixel_criterion),
                "perceptual": weights.perceptual
                * losses.perceptual(self.features, sr.view_as(sr), hr, self.perceptual.criterion),
            }
            real = critic(hr) if kind == "relativistic" else None
            fake = critic(sr.view_as(sr))
            terms["adversarial"] = weights.adversarial * losses.adversarial_generator(fake, real, kind)
            terms |= self.steering.terms(sr.view_as(sr), step)
        self._step(self.optimizer, sum(terms.values()), rate)
        update_average(self.average, unwrap(self.generator), self.method.train.ema_decay)
        critic.requires_grad_(True)
        with self.world.autocast(self.method.train.bf16):
            real, fake = self.discriminator(hr), self.discriminator(sr.detach())
            loss = losses.adversarial_discriminator(real, fake, kind)
        self._step(self.discriminator_optimizer, loss, rate)
        return {name: term.detach() for name, term in {**terms, "discriminator": loss}.items()}

    def _step(self, optimizer: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> None:
        loop.set_learning_rate(optimizer, rate)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train(folder: str, world: World, overrides: list[str], kind: type[SRLearner] = SRLearner) -> SRLearner:
    """20 steps on patches of a photograph; losses of every step in `folder`."""
    config = load_config(ROOT / "configs" / "demo.yaml", [*SMALL, *overrides])
    method = config.methods["ranksrgan"]
    torch.manual_seed(0)
    steering, judge = None, Judge("pirm", "none", None)
    if method.uses_ranker:
        steer = Steer(build_ranker(config.ranker), method.weights.rank_content, config.ranker.metric)
        steering = Steering({"ranker": steer}, config.rank_content_loss, world, 0)
    learner = kind(method, config.perceptual, config.discriminator, judge, world, None, steering, [])
    photograph = sources.read_photo("skimage:astronaut")

    def batches(steps: range) -> Iterator[Batch]:
        for step in steps:
            corners = [divmod(n * 37 % 196, 14) for n in shard(step, BATCH, world.worker_rank, world.num_workers)]
            patches = [photograph[32 * y : 32 * y + 32, 32 * x : 32 * x + 32] for y, x in corners]
            lr = [images.to_tensor(images.downscale(patch)) for patch in patches]
            yield {"hr": torch.stack([images.to_tensor(patch) for patch in patches]), "lr": torch.stack(lr)}

    place = Place("ranksrgan", f"{folder}/ranksrgan", f"{folder}/tensorboard")
    loop.fit(learner, batches, method.train, place, world, lambda _: None)
    return learner


def main(folder: str, rank: str, overrides: str, kind: str) -> None:
    """One of two workers; leaves what the networks are in the end."""
    if "compile: true" in overrides:
        compile_ = torch.compile
        torch.compile = lambda *a, **k: compile_(*a, **k, backend="eager")  # captures and guards, but needs no compiler
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=int(rank), world_size=2)
    changes = json.loads(overrides)
    config = load_config(ROOT / "configs" / "demo.yaml", [*SMALL, *changes])
    learner = train(folder, World(int(rank), 2, "cpu", config.compute), changes, globals()[kind])
    weights = {name: dict(unwrap(getattr(learner, name)).named_parameters()) for name in ("generator", "average")}
    if learner.discriminator is not None:
        weights["discriminator"] = dict(unwrap(learner.discriminator).named_parameters())
    torch.save(weights, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def two_workers(
    folder: pathlib.Path, overrides: list[str], kind: type[SRLearner] = SRLearner
) -> list[dict[str, dict[str, torch.Tensor]]]:
    """Train on two processes; the networks of each."""
    folder.mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), str(rank), json.dumps(overrides), kind.__name__],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "error:Grad strides do not match"},
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def logged(folder: pathlib.Path) -> dict[str, list[float]]:
    rows = storage.read_jsonl(str(folder / "ranksrgan" / "metrics.jsonl"))
    rows = [row for row in rows if row["split"] == "train"]
    assert len(rows) == STEPS
    return {key: [row[key] for row in rows] for key in rows[0] if key not in ("step", "split")}


def test_two_workers_have_the_losses_of_one_where_nothing_normalises_over_the_batch(tmp_path: pathlib.Path) -> None:
    train(str(tmp_path / "one"), World(compute=COMPUTE), NO_NORMALISATION)
    two_workers(tmp_path / "two", NO_NORMALISATION)
    one, two = logged(tmp_path / "one"), logged(tmp_path / "two")
    assert set(one) == {"pixel", "perceptual", "learning_rate"}
    for name, values in one.items():
        assert two[name] == pytest.approx(values, rel=1e-5, abs=1e-6)
    assert len(set(one["pixel"])) == STEPS  # other images at every step


@pytest.mark.parametrize(
    ("adversarial", "bf16", "workers"),
    [
        ("vanilla", "false", 1),
        ("vanilla", "true", 1),
        ("relativistic", "false", 1),
        ("relativistic", "true", 1),
        pytest.param("vanilla", "false", 2, marks=pytest.mark.slow),
        pytest.param("relativistic", "true", 2, marks=pytest.mark.slow),
    ],
)
def test_one_pass_of_the_discriminator_for_both_networks_leaves_the_bits_of_a_pass_for_each(
    tmp_path: pathlib.Path, tensors: Tensors, adversarial: str, bf16: str, workers: int
) -> None:
    overrides = [f"methods.ranksrgan={{adversarial: {adversarial}, train: {{bf16: {bf16}, steps: 5}}}}"]
    states = []
    for kind in (SRLearner, InTwoPasses):
        folder = tmp_path / kind.__name__
        if workers == 1:
            train(str(folder), World(compute=COMPUTE), overrides, kind)
        else:
            two_workers(folder, overrides, kind)
        checkpoint = folder / "ranksrgan" / "checkpoints" / "step_00000005.pt"
        states.append(tensors(torch.load(checkpoint, weights_only=True)["learner"]))
    found, expected = states
    assert found.keys() == expected.keys()
    different = {name for name, value in expected.items() if not torch.equal(value, found[name])}
    # Running statistics, which nothing reads, follow each batch once, not the SR images (relativistic: both) twice.
    running = ("running_mean", "running_var", "num_batches_tracked")
    assert different == {name for name in expected if name.startswith("discriminator/") and name.endswith(running)}


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [[], FAST], ids=["plain", "fast"])
def test_both_workers_have_the_same_networks_and_plain_names_in_their_checkpoint(
    tmp_path: pathlib.Path, overrides: list[str]
) -> None:
    first, second = two_workers(tmp_path / "two", overrides)
    assert set(first) == {"generator", "average", "discriminator"}
    for name, weights in first.items():
        assert all(torch.equal(weight, second[name][key]) for key, weight in weights.items())
    # Another number of workers, and none of the keys of speed, continue from it.
    torch.manual_seed(1)
    step = tmp_path / "two" / "ranksrgan" / "checkpoints" / f"step_{STEPS:08d}.pt"
    state = torch.load(step, weights_only=True)["learner"]
    resumed = train(str(tmp_path / "two"), World(compute=COMPUTE), overrides[1:])
    for name, weights in first.items():
        assert set(state[name]) >= set(weights)
        assert all(
            torch.equal(weight, value)
            for weight, value in zip(weights.values(), unwrap(getattr(resumed, name)).parameters(), strict=True)
        )


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")])],
)  # fmt: skip
def test_a_discriminator_runs_forward_twice_before_one_backward_under_ddp(tmp_path: pathlib.Path, device: str) -> None:
    """pytorch#175024: synchronising batch-norm buffers in forward would change what autograd still needs."""
    from ranksr.config import Discriminator

    backend = "nccl" if device == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, init_method=f"file://{tmp_path}/store", rank=0, world_size=1)

    def step() -> None:
        network = World(0, 2, device).wrap(build_discriminator(Discriminator(features=4), 32))
        real, fake = network(torch.rand(2, 3, 32, 32, device=device)), network(torch.rand(2, 3, 32, 32, device=device))
        (real.mean() - fake.mean()).backward()
        assert not network.forward_sync_buffers
        assert all(weight.grad is not None for weight in network.parameters())

    try:
        step()
    finally:
        gc.collect()  # the network before the group: see worker_pool._joined
        torch.distributed.destroy_process_group()


def test_cudnn_searches_its_algorithms_on_a_gpu_only() -> None:
    with torch.backends.cudnn.flags(enabled=True, benchmark=False):
        World(device="cpu").tune()
        assert not torch.backends.cudnn.benchmark
        World(device="cuda:0").tune()
        assert torch.backends.cudnn.benchmark


if __name__ == "__main__":
    main(*sys.argv[1:])
