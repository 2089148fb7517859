"""A small finished run, made up, whose methods are blurred photographs, and a study of it."""

import pathlib
import shutil
from collections.abc import Callable

import cv2
import numpy as np
import pyarrow as pa
import pytest
from aiohttp import web

from ranksr import checkpoints, images, storage
from ranksr.models import build_ranker
from ranksr.study import design, make, serve

BLURS = {"bicubic": 2.0, "srresnet": 1.5, "srgan": 1.0, "esrgan": 0.8, "ranksrgan": 0.6, "hr": 0.0}
"""Standard deviation in pixels by which each method's pictures are blurred."""


def photograph(seed: int, height: int = 240, width: int = 320) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    texture = rng.integers(-20, 21, (height, width, 3))
    return np.clip(cv2.resize(small, (width, height)) + texture, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, demo) -> pathlib.Path:
    """Six images of one test set by six methods, with NIQE that follows the blur; and an untrained Ranker."""
    root = tmp_path_factory.mktemp("runs") / "made_up"
    config = demo.model_dump(mode="json")
    config |= {"test_sets": [{"name": "Set6", "hr": "nowhere"}]}
    config["scoring"] |= {"ma_model": None, "metrics": ["niqe", "psnr"]}
    storage.write_json(f"{root}/run.json", {"config": config})
    entry = {"stage": "evaluation", "done": True, "fingerprint": "f", "results": {}, "inputs": {}, "settings": {}}
    storage.write_json(f"{root}/evaluation/stage.json", entry)
    rows = []
    for seed in range(6):
        hr = photograph(seed)
        for method, blur in BLURS.items():
            picture = cv2.GaussianBlur(hr, (0, 0), blur) if blur else hr
            storage.write_bytes(f"{root}/evaluation/images/Set6/{method}/im{seed}.png", images.encode_png(picture))
            score = {"metric": "niqe", "value": 4 + blur, "reason": None}
            rows.append({"method": method, "test_set": "Set6", "image": f"im{seed}", **score})
        lr = images.encode_png(images.downscale(hr))
        storage.write_bytes(f"{root}/evaluation/images/Set6/lr/im{seed}.png", lr)
    storage.write_table(f"{root}/evaluation/scores.parquet", pa.Table.from_pylist(rows))
    ranker = demo.rankers["ranker"]
    storage.write_json(f"{root}/ranker/stage.json", entry | {"stage": "ranker"})
    checkpoints.save_ranker(f"{root}/ranker/weights.pt", ranker, build_ranker(ranker).state_dict(), {})
    return root


@pytest.fixture(scope="session")
def made(run: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The paper's study of that run; a test that serves it takes a copy."""
    folder = tmp_path_factory.mktemp("studies") / "first"
    make.make(str(run), str(folder), design.load_design(None))
    return folder


@pytest.fixture
def study(made: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(made, tmp_path / "study"))


@pytest.fixture
def served(serve_app: Callable[[web.Application], str]) -> Callable[[pathlib.Path], tuple[str, serve.Server]]:
    """Serves studies: (address, server)."""

    def start(folder: pathlib.Path) -> tuple[str, serve.Server]:
        server = serve.Server(str(folder))
        return serve_app(serve.application(server)), server

    return start


@pytest.fixture(scope="session")
def make_items() -> Callable[[int], design.Items]:
    """The paper's study of so many images, without pictures: votes, two traps and two practice items."""

    def make_of(num_images: int) -> design.Items:
        items = []
        for image in (f"im{number}" for number in range(num_images)):
            for rival in ("srgan", "esrgan"):
                versions, name = {"ranksrgan": "a", rival: "b"}, f"pairs:vote:{image}:ranksrgan:{rival}"
                items.append(design.Item(name, "pairs", "vote", image, versions, (0, 0, 8)))
            versions = {method: method for method in ("srresnet", "esrgan", "ranksrgan", "hr")}
            items.append(design.Item(f"ranking:vote:{image}", "ranking", "vote", image, versions, (0, 0, 8)))
        for number in range(2):
            obvious = {"hr": "a", "blur_3": "b"}
            items.append(design.Item(f"trap{number}", "pairs", "trap", "im0", obvious, (0, 0, 8), "hr"))
            items.append(design.Item(f"practice{number}", "pairs", "practice", "im0", obvious, (0, 0, 8)))
        return design.Items("run", "set", tuple(items), {})

    return make_of
