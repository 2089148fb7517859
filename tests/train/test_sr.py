"""SRLearner: weights decide what is built, and a resumed training is bit-equal to an uninterrupted one."""

import copy
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from ranksr import checkpoints, images, losses
from ranksr.config import Compute, Config, with_overrides
from ranksr.data.feed import Batch, shard
from ranksr.metrics.engine import Judge
from ranksr.metrics.scores import Score, unscorable
from ranksr.models import build_ranker
from ranksr.train import loop, pictures
from ranksr.train.sr import SRLearner
from ranksr.train.steering import Steer, Steering
from ranksr.train.world import World

Tensors = Callable[[Any], dict[str, torch.Tensor]]

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
    return with_overrides(demo, SMALL)


def learner(
    config: Config,
    name: str,
    judge: Judge = Judge("pirm", "none", None),  # noqa: B008
    world: World = World(),  # noqa: B008
) -> SRLearner:
    torch.manual_seed(0)
    steering = steer(config, build_ranker(config.ranker), name, world) if config.methods[name].uses_ranker else None
    return SRLearner(config.methods[name], config.perceptual, config.discriminator, judge, world, None, steering, [])


def steer(config: Config, ranker: torch.nn.Module, name: str, world: World) -> Steering:
    steers = {"ranker": Steer(ranker, config.methods[name].weights.rank_content, config.ranker.metric)}
    return Steering(steers, config.rank_content_loss, world, 0)


def ranker_of(trained: SRLearner) -> torch.nn.Module:
    return trained.steering.steers["ranker"].ranker


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
    assert plain.features is plain.discriminator is plain.steering is None


def test_a_rank_content_weight_of_0_is_srgan_exactly(config: Config, batch: Batch) -> None:
    without = with_overrides(config, ["methods.ranksrgan.weights.rank_content=0"])
    first, second = learner(config, "srgan"), learner(without, "ranksrgan")
    for step in range(2):
        first.update(batch, step)
        second.update(batch, step)
    assert all(
        torch.equal(a, b) for a, b in zip(first.generator.parameters(), second.generator.parameters(), strict=True)
    )


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_the_frozen_networks_do_not_change(config: Config, batch: Batch, mode: str) -> None:
    trained = learner(with_overrides(config, [f"rank_content_loss.ranker_bn={mode}"]), "ranksrgan")
    kept = {name: value for name, value in ranker_of(trained).state_dict().items() if value.is_floating_point()}
    before = {name: value.clone() for name, value in kept.items()}
    trained.update(batch, step=0)
    assert all(torch.equal(before[name], value) for name, value in kept.items())
    assert all(parameter.grad is None for parameter in trained.features.parameters())


@pytest.mark.parametrize(("mode", "training"), [("running", False), ("batch", True)])
def test_the_rankers_batch_norm_follows_the_config(config: Config, mode: str, training: bool) -> None:
    trained = learner(with_overrides(config, [f"rank_content_loss.ranker_bn={mode}"]), "ranksrgan")
    assert ranker_of(trained).training is training


def test_a_loss_that_is_not_finite_stops_before_the_step(config: Config, batch: Batch) -> None:
    trained = learner(config, "srgan")
    before = [parameter.clone() for parameter in trained.generator.parameters()]
    broken = {**batch, "hr": batch["hr"] * float("nan")}
    with pytest.raises(loop.NonFiniteLossError, match="pixel"):
        trained.update(broken, step=11)
    assert all(torch.equal(a, b) for a, b in zip(before, trained.generator.parameters(), strict=True))


def test_a_discriminator_loss_that_is_not_finite_stops_before_either_step(
    config: Config, batch: Batch, monkeypatch: pytest.MonkeyPatch, tensors: Tensors
) -> None:
    trained = learner(config, "srgan")
    before = {name: value.clone() for name, value in tensors(trained.state()).items() if "running" not in name}
    judge = losses.adversarial_discriminator
    monkeypatch.setattr(losses, "adversarial_discriminator", lambda *logits: judge(*logits) * float("inf"))
    with pytest.raises(loop.NonFiniteLossError, match="loss term discriminator is not finite at step 12;"):
        trained.update(batch, step=11)
    after = tensors(trained.state())
    assert all(torch.equal(value, after[name]) for name, value in before.items() if "num_batches" not in name)


def test_a_step_of_two_networks_waits_for_the_device_once(
    config: Config, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []
    monkeypatch.setattr(World, "all", lambda self, flags: waits.append(len(flags)) or flags)
    learner(config, "ranksrgan").update(batch, step=0)
    assert waits == [5]  # four terms of the generator, one of the discriminator


def test_running_statistics_of_the_discriminator_follow_real_and_fake_once_a_step_and_decide_nothing(
    config: Config, batch: Batch
) -> None:
    plain, other = learner(config, "srgan"), learner(config, "srgan")
    expected = copy.deepcopy(plain.discriminator)
    with torch.no_grad():
        expected(batch["hr"])
        expected(plain.generator(batch["lr"]))
    for name, buffer in other.discriminator.named_buffers():
        buffer.fill_(1000 if name.endswith("num_batches_tracked") else 7.0)
    for step in range(2):
        plain.update(batch, step)
        other.update(batch, step)
        if step == 0:
            assert all(
                torch.equal(a, b) for a, b in zip(plain.discriminator.buffers(), expected.buffers(), strict=True)
            )
    for name in ("generator", "discriminator"):
        weights = (getattr(each, name).parameters() for each in (plain, other))
        assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_resumed_gan_is_bit_equal_to_an_uninterrupted_one(
    config: Config, batch: Batch, tmp_path: pathlib.Path, tensors: Tensors
) -> None:
    changes = ["train.steps=6", "train.validate_every_steps=100", "train.ema_decay=0.5"]
    config = with_overrides(config, [f"methods.ranksrgan.{change}" for change in changes])
    training = config.methods["ranksrgan"].train
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
        loop.fit(trained, batches, training, place, World(compute=compute), lambda _: None)
        return trained

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("killed", dies_at=5)
    resumed = train("killed")
    expected, found = tensors(whole.state()), tensors(resumed.state())
    assert {name.split("/")[0] for name in expected} == {
        "generator", "average", "optimizer", "discriminator", "discriminator_optimizer"
    }  # fmt: skip
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_average_of_the_generator_is_what_is_exported_and_validated(
    config: Config, batch: Batch, tmp_path: pathlib.Path
) -> None:
    trained = learner(with_overrides(config, ["methods.srresnet.train.ema_decay=0.75"]), "srresnet")
    expected = [weight.detach().clone() for weight in trained.generator.parameters()]
    for step in range(2):
        trained.update(batch, step)
        expected = [
            0.75 * mean + 0.25 * w.detach() for mean, w in zip(expected, trained.generator.parameters(), strict=True)
        ]
    trained.save_weights(str(tmp_path / "weights.pt"), {})
    exported = checkpoints.load_generator(str(tmp_path / "weights.pt"))
    for mean, weight, own in zip(expected, exported.parameters(), trained.generator.parameters(), strict=True):
        torch.testing.assert_close(mean, weight)
        assert not torch.equal(weight, own)
    lr = images.to_image(batch["lr"][0])
    with torch.no_grad():
        assert np.array_equal(trained._upscale(lr), images.to_image(exported(images.to_tensor(lr)[None])[0]))


def test_averaging_does_not_change_the_training(config: Config, batch: Batch) -> None:
    plain, averaged = (
        learner(with_overrides(config, [f"methods.srgan.train.ema_decay={decay}"]), "srgan") for decay in (0, 0.9)
    )
    for step in range(2):
        plain.update(batch, step)
        averaged.update(batch, step)
    for name in ("generator", "discriminator"):
        assert all(
            torch.equal(a, b)
            for a, b in zip(plain.state()[name].values(), averaged.state()[name].values(), strict=True)
        )


def test_a_logged_step_shows_gradient_norms_and_the_ranking_score_of_the_fakes(config: Config, batch: Batch) -> None:
    trained = learner(config, "ranksrgan")
    before = [weight.detach().clone() for weight in trained.generator.parameters()]
    trained.update(batch, step=0)
    seen = trained.observe()
    at_sr = {f"gradient_norm_sr_{term}" for term in ("pixel", "perceptual", "adversarial", "rank_content")}
    assert set(seen) == {"gradient_norm_generator", "gradient_norm_discriminator", "ranking_score"} | at_sr
    by_hand = sum(float(weight.grad.square().sum()) for weight in trained.generator.parameters()) ** 0.5
    assert float(seen["gradient_norm_generator"]) == pytest.approx(by_hand, rel=1e-5)
    for weight, value in zip(trained.generator.parameters(), before, strict=True):
        weight.data.copy_(value)  # as the generator was when the images were made
    with torch.no_grad():
        assert float(seen["ranking_score"]) == pytest.approx(
            float(ranker_of(trained)(trained.generator(batch["lr"])).mean()), rel=1e-4
        )


def test_the_pictures_show_the_middle_of_some_validation_images(config: Config, photograph: np.ndarray) -> None:
    trained = learner(config, "srresnet", Fixed("pirm", "niqe", None))
    trained.validate()
    assert trained.pictures() == {}
    hr, small = (np.ascontiguousarray(photograph[:height, :width]) for height, width in ((240, 200), (100, 120)))
    trained.validation = [(images.downscale(hr), hr), (images.downscale(small), small), (images.downscale(hr), hr)]
    trained.pictured = {2: "a", 1: "b"}
    trained.validate()
    found = trained.pictures()
    assert list(found) == ["a", "b"]
    assert list(found["a"]) == ["lr", "bicubic", "sr", "hr"]
    assert np.array_equal(found["a"]["hr"], hr[24:216, 4:196])
    assert np.array_equal(found["a"]["bicubic"], images.upscale_bicubic(images.downscale(hr))[24:216, 4:196])
    assert np.array_equal(found["a"]["lr"], images.downscale(hr)[6:54, 1:49])
    assert np.array_equal(found["a"]["sr"], trained._upscale(images.downscale(hr))[24:216, 4:196])
    assert trained.generator.training
    strip = pictures.strip(found)
    assert strip.shape == (192 + 100, 4 * 192, 3)  # two rows, the smaller one filled up
    assert (strip[:4, :4] == strip[0, 0]).all()  # one LR pixel


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


@dataclasses.dataclass(frozen=True)
class Fixed(Judge):
    """Gives every image the same scores but for one that has none."""

    def score(self, pictures: Any, names: Any, references: Any = None) -> list[dict[str, Score]]:
        scored = {name: Score({"niqe": 4.0, "psnr": 20.0, "pi": 3.0}[name]) for name in names}
        return [scored] * (len(pictures) - 1) + [{name: unscorable("too small") for name in names}]


def test_with_a_ma_model_pi_is_validated_and_images_without_a_score_are_left_out(
    config: Config, photograph: np.ndarray
) -> None:
    trained = learner(config, "srresnet", Fixed("pirm", "niqe", "ma"))
    hr = np.ascontiguousarray(photograph[:48, :48])
    trained.validation = [(images.downscale(hr), hr)] * 3
    assert trained.validate() == {"niqe": 4.0, "psnr": 20.0, "pi": 3.0}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile looks at it itself
@pytest.mark.parametrize("key", ["channels_last", "fused_adam", "compile"])
def test_a_key_of_speed_changes_losses_by_rounding_only(
    config: Config, batch: Batch, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    captured = functools.partial(torch.compile, backend="eager")  # the graph and its guards, without a C++ compiler
    monkeypatch.setattr(torch, "compile", captured)
    plain = learner(config, "ranksrgan")
    fast = learner(config, "ranksrgan", world=World(compute=Compute(**{key: True})))
    assert fast.state()["generator"].keys() == plain.state()["generator"].keys()
    for step in range(3):
        expected, found = plain.update(batch, step), fast.update(batch, step)
        assert {name: float(value) for name, value in found.items()} == pytest.approx(
            {name: float(value) for name, value in expected.items()}, rel=1e-4
        )


def test_whether_adam_is_fused_is_the_choice_of_the_run_that_resumes(config: Config, batch: Batch) -> None:
    plain, fused = (learner(config, "srgan", world=World(compute=Compute(fused_adam=on))) for on in (False, True))
    plain.update(batch, step=0)
    fused.restore(plain.state())
    assert fused.optimizer.param_groups[0]["fused"] is True
    expected, found = plain.update(batch, step=1), fused.update(batch, step=1)
    assert float(found["discriminator"]) == pytest.approx(float(expected["discriminator"]), rel=1e-5)
    plain.restore(fused.state())
    assert not plain.discriminator_optimizer.param_groups[0]["fused"]
    plain.update(batch, step=2)


def test_under_bf16_networks_round_while_weights_losses_and_states_stay_float32(
    config: Config, batch: Batch, tensors: Tensors
) -> None:
    plain = learner(config, "ranksrgan")
    rounded = learner(with_overrides(config, ["methods.ranksrgan.train.bf16=true"]), "ranksrgan")
    seen = []
    ranker_of(rounded).features[0].register_forward_hook(lambda *call: seen.append(call[2].dtype))
    for step in range(2):
        expected, found = plain.update(batch, step), rounded.update(batch, step)
        assert all(value.dtype == torch.float32 for value in found.values())
        assert {name: float(value) for name, value in found.items()} == pytest.approx(
            {name: float(value) for name, value in expected.items()}, rel=0.05
        )
    assert set(seen) == {torch.bfloat16}
    assert float(found["pixel"]) != float(expected["pixel"])
    assert {value.dtype for value in tensors(rounded.state()).values()} == {torch.float32, torch.int64}
