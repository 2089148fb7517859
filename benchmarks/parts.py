"""What a part costs the driver, and an actor's memory: of a job's parts, and of a million photographs.

    python benchmarks/parts.py [--json]

`driving`: milliseconds for each part more, by the clock and of the driver's CPU, from jobs of 800 and 2,400 parts that
compute nothing, by two workers, on a local disk: a task for each part, and 40 parts in a task, in turns, medians of
rounds. `collecting`: of the folder, for each part. `memory`: peak of one process, over what it had before, that makes a
part of so many JPEG photographs of 2040x1356 px by three methods and `hr` (296 px, stride 200), without scores.
`parts`: of a million photographs by their size in bytes, of which a part holds 8 MB or one. `million`: the driver of a
job of a million photographs, whose two workers do nothing and write nothing.
"""

import argparse
import json
import pathlib
import re
import resource
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
from ranksr.data import parts, sources, tasks
from ranksr.data.upscale import Upscaler
from ranksr.metrics import Score
from ranksr.stages import rank_dataset

JOBS = (800, 2400)
"""Numbers of parts."""
ROUNDS = 3
IN_A_TASK = (1, 40)
TASKS = tasks.TASKS
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
    result: dict[str, Any] = {"machine": machine(), "million": million(), "parts": num_parts()}
    with tempfile.TemporaryDirectory() as folder:
        result |= {**a_part_more(folder), "memory": memory(folder)}
    print(json.dumps(result) if args.json else as_text(result))


def made_up(count: int, size: int) -> list[parts.PartPhoto]:
    names = (f"{number:07d}" for number in range(count))
    return parts.describe([sources.Photo(name, f"/photos/{name}", size=size, digest=name) for name in names])


def a_part_more(folder: str) -> dict[str, Any]:
    """Milliseconds for each part more: (clock, CPU) by the most parts in a task, and of adding up a finished folder."""
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=256 * 2**20, log_to_driver=False)
    drive(f"{folder}/first", 10, 1)  # starts what Ray starts once
    found: dict[int, list[tuple[float, float]]] = {in_a_task: [] for in_a_task in IN_A_TASK}
    added: list[float] = []
    for number in range(ROUNDS):
        for in_a_task in IN_A_TASK:
            took = []
            for count in JOBS:
                stage = f"{folder}/{number}-{in_a_task}-{count}"
                took.append(drive(stage, count, in_a_task))
                start = time.monotonic()
                parts.collect(stage, "skip", 0)
                added.append(1000 * (time.monotonic() - start) / count)
                storage.delete(stage)
            (few, few_cpu), (many, many_cpu) = took
            more = (JOBS[1] - JOBS[0]) / 1000
            found[in_a_task].append(((many - few) / more, (many_cpu - few_cpu) / more))
    ray.shutdown()
    driving = {each: tuple(float(np.median(values)) for values in zip(*of, strict=True)) for each, of in found.items()}
    return {"driving": driving, "collecting": float(np.median(added))}


def drive(stage: str, count: int, in_a_task: int) -> tuple[float, float]:
    """Seconds by the clock, and of this process's CPU."""
    tasks.TASKS = -(-count // in_a_task)
    start, cpu = time.monotonic(), cpu_seconds()
    loaded = parts.Loaded(_Nothing, (), 2, 0)
    parts.run_job(parts.Job("benchmark", stage, SCHEMA, _as_made, 1, loaded), made_up(count, size=1))
    return time.monotonic() - start, cpu_seconds() - cpu


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


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


def million() -> dict[str, float]:
    """The job of a million photographs of 0.5 MB with two images made elsewhere, but for what its workers would do.

    Seconds by the clock and of the driver's CPU, and MB over what it had with the list of photographs.
    """
    names = [f"{number:07d}" for number in range(MILLION)]
    photos = [sources.Photo(name, f"/photos/{name}", size=500_000, digest=name) for name in names]
    given = {method: {name: f"/{method}/{name}.png" for name in names} for method in ("one", "two")}
    digests = {path: path[-20:] for paths in given.values() for path in paths.values()}
    tasks.TASKS = TASKS
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=256 * 2**20, log_to_driver=False)
    before, clock, cpu = most_memory(), time.monotonic(), cpu_seconds()
    todo = list(parts.plan(parts.describe(photos, given, digests, set(names[::10])), 4).values())
    planned = {"planning": time.monotonic() - clock, "planning_cpu": cpu_seconds() - cpu, "mb": most_memory() - before}
    clock, cpu, seen, blocks = time.monotonic(), cpu_seconds(), 0, 0
    driven = tasks.dataset("million", todo, parts.Loaded(_Nothing, (), 2, 0), _Unwritten())
    for batch in driven.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        seen, blocks = seen + sum(batch["images"].to_pylist()), blocks + 1
    assert seen == MILLION
    ray.shutdown()
    return {
        **planned,
        "parts": len(todo),
        "tasks": blocks,
        "driving": time.monotonic() - clock,
        "driving_cpu": cpu_seconds() - cpu,
        "driving_mb": most_memory() - before - planned["mb"],
    }


class _Unwritten:
    """Tells of a part as if it had been written."""

    def write(self, part: parts.Part, given: object) -> dict[str, int]:
        return {"images": len(part.photos), "rows": 0, "rejected": 0}

    def read(self, part: parts.Part) -> None:
        return None


def as_text(result: dict[str, Any]) -> str:
    lines = [result["machine"]]
    for in_a_task, (clock, cpu) in result["driving"].items():
        lines.append(f"a part more, {in_a_task} in a task: {clock:.2f} ms, {cpu:.2f} ms of the driver's CPU")
    lines.append(f"a part more in the folder: {result['collecting']:.2f} ms to add it up")
    lines += [f"a part of {count} photographs: {peak} MB" for count, peak in result["memory"].items()]
    for size, counts in result["parts"].items():
        told = ", ".join(f"{count:,} parts at {per_part}" for per_part, count in counts.items())
        lines.append(f"a million photographs of {size / 1e6:g} MB: {told}")
    lines.append(
        "the driver of a million of 0.5 MB: {parts:,} parts, {tasks:,} tasks; planning {planning:.0f} s "
        "({planning_cpu:.0f} of CPU, {mb} MB), driving {driving:.0f} s ({driving_cpu:.0f} of the driver's CPU, "
        "{driving_mb} MB more)".format(**result["million"])
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
