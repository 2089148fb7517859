"""SRLearner: weights decide what is built, and a resumed training is bit-equal to an uninterrupted one."""

import pathlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from ranksr import images
from ranksr.config import Compute, Config
from ranksr.data.feed import Batch, shard
from ranksr.data.score import Judge
from ranksr.models import build_ranker
from ranksr.train import loop
from ranksr.train.sr import SRLearner
from ranksr.train.world import World

SMALL = [
    "perceptual.network=squeezenet",
    "discriminator.features=4",
    "ranker.features=4",
    *(
        f"methods.{name}.generator={{arch: srresnet, features: 4, blocks: 1}}"
        for name in ("srresnet", "srgan", "ranksrgan")
    ),
    *(f"methods.{name}.hr_patch_px=32" for name in ("srresnet", "srgan", "esrgan_psnr", "esrgan", "ranksrgan")),
]


@pytest.fixture
def config(demo: Config) -> Config:
    return demo.with_overrides(SMALL)


def learner(config: Config, name: str, judge: Judge = Judge("pirm", "none", None)) -> SRLearner:  # noqa: B008
    torch.manual_seed(0)
    ranker = build_ranker(config.ranker) if config.methods[name].weights.rank_content else None
    return SRLearner(
        config.methods[name], config.perceptual, config.discriminator, config.rank_content, judge, World(), None, ranker, []
    )  # fmt: skip


@pytest.fixture(scope="module")
def batch(photograph: np.ndarray) -> Batch:
    patches = [np.ascontiguousarray(photograph[y : y + 32, 200:232]) for y in (0, 64, 128, 192)]
    return {
        "hr": torch.stack([images.to_tensor(patch) for patch in patches]),
        "lr": torch.stack([images.to_tensor(images.downscale(patch)) for patch in patches]),
    }


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("srresnet", {"pixel"}),
        ("srgan", {"pixel", "perceptual", "adversarial", "discriminator", "d_real", "d_fake"}),
        ("esrgan", {"pixel", "perceptual", "adversarial", "discriminator", "d_real", "d_fake"}),
        ("ranksrgan", {"pixel", "perceptual", "adversarial", "rank_content", "discriminator", "d_real", "d_fake"}),
    ],
)
def test_the_weights_decide_which_terms_there_are(config: Config, batch: Batch, name: str, terms: set[str]) -> None:
    assert set(learner(config, name).update(batch, step=0)) == terms


def test_a_network_whose_weight_is_0_is_not_built(config: Config) -> None:
    plain = learner(config, "srresnet")
    assert plain.features is plain.discriminator is plain.ranker is None


def test_a_rank_content_weight_of_0_is_srgan_exactly(config: Config, batch: Batch) -> None:
    without = config.with_overrides(["methods.ranksrgan.weights.rank_content=0"])
    first, second = learner(config, "srgan"), learner(without, "ranksrgan")
    for step in range(2):
        first.update(batch, step)
        second.update(batch, step)
    assert all(
        torch.equal(a, b) for a, b in zip(first.generator.parameters(), second.generator.parameters(), strict=True)
    )


def test_the_frozen_networks_do_not_change(config: Config, batch: Batch) -> None:
    trained = learner(config, "ranksrgan")
    before = [value.clone() for value in trained.ranker.state_dict().values()]
    trained.update(batch, step=0)
    assert all(torch.equal(a, b) for a, b in zip(before, trained.ranker.state_dict().values(), strict=True))
    assert all(parameter.grad is None for parameter in trained.features.parameters())


@pytest.mark.parametrize(("mode", "training"), [("running", False), ("batch", True)])
def test_the_rankers_batch_norm_follows_the_config(config: Config, mode: str, training: bool) -> None:
    trained = learner(config.with_overrides([f"rank_content.ranker_bn={mode}"]), "ranksrgan")
    assert trained.ranker.training is training


def test_a_loss_that_is_not_finite_stops_before_the_step(config: Config, batch: Batch) -> None:
    trained = learner(config, "srgan")
    before = [parameter.clone() for parameter in trained.generator.parameters()]
    broken = {**batch, "hr": batch["hr"] * float("nan")}
    with pytest.raises(loop.NonFiniteLossError, match="pixel"):
        trained.update(broken, step=11)
    assert all(torch.equal(a, b) for a, b in zip(before, trained.generator.parameters(), strict=True))


def test_a_resumed_gan_is_bit_equal_to_an_uninterrupted_one(
    config: Config, batch: Batch, tmp_path: pathlib.Path
) -> None:
    training = config.methods["ranksrgan"].train.model_copy(update={"steps": 6, "validate_every_steps": 100})
    compute = Compute(checkpoint_every_steps=2, log_every_steps=100)

    def train(folder: str, dies_at: int | None = None) -> SRLearner:
        def batches(steps: range) -> Iterator[Batch]:
            for step in steps:
                if step == dies_at:
                    raise KeyboardInterrupt
                rows = [sample % 4 for sample in shard(step, 2, 0, 1)]
                yield {key: value[rows] for key, value in batch.items()}

        trained = learner(config, "ranksrgan")
        trained.validate = lambda: {"psnr": 0.0}  # type: ignore[method-assign]
        place = loop.Place("ranksrgan", str(tmp_path / folder), str(tmp_path / "tensorboard" / folder))
        loop.fit(trained, batches, training, compute, place, World(), lambda _: None)
        return trained

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("killed", dies_at=5)
    resumed = train("killed")
    for name in ("generator", "discriminator"):
        for a, b in zip(whole.state()[name].values(), resumed.state()[name].values(), strict=True):
            assert torch.equal(a, b)


def test_validation_scores_sr_images_with_the_scoring_engine(
    config: Config, photograph: np.ndarray, tmp_path: pathlib.Path
) -> None:
    from ranksr import metrics

    model = str(tmp_path / "niqe.npz")
    metrics.save_niqe_model(metrics.fit_niqe_model([metrics.to_gray(photograph)]), model)
    trained = learner(config, "srresnet", Judge("pirm", model, None))
    hr = np.ascontiguousarray(photograph[:200, :200])
    trained.validation = [(images.downscale(hr), hr)]
    values = trained.validate()
    assert set(values) == {"niqe", "psnr"}
    assert all(np.isfinite(value) for value in values.values())
