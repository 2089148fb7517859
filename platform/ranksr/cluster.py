"""Checks of a Ray cluster before work starts: large enough or able to grow, run folder visible, run not in use.

The only file that uses undocumented parts of Ray. TRIED names the version it was tried with: with another one, run
`pytest tests/test_cluster.py tests/test_ablation_faults.py tests/test_faults.py` and name that.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import ray
import ray.exceptions
import ray.util
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ranksr import runs, storage
from ranksr.config import Compute
from ranksr.errors import UserError

log = logging.getLogger(__name__)

Told = TypeVar("Told")

TRIED = "2.60"
"""Version of Ray, up to the minor number."""
AUTOSCALER_ANSWERS_WITHIN_SECONDS = 60
"""It looks every 5 s; at the start of a cluster it may not be there yet."""
OWNER_MAY_BE_DYING_SECONDS = 15
"""A killed command's actors live until Ray has noticed."""


def require_shared_root(compute: Compute, root: str) -> None:
    """Raise UserError when a local run folder would be a different folder on every node."""
    if storage.is_remote(root) or compute.shared_filesystem:
        return
    nodes = sum(node["Alive"] for node in ray.nodes())
    if nodes > 1 or is_growing():
        size = f"has {nodes} nodes" if nodes > 1 else "grows beyond its first node"
        raise UserError(
            f"--run {root} is a local folder, and the cluster {size}: use --run s3://bucket/prefix, "
            "or set compute.shared_filesystem=true where every node sees the same files"
        )


def require_resources(compute: Compute, upscaling: bool = True) -> str:
    """Raise UserError now where Ray would wait without end for CPUs or GPUs that the cluster cannot have.

    Returns what is asked and what is there, for people. Where the present nodes do not do, Ray's autoscaler (v2) is
    asked, which begins to start what it can.
    """
    needs = [("training", "num_workers", {"CPU": compute.cpus_per_worker, "GPU": compute.gpus_per_worker})]
    if upscaling:
        gpus = compute.gpus_per_upscaler
        # On GPUs they take no CPU; on CPUs they begin with as many as find one.
        needs.append(("upscaling", "upscale_actors", {"CPU": 0 if gpus else 1, "GPU": gpus}))
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    size, asked = f"{_total(nodes)} on {len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}", []
    for stage, key, each in needs:
        count = getattr(compute, key) or 1
        bundles = [{name: size for name, size in each.items() if size}] * count
        fits = _fit(bundles, nodes)
        if not fits and not (is_growing() and _can_grow_to(bundles)):
            limit = f"{size} and cannot grow to it" if is_growing() else size
            raise UserError(
                f"{stage} needs {_total([each])} for each of compute.{key}={count}, and the cluster has {limit}: "
                f"lower compute.{key} or what each takes, or start more or larger nodes"
            )
        asked.append(f"{stage} asks {count} x ({_total([each])}){'' if fits else ', to which the cluster grows'}")
    return f"{'; '.join(asked)}; the cluster has {size}"


def lacking(compute: Compute) -> str:
    """What a training that has begun lacks since nodes were lost; empty where it finds room, or the cluster may grow.

    Ray Train waits for CPUs and GPUs without end and without a word.
    """
    each = {"CPU": compute.cpus_per_worker, "GPU": compute.gpus_per_worker}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if _fit([{name: size for name, size in each.items() if size}] * compute.num_workers, nodes) or is_growing():
        return ""
    return (
        f"training needs {_total([each])} for each of compute.num_workers={compute.num_workers}, and the cluster is "
        f"left with {_total(nodes)} on {len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}"
    )


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of the cluster, and what Ray says that it has."""

    name: str
    """Host name and address."""
    cpus: float
    gpus: float
    object_store_bytes: float
    node_id: str = ""


@dataclasses.dataclass(frozen=True)
class Answer(Generic[Told]):
    """The answer of one node to `ask_every_node`."""

    node: Node
    sent: float
    """Time of this process's clock when the node was asked, in seconds since 1970."""
    told: Told | Exception
    """The value of the function, or why there is none."""
    received: float
    """Its time when the answer came."""


def nodes() -> list[Node]:
    """The nodes that are alive."""
    return [
        Node(
            f"{each['NodeManagerHostname']} ({each['NodeManagerAddress']})",
            each["Resources"].get("CPU", 0),
            each["Resources"].get("GPU", 0),
            each["Resources"].get("object_store_memory", 0),
            each["NodeID"],
        )
        for each in ray.nodes()
        if each["Alive"]
    ]


def ask_every_node(function: Callable[..., Told], *arguments: object, within_seconds: float) -> list[Answer[Told]]:
    """Call a function once on every node, side by side and beside all other work. A node's failure is its answer."""
    begun, waiting, answers = time.monotonic(), dict[ray.ObjectRef, tuple[Node, float]](), list[Answer[Told]]()
    for node in nodes():
        there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        task = ray.remote(num_cpus=0, max_retries=0)(function).options(scheduling_strategy=there)
        sent = time.time()
        waiting[task.remote(*arguments)] = node, sent
    while waiting:
        left = within_seconds - (time.monotonic() - begun)
        done, _ = ray.wait(list(waiting), timeout=max(0, left))
        received = time.time()
        if not done:
            late = TimeoutError(f"no answer within {within_seconds:g} s")
            return [*answers, *(Answer(*each, late, received) for each in waiting.values())]
        try:
            told = ray.get(done[0])
        except Exception as error:  # whatever the function raised, or Ray in its place
            told = error
        answers.append(Answer(*waiting.pop(done[0]), told, received))
    return answers


def ask_side_by_side(
    function: Callable[..., Told], *arguments: object, count: int, cpus: float, gpus: float, within_seconds: float
) -> list[Told]:
    """Call a function in so many processes at once, each with so much for itself. Raises what one raised, or
    TimeoutError; those that are not done then end with this process."""
    asked = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(function)
    tasks = [asked.remote(*arguments) for _ in range(count)]
    try:  # never ray.cancel: of a task that is just ending, it ends this process ("task that was not pending")
        return ray.get(tasks, timeout=within_seconds)
    except ray.exceptions.GetTimeoutError as error:
        raise TimeoutError(
            f"no answer within {within_seconds:g} s: {count} x ({cpus:g} CPU, {gpus:g} GPU) are not free"
        ) from error


class Holder:
    """An actor whose name says that somebody works on a run."""

    def __init__(self, owner: str) -> None:
        self._owner = owner

    def owner(self) -> str:
        return self._owner


@contextlib.contextmanager
def reserve(root: str) -> Iterator[None]:
    """Keep this cluster's other commands out of a run meanwhile; the actor dies with this process, however that ends.

    It is on this process's node: on any other one it would end with that, and leave the run to the next command.
    Raises UserError naming the process that has it. What another cluster does in the same bucket is not seen.
    """
    named = {"name": root, "namespace": "ranksr"}
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    held = ray.remote(num_cpus=0, scheduling_strategy=here)(Holder)
    end = time.monotonic() + OWNER_MAY_BE_DYING_SECONDS
    while True:
        try:
            holder = held.options(**named).remote(runs.this_process())
            break
        except ValueError as error:
            if time.monotonic() > end:
                raise UserError(runs.in_use(root, _owner(named))) from error
        time.sleep(1)
    yield
    del holder


def _owner(named: dict[str, str]) -> str:
    try:
        return ray.get(ray.get_actor(**named).owner.remote(), timeout=AUTOSCALER_ANSWERS_WITHIN_SECONDS)
    except (ValueError, ray.exceptions.RayError):
        return "another command that is just ending"


def is_this_machine() -> bool:
    """Whether this process's node is the only one, and stays so."""
    return sum(node["Alive"] for node in ray.nodes()) == 1 and not is_growing()


def is_growing() -> bool:
    """Whether nodes come and go with the work: `ray up` and KubeRay run the autoscaler v2, `ray start` none."""
    return is_autoscaler_v2(fetch_from_server=True)


def _total(bundles: list[dict[str, float]]) -> str:
    return ", ".join(f"{sum(bundle.get(name, 0) for bundle in bundles):g} {name}" for name in ("CPU", "GPU"))


def _fit(bundles: list[dict[str, float]], nodes: list[dict[str, float]]) -> bool:
    """Whether the bundles find room on the nodes, were these idle; a bundle is never split."""
    rooms = [dict(node) for node in nodes]
    for bundle in sorted(bundles, key=lambda bundle: (bundle.get("GPU", 0), bundle.get("CPU", 0)), reverse=True):
        room = next((room for room in rooms if all(room.get(key, 0) >= size for key, size in bundle.items())), None)
        if room is None:
            return False
        for key, size in bundle.items():
            room[key] -= size
    return True


def _can_grow_to(bundles: list[dict[str, float]]) -> bool:
    """The autoscaler's own answer to the request that Ray Train would make; its limits cannot be asked for."""
    gcs = GcsClient(ray.get_runtime_context().gcs_address)
    group = ray.util.placement_group(bundles)
    try:
        asked = None
        for _ in range(2 * AUTOSCALER_ANSWERS_WITHIN_SECONDS):
            status = GetClusterStatusReply.FromString(gcs.get_cluster_status())
            answer = status.autoscaling_state
            asked = asked or status.cluster_resource_state.cluster_resource_state_version
            if answer.last_seen_cluster_resource_state_version > asked:
                refused = [request.details for request in answer.infeasible_gang_resource_requests]
                return not any(group.id.hex() in details for details in refused)
            time.sleep(0.5)
        log.warning("the autoscaler does not answer; whether the cluster can have %s is unknown", _total(bundles))
        return True
    finally:
        ray.util.remove_placement_group(group)


def remove_orphans() -> int:
    """Remove the placement groups of Train controllers that died with their trial's process, or node; their number.

    Ray keeps them as long as the job runs, and the trial, started again, would wait for its own CPUs without end.
    Train's own cleaner asks the dashboard who is dead, and there may be none (see Trainer). The GCS knows.
    """
    job, found = bytes.fromhex(ray.get_runtime_context().get_job_id()), 0
    for entry in ray._private.state.state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(entry)
        orphaned = group.creator_actor_dead and not ray.ActorID(group.creator_actor_id).is_nil()
        if orphaned and group.creator_job_id == job and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            found += 1
    return found


class Trainer(TorchTrainer):
    """TorchTrainer without Train's PlacementGroupCleaner: a process more for each training, which asks the dashboard
    every second whether the controller lives. A private Ray has none, and `remove_orphans` does the same."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]
