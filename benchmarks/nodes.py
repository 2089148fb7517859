"""1, 2 and 4 nodes: how much of its workers' time a data job uses, by the real job on a private Ray cluster.

    python benchmarks/nodes.py [--json] [--nodes 1 2 4] [--parts-per-worker 40]

The nodes are Ray nodes of this machine, two CPUs each by name. Network and scorer are stand-ins that sleep, 0.2 to
0.8 s each, so that more workers than cores can be busy. Planning, tasks, workers, Parquet files and adding up are the
product's. `used`: seconds slept, by those of all workers from the job's start to its end, their own start included.
`used once all have begun`: the same from the first part of the last actor on, the uneven end included. The last line
has a task make several parts, as in corpora of more than 5,000 parts (`tasks.in_tasks`).

It shows what Ray Data and the driver keep workers waiting for. It shows nothing of networks between hosts, of S3, of
memory, or of CPUs that are busy: all nodes share the cores of one machine, and starting their processes takes turns.
"""

import argparse
import dataclasses
import json
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from typing import Any

os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_raylet_start_wait_time_s="180")

import pyarrow as pa
import ray
from ray.cluster_utils import Cluster
from scoring import machine

from ranksr import storage
from ranksr.data import parts, sources, tasks

CPUS = 2
"""Of a node, and so its workers."""
SEVERAL = 8
"""Parts in a task of the last line, at most."""
SCHEMA = pa.schema([(name, pa.float64()) for name in ("began", "ended", "slept")] + [("actor", pa.int64())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--parts-per-worker", type=int, default=40)
    args = parser.parse_args()
    results = [measure(nodes, args.parts_per_worker, 1) for nodes in args.nodes]
    results.append(measure(args.nodes[-1], args.parts_per_worker, SEVERAL))
    for each in results:
        each["more"] = each["parts_per_second"] / results[0]["parts_per_second"]
    print(json.dumps({"machine": machine(), "nodes": results}) if args.json else as_text(results))


def sleep(part: parts.Part, step: str) -> float:
    """0.2 to 0.8 s, decided by the part's name."""
    seconds = 0.2 + 0.6 * int(storage.digest_of([part.name, step])[:4], 16) / 0xFFFF
    time.sleep(seconds)
    return seconds


@dataclasses.dataclass(frozen=True)
class Slept:
    part: parts.Part
    began: float
    slept: float


class Network:
    def __call__(self, part: parts.Part) -> Slept:
        began = time.time()
        return Slept(part, began, sleep(part, "network"))


def score(given: Slept) -> parts.Content:
    slept = given.slept + sleep(given.part, "score")
    return parts.Content([{"began": given.began, "ended": time.time(), "slept": slept, "actor": os.getpid()}], [])


def measure(nodes: int, parts_per_worker: int, several: int) -> dict[str, Any]:
    workers = nodes * CPUS
    count, tasks.TASKS = workers * parts_per_worker, max(1, workers * parts_per_worker // several)
    photos = parts.describe([sources.Photo(f"{number:05d}", "/photos", digest="") for number in range(count)])
    small = {"object_store_memory": 100 * 2**20}
    with tempfile.TemporaryDirectory(prefix="nodes") as folder:
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": f"{folder}/ray", **small}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(nodes):
                cluster.add_node(num_cpus=CPUS, **small)
            ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
            job = parts.Job("nodes", f"{folder}/warm", SCHEMA, score, 1, parts.Loaded(Network, (), 1, 0))
            parts.run_job(job, photos[:1])  # what Ray Data starts once
            job = dataclasses.replace(job, folder=f"{folder}/stage", loaded=parts.Loaded(Network, (), workers, 0))
            began, cpu = time.time(), cpu_seconds()
            parts.run_job(job, photos)
            ended, cpu = time.time(), cpu_seconds() - cpu
            rows = storage.read_table(job.folder).to_pylist()
        finally:
            ray.shutdown()
            cluster.shutdown()
    assert len(rows) == count
    return {
        "nodes": nodes,
        "workers": workers,
        "most_in_a_task": several,
        **used(rows, workers, began, ended),
        "parts_per_second": count / (ended - began),
        "driver_cpu_ms_per_part": 1000 * cpu / count,
    }


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def used(rows: Sequence[dict[str, Any]], workers: int, began: float, ended: float) -> dict[str, float]:
    """Parts of the workers' seconds that were slept: of all, and of those after the last of them had begun.

    `rows` have SCHEMA's columns. A part that was under way counts by its share.
    """
    firsts: dict[int, float] = {}
    for row in rows:
        firsts[row["actor"]] = min(row["began"], firsts.get(row["actor"], ended))
    all_begun = max(firsts.values())
    later = sum(
        row["slept"] * (row["ended"] - max(row["began"], all_begun)) / (row["ended"] - row["began"])
        for row in rows
        if row["ended"] > all_begun
    )
    return {
        "used": sum(row["slept"] for row in rows) / (workers * (ended - began)),
        "used_once_all_have_begun": later / (workers * (ended - all_begun)),
        "seconds_until_all_have_begun": all_begun - began,
    }


def as_text(results: Sequence[dict[str, Any]]) -> str:
    lines = [machine(), ""]
    for each in results:
        lines.append(
            f"{each['nodes']} nodes, {each['workers']:2d} workers, {each['most_in_a_task']} parts in a task at most: "
            f"{each['parts_per_second']:.2f} parts a second, {each['more']:.2f} times one node's; "
            f"used {each['used']:.3f}, once all have begun (after {each['seconds_until_all_have_begun']:.1f} s) "
            f"{each['used_once_all_have_begun']:.3f}; driver {each['driver_cpu_ms_per_part']:.1f} ms of CPU a part"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
