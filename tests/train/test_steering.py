"""Steering and refresh: what a Ranker sees of a generator, what it goes on learning, and what a checkpoint keeps."""

import dataclasses
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from ranksr import checkpoints, images
from ranksr.config import Config, RankContentLoss, RankerConfig, Refresh, with_overrides
from ranksr.data.labels import Labels, MappedPatches
from ranksr.errors import UserError
from ranksr.metrics.engine import Judge
from ranksr.metrics.scores import Score, unscorable
from ranksr.models import build_generator, build_ranker
from ranksr.train.refresh import Refresher
from ranksr.train.steering import Steer, Steering
from ranksr.train.world import World

REFRESH = Refresh(every_steps=2, patches=3, ranker_steps=2, pool=7)
PERTURBED = Refresh(every_steps=2, patches=3, ranker_steps=2, pool=20, perturbed=3, standardise=True)


@dataclasses.dataclass(frozen=True)
class Brightness(Judge):
    """A metric for tests: the mean of an image is its NIQE. Black images have none."""

    seconds: float = 0.0

    def score(self, pictures: Sequence[np.ndarray], names: Any, references: Any = None) -> list[dict[str, Score]]:
        time.sleep(self.seconds)
        return [
            {name: Score(float(picture.mean())) if picture.any() else unscorable("black") for name in names}
            for picture in pictures
        ]


JUDGE = Brightness("pirm", "none", None)


@pytest.fixture(scope="module")
def labels(photograph: np.ndarray) -> Labels:
    """Eight locations of two methods and HR: 50 px patches, whose last two rows and columns are no multiple of 4."""
    corners = [(40 * number, 200) for number in range(8)]
    patches = [np.ascontiguousarray(photograph[y : y + 50, x : x + 50]) for y, x in corners]
    rows = [[images.encode_png(each) for each in (patch // 2, patch // 3, patch)] for patch in patches]
    values = np.array([[float(images.decode(png).mean()) for png in row] for row in rows])
    places = pa.table({"image_id": ["astronaut"] * 8, "y": [y for y, _ in corners], "x": [x for _, x in corners]})
    return Labels(("half", "third", "hr"), MappedPatches(pa.chunked_array([rows])), (0, 1, 2), values, 0.0, places, 2)


@pytest.fixture
def ranker_config(demo: Config) -> RankerConfig:
    return with_overrides(demo, ["ranker.features=4", "ranker.crop_px=32", "ranker.train.batch_size=4"]).ranker


def networks(demo: Config, config: RankerConfig) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    return build_generator(demo.methods["ranksrgan"].generator), build_ranker(config)


def refresher(
    config: RankerConfig, ranker: torch.nn.Module, labels: Labels, world: World = World(), judge: Judge = JUDGE,  # noqa: B008
    refresh: Refresh = REFRESH,
) -> Refresher:  # fmt: skip
    return Refresher(config, refresh, ranker, labels, judge, world, seed=0)


def tensors(network: torch.nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in network.state_dict().values()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_the_ranker_learns_from_the_images_of_the_refresh_before(
    demo: Config, ranker_config: RankerConfig, labels: Labels
) -> None:
    generator, ranker = networks(demo, ranker_config)
    kept_up = refresher(ranker_config, ranker, labels)
    frozen = tensors(ranker)
    kept_up(generator, 0)
    assert same(frozen, tensors(kept_up.ranker))  # nothing is scored yet
    kept_up(generator, 1)
    assert not kept_up.seen
    kept_up(generator, 2)
    assert not same(frozen, tensors(kept_up.ranker))
    assert same(frozen, tensors(ranker))
    assert not any(weight.requires_grad for weight in kept_up.ranker.parameters())
    assert set(kept_up.seen) == {"refresh_metric", "refresh_pair_error"}
    drawn = [made.location for made in kept_up._pool]
    expected = [generator(images.to_tensor(images.downscale(labels.hr(at)[:48, :48]))[None])[0] for at in drawn]
    for made, image in zip(kept_up._pool, expected, strict=True):
        assert np.array_equal(made.image, images.to_image(image.detach()))
        assert made.value == made.image.mean()


def test_the_pool_keeps_the_newest_images_and_those_without_a_score_stay_out(
    demo: Config, ranker_config: RankerConfig, labels: Labels
) -> None:
    generator, ranker = networks(demo, ranker_config)
    kept_up = refresher(ranker_config, ranker, labels)
    for step in range(0, 8, 2):
        kept_up(generator, step)
    before = [made.location for made in kept_up._pool]
    assert len(before) == REFRESH.pool
    with torch.no_grad():
        for weight in generator.parameters():
            weight.zero_()
    black = refresher(ranker_config, ranker, labels)
    black._upscale = lambda *_: np.zeros((48, 48, 3), np.uint8)  # type: ignore[method-assign]
    for step in range(0, 6, 2):
        black(generator, step)
    assert black._pool == []
    assert same(tensors(ranker), tensors(black.ranker))


@pytest.mark.parametrize("refresh", [REFRESH, PERTURBED])
def test_a_ranker_that_keeps_up_is_bit_equal_after_a_restart_at_any_step(
    demo: Config, ranker_config: RankerConfig, labels: Labels, tmp_path: Any, refresh: Refresh
) -> None:
    def moved(generator: torch.nn.Module, step: int) -> torch.nn.Module:
        with torch.no_grad():
            for weight in generator.parameters():
                weight.add_(1e-3 * (step % 3))
        return generator

    generator, ranker = networks(demo, ranker_config)
    whole = refresher(ranker_config, ranker, labels, refresh=refresh)
    states = []
    for step in range(9):
        checkpoints.write(str(tmp_path / f"{step}.pt"), {"state": whole.state(), "generator": generator.state_dict()})
        states.append(step)
        whole(moved(generator, step), step)
    for start in states:
        other, fresh = networks(demo, ranker_config)
        slow = dataclasses.replace(JUDGE, seconds=0.01)
        resumed = refresher(ranker_config, fresh, labels, judge=slow, refresh=refresh)
        kept = checkpoints.read(str(tmp_path / f"{start}.pt"))
        other.load_state_dict(kept["generator"])
        resumed.restore(kept["state"])
        for step in range(start, 9):
            resumed(moved(other, step), step)
        assert same(tensors(whole.ranker), tensors(resumed.ranker)), start
        assert [made.value for made in whole._pool] == [made.value for made in resumed._pool]


@pytest.mark.parametrize("refresh", [REFRESH, PERTURBED])
def test_two_workers_make_the_images_of_one_and_learn_the_same(
    demo: Config, ranker_config: RankerConfig, labels: Labels, monkeypatch: pytest.MonkeyPatch, refresh: Refresh
) -> None:
    """Two threads stand for the workers, a barrier for their exchange; `share` has nothing to correct."""
    generator, ranker = networks(demo, ranker_config)
    one = refresher(ranker_config, ranker, labels, refresh=refresh)
    two = [refresher(ranker_config, ranker, labels, World(rank, 2), refresh=refresh) for rank in range(2)]
    met, given = threading.Barrier(2), dict[int, list[Any]]()

    def gather(self: World, rows: list[Any]) -> list[Any]:
        if self.num_workers == 1:
            return rows
        given[self.worker_rank] = rows
        met.wait()
        found = given[0] + given[1]
        met.wait()
        return found

    monkeypatch.setattr(World, "share", lambda *_: None)
    monkeypatch.setattr(World, "gather", gather)

    def run(worker: Refresher) -> None:
        for step in range(0, 8, 2):
            worker(generator, step)

    run(one)
    threads = [threading.Thread(target=run, args=(worker,)) for worker in two]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for worker in two:
        assert [made.location for made in worker._pool] == [made.location for made in one._pool]
        assert all(np.array_equal(mine.image, its.image) for mine, its in zip(worker._pool, one._pool, strict=True))
        assert same(tensors(one.ranker), tensors(worker.ranker))
        assert not worker.state()["begun"][0]["image"].is_floating_point()
        assert len(worker.state()["begun"]) == refresh.patches * (1 + refresh.perturbed)


class Corner(torch.nn.Module):
    """A Ranker that is pleased by its first pixel alone, so by one phase of a grid."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :, 0, 0].mean(dim=1)


def steering(loss: RankContentLoss, **metrics: str) -> Steering:
    return Steering({name: Steer(Corner(), 0.5, metric) for name, metric in metrics.items()}, loss, World(), seed=0)


def plain(demo: Config, **changes: Any) -> RankContentLoss:
    return demo.rank_content_loss.model_copy(update=changes)


def test_the_ranker_sees_the_images_at_another_offset_at_every_step_decided_by_seed_and_step(demo: Config) -> None:
    sr = torch.arange(64.0).reshape(1, 1, 8, 8).repeat(1, 3, 1, 1) / 100
    shifted = steering(plain(demo, shift_px=3), ranker="niqe")
    seen = []
    for step in range(200):
        shifted.terms(sr, step)
        seen.append(round(float(shifted.observe()["ranking_score"]) * 100))
    assert {divmod(value, 8) for value in seen} == {(y, x) for y in range(4) for x in range(4)}
    again = steering(plain(demo, shift_px=3), ranker="niqe")
    again.terms(sr, 150)
    assert round(float(again.observe()["ranking_score"]) * 100) == seen[150]
    fixed = steering(plain(demo), ranker="niqe")
    fixed.terms(sr, 150)
    assert float(fixed.observe()["ranking_score"]) == 0


def test_each_of_several_rankers_has_a_term_and_values_of_its_own(demo: Config) -> None:
    both = steering(plain(demo), first="niqe", second="ma")
    sr = torch.full((2, 3, 40, 40), 0.25)
    expected = 0.5 * torch.sigmoid(torch.tensor(0.25))
    assert both.terms(sr, 0) == {"rank_content_first": expected, "rank_content_second": expected}
    assert set(both.observe()) == {"ranking_score_first", "ranking_score_second"}
    assert both.metrics == ("niqe", "ma")


def test_a_validation_shows_how_far_a_ranker_is_pleased_by_one_phase(demo: Config) -> None:
    grid = np.zeros((40, 40, 3), np.uint8)
    grid[::4, ::4] = 255
    smooth = np.full((40, 40, 3), 51, np.uint8)
    found = steering(plain(demo), ranker="niqe").score([grid, smooth])
    assert found == [
        {"ranking_score": 1.0, "ranking_phase": 1.0},
        {"ranking_score": pytest.approx(0.2), "ranking_phase": 0.0},
    ]


def test_a_ranker_that_parts_from_its_metric_is_told_of(demo: Config, caplog: pytest.LogCaptureFixture) -> None:
    pleased = steering(plain(demo), ranker="niqe")
    with caplog.at_level(logging.WARNING):
        for step in range(4):
            found = pleased.follow({"ranking_score": -step, "niqe": 5 + step, "psnr": 25})
        assert not caplog.messages
        state = pleased.state()
        resumed = steering(plain(demo), ranker="niqe")
        resumed.restore(state)
        found = resumed.follow({"ranking_score": -9, "niqe": 9, "psnr": 25})
    assert found == {"ranking_correlation": -1}
    assert "the Ranker ranker and niqe part: rank correlation -1.00 over 5 validations" in caplog.text


def test_for_a_metric_whose_higher_values_are_better_the_correlation_has_its_sign_turned(demo: Config) -> None:
    good = steering(plain(demo), ranker="ma")
    for step in range(5):
        found = good.follow({"ranking_score": -step, "ma": 5 + step})
    assert found == {"ranking_correlation": 1}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["ranker.crop_px=400"], "ranker.crop_px=400 is larger than rank_dataset.patch_px"),
        (["rank_content_loss.shift_px=70"], "leaves less than 32 px of methods.ranksrgan.hr_patch_px=96"),
        (
            [
                "ranker.target=method",
                "rank_content_loss.refresh={every_steps: 1, patches: 1, ranker_steps: 1, pool: 1}",
            ],
            "set ranker.target=rank, or rank_content_loss.refresh=null",
        ),
    ],
)
def test_sizes_and_targets_that_do_not_fit_are_refused(demo: Config, overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_overrides(demo, overrides)


def test_after_a_refresh_the_scores_are_around_0_where_the_sigmoid_has_a_gradient(
    demo: Config, ranker_config: RankerConfig, labels: Labels
) -> None:
    generator, ranker = networks(demo, ranker_config)
    ranker.shift_scores(torch.tensor(50.0))
    kept_up = refresher(ranker_config, ranker, labels)
    for step in (0, 2):
        kept_up(generator, step)
    patches = [images.to_tensor(labels.patch(at, method)) for at in range(8) for method in range(3)]
    assert abs(float(kept_up.ranker.eval()(torch.stack(patches)).mean())) < 2


@pytest.mark.parametrize("scale", [1e-2, 1e2])
def test_scores_that_are_standardised_have_a_deviation_of_1_whatever_it_was(
    demo: Config, ranker_config: RankerConfig, labels: Labels, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, ranker = networks(demo, ranker_config)
    ranker.scale_scores(torch.tensor(scale))
    kept_up = refresher(ranker_config, ranker, labels, refresh=PERTURBED)
    seen: list[Any] = []
    level = Refresher._level
    monkeypatch.setattr(
        Refresher, "_level", lambda self, ranker, pairs: (seen.append(pairs), level(self, ranker, pairs))
    )
    for step in (0, 2):
        kept_up(generator, step)
    pictures = [each for pair in seen[-1] for each in (pair.first, pair.second)]
    scores = kept_up.ranker.eval()(torch.stack([images.to_tensor(np.ascontiguousarray(each)) for each in pictures]))
    assert float(scores.mean()) == pytest.approx(0, abs=1e-4)
    assert float(scores.std()) == pytest.approx(1, rel=1e-3)


def test_perturbed_copies_enter_the_pool_beside_their_image_and_are_paired_with_it(
    demo: Config, ranker_config: RankerConfig, labels: Labels
) -> None:
    generator, ranker = networks(demo, ranker_config)
    kept_up = refresher(ranker_config, ranker, labels, refresh=PERTURBED)
    for step in (0, 2):
        kept_up(generator, step)
    assert len(kept_up._pool) == 3 * 4
    own = kept_up._pool[::4]
    assert float(kept_up.seen["refresh_metric"]) == pytest.approx(np.mean([made.value for made in own]))
    for turn, image in enumerate(own):
        copies = kept_up._pool[4 * turn + 1 : 4 * turn + 4]
        assert all(copy.location == image.location and copy.image.shape == image.image.shape for copy in copies)
        assert not any(np.array_equal(copy.image, image.image) for copy in copies)
    stored = set(labels.values[own[0].location].tolist())
    rng = np.random.default_rng(0)
    met = [kept_up._pair(own[0], rng) for _ in range(60)]
    others = {pair.metric_second for pair in met if pair}
    assert all(pair and pair.metric_first == own[0].value for pair in met)
    assert others & stored
    assert others - stored <= {made.value for made in kept_up._pool if made.location == own[0].location}
    assert others - stored
