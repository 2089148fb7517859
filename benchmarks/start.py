"""Seconds of a training beside its steps: on kept workers of this machine and on new ones of Ray Train, in turn.

    python benchmarks/start.py [--workers N] [--rounds N] [--json]

A training of one step that computes nothing. The first on kept workers starts them, and is not among the rounds. CPU
seconds are of every process below this one.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import tempfile
import time
from typing import Any

import psutil
import ray
import torch

from ranksr import cluster, session, storage
from ranksr.config import Config, Training, load_config
from ranksr.train import launch, worker_pool
from ranksr.train.journal import Place
from ranksr.train.world import World

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Nothing:
    """A learner without networks."""

    def update(self, batch: Any, step: int) -> dict[str, torch.Tensor]:
        return {"loss": torch.zeros(())}

    observe = pictures = validate = state = lambda self: {}

    def restore(self, state: dict[str, Any]) -> None: ...

    def save_weights(self, path: str, about: dict[str, Any]) -> None:
        storage.write_json(path, about)


@dataclasses.dataclass(frozen=True)
class Job:
    config: Config
    training: Training
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def build(self, world: World, copy: object) -> tuple[Nothing, Any]:
        return Nothing(), lambda samples: {"samples": torch.tensor(list(samples))}

    def conclude(self, learner: Nothing, place: Place, world: World) -> dict[str, Any]:
        return {}


def cpu_seconds(seen: dict[psutil.Process, float]) -> float:
    """Of all processes below this one, those that have ended since they were `seen` included."""
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
            seen[process] = times.user + times.system
        except psutil.Error:
            continue
    return sum(seen.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    config = load_config(ROOT / "configs" / "demo.yaml", [f"compute.num_workers={args.workers}"])
    training = config.methods["srresnet"].train.model_copy(update={"steps": 1, "checkpoint": "last"})
    job: Any = Job(config, training)
    session.connect()
    wall, cpu, seen = dict[str, list[float]](), dict[str, list[float]](), dict[psutil.Process, float]()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds + 1):
            for kind in ("kept workers", "Ray Train"):
                place = Place("training", f"{folder}/{kind} {number}", f"{folder}/tensorboard")
                cluster.is_this_machine = lambda kept=kind == "kept workers": kept
                begun, used = time.monotonic(), cpu_seconds(seen)
                launch.train(job, place)
                if number:
                    wall.setdefault(kind, []).append(time.monotonic() - begun)
                    cpu.setdefault(kind, []).append(cpu_seconds(seen) - used)
    worker_pool.dismiss()
    ray.shutdown()
    found = {
        kind: {"seconds": statistics.median(wall[kind]), "cpu_seconds": statistics.median(cpu[kind])} for kind in wall
    }
    ratio = found["Ray Train"]["seconds"] / found["kept workers"]["seconds"]
    if args.json:
        print(json.dumps({"workers": args.workers, **found, "ratio": ratio}))
        return
    for kind, took in found.items():
        print(f"{kind}: {took['seconds']:.2f} s, {took['cpu_seconds']:.2f} s of CPU")
    print(f"Ray Train takes {ratio:.0f}x the time, with {args.workers} workers")


if __name__ == "__main__":
    main()
