"""What a training takes: photographs that its crop fits into, a rank dataset that is copied before it or meanwhile."""

import contextlib
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from ranksr import images, storage
from ranksr.config import Config, with_overrides
from ranksr.data import local_copy
from ranksr.data.growing_copy import GrowingCopy
from ranksr.data.local_copy import LocalCopy
from ranksr.errors import UserError
from ranksr.metrics.engine import Judge
from ranksr.stages import patches
from ranksr.train.jobs import RankerJob, SRJob
from ranksr.train.ranker import RankerLearner
from ranksr.train.world import World


@pytest.fixture
def job(tmp_path: pathlib.Path, photograph: np.ndarray, demo: Config, monkeypatch: pytest.MonkeyPatch) -> SRJob:
    """Of SRResNet; five training photographs of 32 to 96 px and six to validate on."""
    monkeypatch.setattr(Judge, "load", lambda _: None)
    rows = []
    held_out = [(f"held out/{number}", 64) for number in range(6)]
    for name, side in (("a", 32), ("b", 40), ("c", 32), ("d", 40), ("e", 96), *held_out):
        hr = np.ascontiguousarray(photograph[:side, :side])
        pngs = {"hr": images.encode_png(hr), "lr": images.encode_png(images.downscale(hr))}
        rows.append({"image_id": name, "y": 0, "x": 8, "split": "val" if "held out" in name else "train", **pngs})
    storage.write_table(str(tmp_path / "patches" / "part-0.parquet"), pa.Table.from_pylist(rows, schema=patches.SCHEMA))
    return SRJob(demo, "srresnet", str(tmp_path / "patches"), None, None, Judge("pirm", "none", None))


@pytest.mark.parametrize("num_workers", [1, 2, 5, 7])
def test_the_same_images_are_pictured_however_many_workers_share_them(
    job: SRJob, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    monkeypatch.setattr(World, "wrap", World.place)  # no process group here
    copy = LocalCopy(str(tmp_path), "test")
    learners = [job.build(World(rank, num_workers), copy)[0] for rank in range(num_workers)]
    copy.remove()
    names = [name for learner in learners for name in learner.pictured.values()]
    assert sorted(names) == [f"held out/{number}_0_8" for number in (0, 2, 3, 4)]


def build(job: SRJob, tmp_path: pathlib.Path, hr_patch_px: int) -> tuple[int, ...]:
    config = with_overrides(job.config, [f"methods.srresnet.hr_patch_px={hr_patch_px}"])
    copy = LocalCopy(str(tmp_path), "test")
    try:
        _, draw = SRJob(config, job.method, job.patches, None, None, job.judge).build(World(), copy)
        return draw(range(2))["hr"].shape
    finally:
        copy.remove()


def test_photographs_smaller_than_the_crop_are_left_out_by_name(
    job: SRJob, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", logger="ranksr"):
        assert build(job, tmp_path, 64) == (2, 3, 64, 64)
    assert caplog.messages == [
        "srresnet: 4 of 5 training photographs are left out, smaller than methods.srresnet.hr_patch_px=64 px: a, b, c, ..."
    ]
    caplog.clear()
    assert build(job, tmp_path, 32) == (2, 3, 32, 32)
    assert not caplog.messages


def test_a_training_without_a_photograph_that_is_large_enough_names_key_value_and_remedy(
    job: SRJob, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(
        UserError,
        match=r"none of the 5 training photographs has methods.srresnet.hr_patch_px=100 px on both sides \(a, b, c, ...\): lower it",
    ):
        build(job, tmp_path, 100)


def test_a_ranker_draws_the_same_pairs_of_a_rank_dataset_that_is_copied_meanwhile(
    made_up: Any, demo: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"{made_up.write()}/rank_dataset"
    ranker = demo.ranker.model_copy(update={"methods": ("a", "b"), "metric": "niqe"})
    config = demo.model_copy(update={"rankers": {"ranker": ranker}})
    drawn = list[list[torch.Tensor]]()
    for size, grows in ((10**9, False), (0, True)):
        monkeypatch.setattr(local_copy, "GROWS_FROM_BYTES", size)
        with contextlib.closing(LocalCopy(made_up.root, f"{size}")) as copy:
            learner, draw = RankerJob(config, "ranker", source).build(World(), copy)
            copy.remove()
            assert isinstance(learner, RankerLearner)
            assert isinstance(learner.labels.patches, GrowingCopy) == grows
            batches = [draw(range(8 * step, 8 * step + 8)) for step in range(4)]
            held_out = [torch.from_numpy(learner.labels.patch(place, method)) for place in (0, 1) for method in (0, 1)]
        drawn.append([*(batch[name] for batch in batches for name in sorted(batch)), *held_out])
    for copied, growing in zip(*drawn, strict=True):
        assert torch.equal(copied, growing)
