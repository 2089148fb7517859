"""Smoke tests of the work on a GPU; skipped without CUDA. RANKSR_GPU_TESTS=cpu tries the tests themselves on a CPU."""

import os

import numpy as np
import pytest
import torch

from ranksr import images
from ranksr.config import Compute, Config, SRResNet, with_overrides
from ranksr.data.feed import Batch
from ranksr.data.upscale import upscale
from ranksr.metrics import Judge
from ranksr.models import build_generator, build_ranker
from ranksr.train.sr import SRLearner
from ranksr.train.steering import Steer, Steering
from ranksr.train.world import World, unwrap

DEVICE = os.environ.get("RANKSR_GPU_TESTS", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"),
]
SMALL = [
    "perceptual.network=squeezenet",
    "discriminator.features=4",
    "ranker.features=4",
    "methods.ranksrgan.start=null",
    "methods.ranksrgan.generator={arch: srresnet, features: 8, blocks: 1}",
    "methods.ranksrgan.hr_patch_px=64",
]


@pytest.fixture
def batch(photograph: np.ndarray) -> Batch:
    crops = [np.ascontiguousarray(photograph[y : y + 64, 200:264]) for y in (0, 64)]
    return {
        "hr": torch.stack([images.to_tensor(crop) for crop in crops]),
        "lr": torch.stack([images.to_tensor(images.downscale(crop)) for crop in crops]),
    }


def learner(demo: Config, compute: Compute, bf16: bool) -> SRLearner:
    torch.manual_seed(0)
    config = with_overrides(demo, [*SMALL, f"methods.ranksrgan.train.bf16={str(bf16).lower()}"])
    method, world = config.methods["ranksrgan"], World(device=DEVICE, compute=compute)
    steer = Steer(build_ranker(config.ranker), method.weights.rank_content, config.ranker.metric)
    steering = Steering({"ranker": steer}, config.rank_content_loss, world, 0)
    judge = Judge("pirm", "none", None)
    return SRLearner(method, config.perceptual, config.discriminator, judge, world, None, steering, [])


def test_a_photograph_is_upscaled_as_on_the_cpu(photograph: np.ndarray) -> None:
    torch.manual_seed(0)
    generator = build_generator(SRResNet(arch="srresnet", features=8, blocks=2)).eval()
    lr = images.downscale(photograph[:256, :256])
    expected = upscale(generator, lr).astype(int)
    assert np.abs(upscale(generator.to(DEVICE), lr, DEVICE) - expected).max() <= 1  # another order of the same sums


@pytest.mark.parametrize("bf16", [False, True])
def test_steps_of_a_steered_gan_have_finite_terms_near_those_of_the_cpu(demo: Config, batch: Batch, bf16: bool) -> None:
    trained = learner(demo, Compute(channels_last=True, fused_adam=True), bf16)
    terms = [trained.update(batch, step) for step in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "DEVICE", "cpu")
        expected = learner(demo, Compute(), bf16=False).update(batch, 0)
    assert {"pixel", "perceptual", "adversarial", "rank_content", "discriminator"} <= set(terms[0])
    for name, value in terms[0].items():
        assert float(value) == pytest.approx(float(expected[name]), rel=0.1 if bf16 else 1e-2, abs=1e-3), name
    assert all(bool(torch.isfinite(value)) for each in terms for value in each.values())


def test_a_state_from_a_gpu_continues_on_a_cpu(demo: Config, batch: Batch) -> None:
    trained = learner(demo, Compute(), bf16=False)
    trained.update(batch, 0)
    state = trained.state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "DEVICE", "cpu")
        resumed = learner(demo, Compute(), bf16=False)
        resumed.restore(state)
        resumed.update(batch, 1)
    for own, other in zip(unwrap(resumed.generator).parameters(), unwrap(trained.generator).parameters(), strict=True):
        assert own.shape == other.shape
        assert own.device.type == "cpu"
