"""Memory at size: a finished stage of many parts is added up, and a split of it mapped by a worker. Prints MB.

    python benchmarks/memory.py [--rows N] [--rows-per-part N] [--patch PX] [--json]

A made-up rank dataset of a million locations with patches of a few pixels, whose footers and batches are as many and as
large as those of real ones. Each figure is that of a process of its own, over what it had before.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ranksr import images, storage
from ranksr.config import load_config
from ranksr.data import parts
from ranksr.data.feed import PairFeed
from ranksr.data.labels import derive_labels
from ranksr.data.local_copy import LocalCopy
from ranksr.stages import rank_dataset

ROOT = pathlib.Path(__file__).resolve().parent.parent
METHODS = ("srresnet", "esrgan", "hr")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="locations of the rank dataset")
    parser.add_argument("--rows-per-part", type=int, default=54, help="of each Parquet file")
    parser.add_argument("--patch", type=int, default=4, help="side of each of the three patches of a location")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--one", nargs=2, metavar=("MEASURE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure, folder = args.one
        print(json.dumps({"collect": collect, "first": map_split, "next": map_split}[measure](folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        num_parts = write(f"{folder}/rank_dataset", args.rows, args.rows_per_part, args.patch)
        result = {"rows": args.rows, "parts": num_parts}
        for measure in ("collect", "first", "next"):
            result |= {f"{measure}_{name}": value for name, value in in_own_process(measure, folder).items()}
    print(json.dumps(result) if args.json else as_text(result))


def write(folder: str, num_rows: int, per_part: int, patch_px: int) -> int:
    """Parts whose rows differ in image_id and scores alone; their number."""
    rng = np.random.default_rng(0)
    pngs = [images.encode_png(rng.integers(0, 256, (patch_px, patch_px, 3), np.uint8)) for _ in METHODS]
    for number, start in enumerate(range(0, num_rows, per_part)):
        write_part(folder, number, METHODS, [pngs] * min(per_part, num_rows - start), rng)
    return number + 1


def write_part(
    folder: str, number: int, methods: Sequence[str], pngs: Sequence[Sequence[bytes]], rng: np.random.Generator
) -> None:
    """A part of a rank dataset: the locations of one photograph, with these patches and random scores."""
    schema, count = rank_dataset.schema(("niqe",)), len(pngs)
    columns: dict[str, Any] = {
        "image_id": [f"image_{number:08d}"] * count,
        "y": range(count),
        "x": [0] * count,
        "split": ["train"] * count,
        "methods": [list(methods)] * count,
        "pngs": pngs,
        "niqe": rng.uniform(3, 8, (count, len(methods))).tolist(),
    }
    columns = {name: columns.get(name, [None] * count) for name in schema.names}
    summary = parts.Summary(1, [], {"grid": count, "flat": 0, "close": 0})
    table = parts.attach_summary(pa.table(columns, schema=schema), summary)
    storage.write_table(storage.join(folder, f"part-image_{number:08d}.parquet"), table)


def in_own_process(measure: str, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", measure, folder]
    environment = {**os.environ, "TMPDIR": folder}
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def own_memory_mb(peak: bool = False) -> float:
    """Memory of this process that it shares with no other and with no file, or the most that it has ever had."""
    path, key = ("status", "VmHWM:") if peak else ("smaps_rollup", "Anonymous:")
    lines = pathlib.Path(f"/proc/self/{path}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def collect(folder: str) -> dict[str, float]:
    """Peak of memory and time of adding up a finished stage."""
    before, began = own_memory_mb(peak=True), time.perf_counter()
    parts.collect(f"{folder}/rank_dataset", "skip", 0.1)
    return {"peak_mb": own_memory_mb(peak=True) - before, "seconds": time.perf_counter() - began}


def map_split(folder: str) -> dict[str, float]:
    """A worker's own memory for a split that the first one has copied, the labels and the feed on it."""
    config = load_config(ROOT / "configs" / "demo.yaml", ["ranker.metric=niqe", f"ranker.methods={list(METHODS)}"])
    before, began = own_memory_mb(), time.perf_counter()
    table = LocalCopy("benchmark", "start").read(f"{folder}/rank_dataset", "train")
    copied, mapped = time.perf_counter() - began, own_memory_mb() - before
    began = time.perf_counter()
    feed = PairFeed(derive_labels(table, config.ranker), seed=0)
    feed.pair(0)
    drawn = time.perf_counter() - began
    return {"mapped_mb": mapped, "with_feed_mb": own_memory_mb() - before, "seconds": copied, "feed_seconds": drawn}


def as_text(result: dict[str, float]) -> str:
    lines = [f"{result['rows']:,} rows in {result['parts']:,} parts"]
    lines.append(f"collect()         peak {result['collect_peak_mb']:7.1f} MB, {result['collect_seconds']:.1f} s")
    for name, words in (("first", "worker that copies"), ("next", "every other worker")):
        mapped, fed = result[f"{name}_mapped_mb"], result[f"{name}_with_feed_mb"]
        seconds = f"{result[f'{name}_seconds']:.1f} s; feed {result[f'{name}_feed_seconds']:.2f} s"
        lines.append(f"{words} own {mapped:7.1f} MB, with labels and feed {fed:.1f} MB, {seconds}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
