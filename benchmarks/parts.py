"""What `data.images_per_part` trades: the driver's time for each part against the memory of an actor.

    python benchmarks/parts.py [--json]

`driving` and `collecting`: milliseconds for each part more, from jobs of 1,000 and 3,000 parts that compute nothing, by
two actors, on a local disk. `memory`: peak of one process, over what it had before, that makes a part of so many JPEG
photographs of 2040x1356 px by three methods and `hr` (296 px, stride 200), without scores. `parts`: of a million
photographs by their size in bytes, of which a part holds 8 MB or one.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import ray
from scoring import machine

from ranksr import storage
from ranksr.config import RankDataset
from ranksr.data import parts, sources
from ranksr.data.upscale import Upscaler
from ranksr.metrics import Score
from ranksr.stages import rank_dataset

JOBS = (1000, 3000)
"""Numbers of parts."""
PER_PART = (4, 16, 64)
MEMORY_OF = (1, 4, 16)
"""Photographs in a part."""
MILLION = 1_000_000
SIZES = (50_000, 500_000, 4_500_000)
METHODS = ("bicubic", "one", "two", "hr")
SCHEMA = pa.schema([("image_id", pa.string())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--peak", nargs=2, metavar=("PHOTOGRAPHS", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print(peak(int(args.peak[0]), args.peak[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        result = {"machine": machine(), **a_part_more(folder), "memory": memory(folder), "parts": num_parts()}
    print(json.dumps(result) if args.json else as_text(result))


def made_up(count: int, size: int) -> list[parts.PartPhoto]:
    names = (f"{number:07d}" for number in range(count))
    return parts.describe([sources.Photo(name, f"/photos/{name}", size=size, digest=name) for name in names])


def a_part_more(folder: str) -> dict[str, float]:
    """Milliseconds of the driver, and of adding up a finished folder."""
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=256 * 2**20, log_to_driver=False)
    made, added = [], []
    for count in (10, *JOBS):  # the first one starts what Ray starts once
        stage, start = storage.join(folder, str(count)), time.monotonic()
        actors = parts.Actors(_Nothing, (), 2, 0)
        parts.run_job(parts.Job("benchmark", stage, SCHEMA, _as_made, 1, actors), made_up(count, size=1))
        middle = time.monotonic()
        parts.collect(stage, "skip", 0)
        made.append(middle - start)
        added.append(time.monotonic() - middle)
    ray.shutdown()
    more = JOBS[1] - JOBS[0]
    return {"driving": 1000 * (made[2] - made[1]) / more, "collecting": 1000 * added[2] / JOBS[1]}


class _Nothing:
    def __call__(self, part: parts.Part) -> parts.Content:
        return parts.Content([{"image_id": each.photo.image_id} for each in part.photos], [])


def _as_made(content: parts.Content) -> parts.Content:
    return content


def memory(folder: str) -> dict[int, int]:
    """Number of photographs in a part to MB."""
    make_photographs(pathlib.Path(folder) / "hr", max(MEMORY_OF))
    command = [sys.executable, __file__, "--peak"]
    return {
        count: int(subprocess.run([*command, str(count), folder], check=True, capture_output=True, text=True).stdout)
        for count in MEMORY_OF
    }


def make_photographs(folder: pathlib.Path, count: int) -> None:
    folder.mkdir()
    names = ("astronaut", "coffee", "motorcycle_left")
    whole = np.hstack([sources.read_photo(f"skimage:{name}")[:400, :500] for name in names])
    for number in range(count):
        image = cv2.resize(np.roll(whole, 37 * number, 1), (2040, 1356), interpolation=cv2.INTER_CUBIC)
        grain = np.random.default_rng(number).normal(0, 3, image.shape)
        image = np.clip(image + grain, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:02d}.jpg"), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


class _NoScores:
    profile = "pirm"

    def score(self, patches: list[np.ndarray], names: Iterable[str]) -> list[dict[str, Score]]:
        return [{name: Score(1.0, "") for name in names} for _ in patches]


def peak(count: int, folder: str) -> int:
    """MB over what the process had before."""
    photos = [each.photo for each in parts.describe(sources.list_photos(f"{folder}/hr")[:count])]
    given = {name: {photo.image_id: photo.path for photo in photos} for name in ("one", "two")}
    part = parts.Part(f"part-{count}.parquet", tuple(parts.describe(photos, given)))
    rules = RankDataset(methods=METHODS[:-1], patch_px=296, stride_px=200, min_sigma=0)
    upscaler = Upscaler({"bicubic": "bicubic", "one": "given", "two": "given", "hr": "hr"}, 296, 0)
    judge: Any = _NoScores()
    locate = rank_dataset.Locate(METHODS, ("niqe",), rules, judge, {})
    before = most_memory()
    parts.write_part(f"{folder}/stage", rank_dataset.schema(("niqe",)), part, locate(upscaler(part)))
    return most_memory() - before


def most_memory() -> int:
    """MB that this process has had at most. `ru_maxrss` would begin with what its parent had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) // 1024


def num_parts() -> dict[int, dict[int, int]]:
    """Bytes of a photograph and `images_per_part` to the parts of a million photographs."""
    counts: dict[int, dict[int, int]] = {}
    for size in SIZES:
        photos = made_up(MILLION, size)
        counts[size] = {per_part: len(parts.split(photos, per_part)) for per_part in PER_PART}
    return counts


def as_text(result: dict[str, Any]) -> str:
    lines = [result["machine"], f"a part more: driving {result['driving']:.1f} ms, collecting"]
    lines[-1] += f" {result['collecting']:.2f} ms"
    lines += [f"a part of {count} photographs: {peak} MB" for count, peak in result["memory"].items()]
    for size, counts in result["parts"].items():
        told = ", ".join(f"{count:,} parts at {per_part}" for per_part, count in counts.items())
        lines.append(f"a million photographs of {size / 1e6:g} MB: {told}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
