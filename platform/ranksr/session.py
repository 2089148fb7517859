"""Session of a command: the run it fills, Ray started or joined, other commands locked out."""

import json
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ranksr import pipeline, preflight, runs, storage, terminal, vitals
from ranksr.config import Config, load_config
from ranksr.data.sources import Photo
from ranksr.errors import UserError

log = logging.getLogger(__name__)

PACKAGE = pathlib.Path(__file__).resolve().parent
VITALS_WITHIN_SECONDS = 30
"""Patience with nodes that have to start a process for it, at a start; one without an answer is looked at by nobody."""
KEEPALIVE = {"RAY_grpc_client_keepalive_time_ms": "65000", "RAY_grpc_client_keepalive_timeout_ms": "10000"}
"""A process that waits for a task asks its host this often whether it is there, and gives it up without an answer: Ray
learns of a host that was cut off in 75 s, not in seven minutes. Its servers end who asks more often than once a minute.
"""
LOCAL_OBJECT_STORE_BYTES = 2 * 2**30
"""Object store of a private Ray. Ray's own default is 30 % of the memory, more than a laptop likes to give."""


def open_run(path: str, overrides: Sequence[str], root: str | None) -> pipeline.Context:
    """Load and check a config, name the run folder. `root`: None for runs/NAME. Ray starts when work is found.

    Raises UserError.
    """
    config = load_config(path, overrides)
    pipeline.require_known(config)
    preflight.warn(config)
    storage.require_plain(config.name if root is None else root)
    place = storage.absolute(root or storage.join("runs", config.name))
    if job_environment() and not storage.is_remote(place) and not os.path.isabs(root or ""):
        log.warning("--run is relative: inside a submitted job that is Ray's copy of the working folder, %s", place)
    started: list[bool] = []

    def start_ray() -> None:
        if not started:
            _start(config, place, context.listed)
            started.append(True)

    context = pipeline.Context(config, runs.Run(place), start_ray)
    return context


def _start(config: Config, root: str, photographs: Mapping[str, Sequence[Photo]]) -> None:
    runs.locks.enter_context(runs.lock(root))
    init_ray(config, root, photographs)
    if storage.is_remote(root):
        from ranksr import cluster

        runs.locks.enter_context(cluster.reserve(root))


def job_environment() -> dict[str, Any]:
    """The runtime environment that `ray job submit` gave to this process; empty outside a job."""
    raw = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")
    return (json.loads(raw).get("runtime_env") or {"job": True}) if raw else {}


def init_ray(config: Config, root: str, photographs: Mapping[str, Sequence[Photo]]) -> None:
    """Join or start Ray (see `connect`). Raises UserError where it is not what the config needs.

    `photographs`: by source, as far as they are listed.
    """
    connect()
    from ranksr import cluster

    cluster.require_shared_root(config.compute, root)
    cluster.require_resources(config.compute)
    require_vitals(photographs)


def require_vitals(photographs: Mapping[str, Sequence[Photo]]) -> None:
    """Look at this process, and at every node where work can go; see `vitals`. Starts no node, reserves no CPU.

    `photographs`: by source. Raises UserError for what would fail later; warns of the rest.
    """
    from ray.exceptions import RuntimeEnvSetupError

    from ranksr import cluster

    versions, files = vitals.versions(), dict[str, str]()
    if cluster.is_this_machine():
        nodes = {"this machine": vitals.look()}
    else:
        files = vitals.readable(photographs)
        answers = cluster.ask_every_node(vitals.look, list(files.values()), within_seconds=VITALS_WITHIN_SECONDS)
        working = {answer.node.name: answer.told for answer in answers if answer.node.cpus or answer.node.gpus}
        nodes = {name: told for name, told in working.items() if not isinstance(told, Exception)}
        for name, told in working.items():
            if isinstance(told, RuntimeEnvSetupError):  # of Ray Data the first task there would be the end
                raise UserError(
                    f"node {name} cannot take this job's files: {vitals.why(told)}; make room in its temporary folder "
                    "(`ray start --temp-dir`), or take it out of the cluster"
                )
            if isinstance(told, Exception):
                log.warning("node %s was not looked at: %s", name, vitals.why(told))
    if nodes:
        vitals.require(vitals.judge(nodes, versions, files))


def joins() -> bool:
    """Whether `connect` joins a cluster, that of this job or of RAY_ADDRESS, and starts no Ray."""
    return bool(job_environment() or os.environ.get("RAY_ADDRESS"))


def connect() -> None:
    """Join the cluster of this job or of RAY_ADDRESS, else start a private Ray on this machine.

    On a cluster the package travels with the job: the nodes need no installation of it.

    Token authentication is explicit on every path, because its default in Ray depends on what was started before. A
    private Ray: `RAY_AUTH_MODE=disabled` unless the user says otherwise. A submitted job: the cluster's mode, which its
    processes inherit. RAY_ADDRESS: the user's RAY_AUTH_MODE, which must be the cluster's; a refusal names it.
    """
    job, joining = job_environment(), joins()
    _set_environment(joining)
    import ray
    import ray.data

    terminal.quieten_ray_data()
    options: dict[str, Any] = {"log_to_driver": True, "logging_level": "WARNING"}
    if not joining:
        options |= {"address": "local", "include_dashboard": False, "object_store_memory": LOCAL_OBJECT_STORE_BYTES}
    else:
        given = job.get("env_vars") or {}
        # For trials, which wait for tasks too. Ray refuses a variable that the job names already.
        options["runtime_env"] = {"env_vars": {name: os.environ[name] for name in KEEPALIVE if name not in given}}
        if not (job.get("py_modules") or "platform" in given.get("PYTHONPATH", "")):
            options["runtime_env"]["py_modules"] = [str(PACKAGE)]
    try:
        ray.init(**options)
    except (ConnectionError, ray.exceptions.AuthenticationError, RuntimeError) as error:
        if joining and (reason := _why_not(error)):
            address = os.environ.get("RAY_ADDRESS")
            raise UserError(f"cannot join the Ray cluster of RAY_ADDRESS={address}: {reason}") from error
        raise


def _why_not(error: Exception) -> str:
    """The reason and the remedy where a cluster cannot be joined; empty for an error that has another cause."""
    if "No node info found" in str(error):
        return (
            "this machine is none of it; give the command on one where `ray start` ran, or send it by `ray job submit`"
        )
    if isinstance(error, RuntimeError):
        return ""
    return (
        f"check that it runs, and that RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE', '(unset)')} is the cluster's: "
        "`disabled`, or `token` with its token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
    )


def _set_environment(joins: bool) -> None:
    """Environment variables that Ray reads, of this process and of those it starts."""
    # Train asks its workers for news this often; the default of 2 s would be waited for at every validation.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Warns workers of a node's end; ours need no warning, and the watcher logs an error at every start.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    if joins:
        for name, milliseconds in KEEPALIVE.items():
            os.environ.setdefault(name, milliseconds)
    else:
        # A private Ray needs no token; without this Ray would write one for the user, and later clusters demand it.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        # A worker that waits is kept for a minute, not one second: the next stage needs no new one, with its imports.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
        # Its workers inherit our environment.
        os.environ["PYTHONPATH"] = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
