"""Rows of `ranksr doctor`, and the judgement of what nodes say of themselves (`node.py`)."""

from collections.abc import Callable, Mapping, Sequence

from ranksr.cluster import Answer
from ranksr.inspect.node import Told
from ranksr.vitals import (
    Failed,
    Judged,
    Row,
    State,
    Value,
    of_files,
    of_open_files,
    of_versions,
    per_node,
    size_text,
    why,
)

SKEW_WARNS_SECONDS, SKEW_FAILS_SECONDS = 1.0, 60.0
"""Differences of clocks; S3 itself refuses requests that are 15 minutes off."""
SLOW_REQUEST_SECONDS = 1.0
Nodes = Mapping[str, Told]
"""Name of a node to what it says of itself."""


def tried(check: str, examine: Callable[[], str]) -> Row:
    """The row of a check that returns what it found, and raises where something is wrong."""
    try:
        return Row(check, "ok", examine())
    except Exception as error:  # a check that fails, by whatever, must not hide the others
        return Row(check, "failure", why(error))


def of_nodes(answers: Sequence[Answer[Told]], driver: dict[str, str], files: Mapping[str, str]) -> list[Row]:
    """The rows about nodes. `driver`: its versions; `files`: key to a path of which every node read the first byte."""
    silent = {each.node.name: each.told for each in answers if isinstance(each.told, Exception)}
    rows = [
        Row("node", "failure", f"{name}: {why(error)}", "see its log, install what it lacks (infra/Dockerfile)")
        for name, error in silent.items()
    ]
    nodes = told_by(answers)
    if not nodes:
        return rows
    rows += [of_versions({"the driver": driver, **{name: told.versions for name, told in nodes.items()}})]
    rows += [of_gpus(answers), of_shared_memory(answers)]
    rows.append(of_open_files(nodes))
    rows.append(
        per_node(
            "numba cache",
            {name: _numba_cache(told.numba_cache) for name, told in nodes.items()},
            "set NUMBA_CACHE_DIR to a folder that can be written",
        )
    )
    rows.append(per_node("downloads folder", {name: _cache(told.cache) for name, told in nodes.items()}))
    for url in dict.fromkeys(url for told in nodes.values() for url in told.urls):
        rows.append(per_node(url.rsplit("/", 1)[1], {name: _url(told.urls[url]) for name, told in nodes.items()}))
    if files:
        rows.append(of_files(nodes, files))
    return rows


def told_by(answers: Sequence[Answer[Told]]) -> dict[str, Told]:
    """What the nodes say that answered."""
    return {each.node.name: told for each, told in _answered(answers)}


def of_gpus(answers: Sequence[Answer[Told]]) -> Row:
    """GPUs that torch sees beside those that Ray gives to tasks."""

    def judge(ray_has: float, torch_sees: int | Failed) -> Judged:
        if isinstance(torch_sees, Failed):
            return "failure", f"torch cannot tell: {torch_sees.why}"
        said = f"torch sees {torch_sees}, Ray has {ray_has:g}"
        return ("failure" if torch_sees < ray_has else "warning" if torch_sees > ray_has else "ok"), said

    judged = {each.node.name: judge(each.node.gpus, told.gpus) for each, told in _answered(answers)}
    return per_node(
        "GPUs", judged, "install a torch that fits the driver (nvidia-smi), or start the node with the right --num-gpus"
    )


def of_shared_memory(answers: Sequence[Answer[Told]]) -> Row:
    """/dev/shm beside the object store that Ray puts there."""

    def judge(store: float, shared: int | None) -> Judged:
        if shared is None:
            return "ok", f"none on this system, object store {size_text(store)}"
        return ("warning" if shared < store else "ok"), f"/dev/shm {size_text(shared)}, object store {size_text(store)}"

    judged = {
        each.node.name: judge(each.node.object_store_bytes, told.shared_memory_bytes)
        for each, told in _answered(answers)
    }
    return per_node(
        "shared memory",
        judged,
        "Ray puts the objects on a disk then: give the container a larger --shm-size, or Ray less object_store_memory",
    )


def of_clocks(answers: Sequence[Answer[float]]) -> Row:
    """Each node's clock beside this process's. A node read its own after it was asked and before its answer came, so a
    busy machine makes no clock look wrong.
    """

    def judge(sent: float, clock: float, received: float) -> Judged:
        ahead = max(clock - received, 0) or min(clock - sent, 0)
        off = abs(ahead)
        state: State = "failure" if off > SKEW_FAILS_SECONDS else "warning" if off > SKEW_WARNS_SECONDS else "ok"
        return state, "within 1 s" if state == "ok" else f"{off:.1f} s {'ahead' if ahead > 0 else 'behind'}"

    judged = {each.node.name: judge(each.sent, clock, each.received) for each, clock in _answered(answers)}
    return per_node("clocks", judged, "set the clocks by NTP (chrony): S3 refuses requests that are 15 minutes off")


def _answered(answers: Sequence[Answer[Value]]) -> list[tuple[Answer[Value], Value]]:
    return [(each, each.told) for each in answers if not isinstance(each.told, Exception)]


def _numba_cache(folder: str | Failed | None) -> Judged:
    if isinstance(folder, Failed):
        return "failure", folder.why
    if folder is None:
        return "warning", "no folder can be written: every process compiles the metrics again"
    return "ok", f"written to {folder}"


def _cache(folder: str | Failed) -> Judged:
    return ("failure", folder.why) if isinstance(folder, Failed) else ("ok", folder)


def _url(where: str | Failed) -> Judged:
    return ("failure", where.why) if isinstance(where, Failed) else ("ok", where)


def of_storage(root: str, nodes: Nodes) -> Row:
    """The run's storage as each node met it."""

    def judge(seconds: dict[str, float] | Failed) -> Judged:
        if isinstance(seconds, Failed):
            return "failure", seconds.why
        slow = max(seconds.values(), default=0) > SLOW_REQUEST_SECONDS
        times = ", ".join(f"{name} {1000 * each:.0f} ms" for name, each in seconds.items())
        return ("warning" if slow else "ok"), times

    judged = {name: judge(told.seconds) for name, told in nodes.items()}
    states = {state for state, _ in judged.values()}
    if "failure" in states:
        remedy = "choose a folder that can be written, or check the bucket, AWS credentials and AWS_ENDPOINT_URL"
    else:
        remedy = "work in the bucket's region, or on a faster disk"
    return per_node(f"storage {root}", judged, remedy)
