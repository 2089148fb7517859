"""Fixtures of all tests: the shared folder, photographs to work on, a private Ray, an S3 server on loopback."""

import asyncio
import json
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

# Before anything imports Ray: its processes inherit these.
ROOT = pathlib.Path(__file__).resolve().parent.parent
os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_DEDUP_LOGS="0",
    RAY_idle_worker_killing_time_threshold_ms="60000",  # as `session` asks of a private Ray
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.1",
    RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="30",
    RAY_raylet_start_wait_time_s="180",  # on a busy machine its default of 30 s is too short
    AWS_EC2_METADATA_DISABLED="true",
    OMP_NUM_THREADS="1",
    PYTHONPATH=os.pathsep.join([str(ROOT / "platform"), os.environ.get("PYTHONPATH", "")]),
)
os.environ.pop("RAY_ADDRESS", None)

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from aiohttp import web  # noqa: E402

from ranksr import images, pipeline, storage  # noqa: E402
from ranksr.config import Config, load_config  # noqa: E402
from ranksr.data import sources  # noqa: E402
from ranksr.runs import Run  # noqa: E402
from ranksr.stages import rank_dataset  # noqa: E402

hypothesis.settings.register_profile("ranksr", deadline=None)  # a busy machine is no fault of an example
hypothesis.settings.load_profile("ranksr")
torch.set_num_threads(1)  # several threads wait for each other on a busy machine
SHARED = ROOT.parent / "shared"

TINY = [
    "data.sub_image_px=120",
    "data.sub_image_stride_px=120",
    "validation.num_patches=2",
    "perceptual.network=squeezenet",
    "scoring.niqe_model=fit",
    "scoring.ma_model=null",
    "scoring.metrics=[niqe, psnr]",
    "methods.fsrcnn=null",
    "evaluation.methods=[bicubic, srresnet, srgan, esrgan, ranksrgan, hr]",
    "discriminator.features=4",
    "rank_dataset.patch_px=200",
    "rank_dataset.stride_px=200",
    "rank_dataset.min_sigma=0",
    "ranker.features=4",
    "ranker.train.steps=4",
    "ranker.train.batch_size=2",
    "ranker.train.validate_every_steps=2",
    "compute.num_workers=1",
    "compute.log_every_steps=2",
    "compute.checkpoint_every_steps=2",
] + [
    f"methods.{method}.{change}"
    for method in ("srresnet", "srgan", "esrgan_psnr", "esrgan", "ranksrgan")
    for change in ("hr_patch_px=48", "train.steps=4", "train.batch_size=2", "train.validate_every_steps=2")
]
"""Overrides that make the demo config take seconds."""


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Callable[[str], pathlib.Path]:
    """A path in the `shared` folder beside the repository; skips the test when it is not there."""

    def find(path: str) -> pathlib.Path:
        if not (SHARED / path).exists():
            pytest.skip(f"{path} is not in the shared folder beside the repository")
        return SHARED / path

    return find


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """A real photograph, uint8 HWC RGB, 512 px square."""
    return sources.read_photo("skimage:astronaut")


@pytest.fixture(scope="session")
def demo() -> Config:
    """configs/demo.yaml."""
    return load_config(ROOT / "configs" / "demo.yaml")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with three small photographs that have detail all over."""
    folder = tmp_path_factory.mktemp("photographs")
    for name, y, x in (("chelsea", 20, 60), ("coffee", 60, 160), ("motorcycle_left", 120, 200)):
        image = sources.read_photo(f"skimage:{name}")[y : y + 240, x : x + 240]
        (folder / f"{name}.png").write_bytes(images.encode_png(np.ascontiguousarray(image)))
    return folder


@pytest.fixture(scope="session")
def tiny(photographs: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of the demo config for a pipeline that takes seconds a stage."""
    tested = tmp_path_factory.mktemp("tested") / "astronaut.png"
    image = sources.read_photo("skimage:astronaut")[20:260, 120:360]
    tested.write_bytes(images.encode_png(np.ascontiguousarray(image)))
    return [*TINY, f"data.hr={photographs}", f"test_sets=[{{name: faces, hr: {tested}}}]"]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A private Ray for the tests of one session."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=256 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def single(tiny: list[str]) -> list[str]:
    """Overrides of a run with a single training, of srresnet."""
    return [*tiny, "evaluation.methods=[srresnet]"]


@pytest.fixture(scope="session")
def finished_run(
    root: pathlib.Path, single: list[str], ray_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """A finished run of the demo config with the overrides `single`: to be copied."""
    run = tmp_path_factory.mktemp("finished") / "run #1?%20[ü]"  # a name that a parser of URIs would not leave alone
    config = load_config(root / "configs" / "demo.yaml", single)
    pipeline.run_pipeline(pipeline.Context(config, Run(str(run)), start_ray=lambda: None), [])
    return run


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 API server on loopback; AWS_* of this process point to it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    names = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    yield address
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.stop()


NAN = float("nan")


class MadeUp:
    """A small finished rank dataset: two parts of two images each, three methods, NIQE and Ma; and its run."""

    LOCATIONS = (  # image_id, y, split, NIQE and Ma of a, b, hr
        ("one", 0, "train", [5.0, 4.0, 3.0], [5.0, 7.0, 8.0]),
        ("one", 8, "train", [4.0, 6.0, 3.0], [6.0, 5.0, 8.0]),  # flipped, by 2
        ("zwei, ü", 0, "train", [7.0, 3.0, 4.0], [3.0, 7.0, 8.0]),
        ("three", 0, "val", [3.0, 6.0, 2.0], [7.0, 4.0, 9.0]),  # flipped, by 3
        ("three", 8, "val", [9.0, 4.0, 2.0], [2.0, 6.0, 9.0]),
        ("four", 0, "train", [5.0, 5.0, 3.0], [5.0, 5.0, 8.0]),
        ("four", 8, "train", [NAN, 4.0, 3.0], [NAN, 5.0, 8.0]),
    )

    def __init__(self, root: str, config: Config) -> None:
        self.root, self.config = root, config

    def patch(self, image_id: str, y: int, method: str) -> bytes:
        """A PNG that differs from every other."""
        seed = list(f"{image_id} {y} {method}".encode())
        return images.encode_png(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8))

    def write_part(self, folder: str, number: int, *names: str) -> None:
        """The part with the locations of these images."""
        rows = [
            {
                "image_id": image_id, "y": y, "x": 0, "split": split, "profile": "pirm", "methods": ["a", "b", "hr"],
                "pngs": [self.patch(image_id, y, method) for method in ("a", "b", "hr")], "niqe": niqe, "ma": ma,
            }
            for image_id, y, split, niqe, ma in self.LOCATIONS
            if image_id in names
        ]  # fmt: skip
        summary = {"images": 2, "rejected": [], "counts": {"grid": len(rows) + 1, "flat": 1}}
        table = pa.Table.from_pylist(rows, schema=rank_dataset.schema(("niqe", "ma")))
        table = table.replace_schema_metadata({"summary": json.dumps(summary)})
        storage.write_table(storage.join(folder, f"part-{number:05d}.parquet"), table)

    def write(self, done: bool = True, root: str | None = None, **ranker: Any) -> str:
        """A run folder with nothing but run.json and the stage; its Ranker compares a and b by NIQE by default."""
        root = root or self.root
        ranker = {"metric": "niqe", "methods": ("a", "b"), **ranker}
        config = self.config.model_copy(update={"rankers": {"ranker": self.config.ranker.model_copy(update=ranker)}})
        storage.write_json(storage.join(root, "run.json"), {"config": config.model_dump(mode="json")})
        folder = storage.join(root, "rank_dataset")
        self.write_part(folder, 0, "one", "zwei, ü")
        if done:
            self.write_part(folder, 1, "three", "four")
        results = {"images": 4, "rejected": 0, "rows": 7, "counts": {"grid": 9, "flat": 2}} if done else {}
        entry = {"stage": "rank_dataset", "done": done, "fingerprint": "f", "results": results}
        storage.write_json(storage.join(folder, "stage.json"), {**entry, "inputs": {}, "settings": {}})
        return root


@pytest.fixture
def made_up(tmp_path: pathlib.Path, demo: Config) -> MadeUp:
    return MadeUp(str(tmp_path / "run"), demo)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, driven by Playwright; skips the test where one of them is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def serve_app() -> Iterator[Callable[[web.Application], str]]:
    """Serves aiohttp applications from threads until the test ends: the address of each."""
    stops: list[Callable[[], None]] = []

    def start(application: web.Application) -> str:
        loop, ready, found = asyncio.new_event_loop(), threading.Event(), []

        async def begin() -> None:
            runner = web.AppRunner(application)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            found.append(runner)
            ready.set()

        thread = threading.Thread(target=lambda: (loop.run_until_complete(begin()), loop.run_forever()))
        thread.start()
        assert ready.wait(30)

        def stop() -> None:
            asyncio.run_coroutine_threadsafe(found[0].cleanup(), loop).result(30)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(30)
            loop.close()

        stops.append(stop)
        return f"http://127.0.0.1:{found[0].addresses[0][1]}"

    yield start
    for stop in stops:
        stop()
