"""Clusters: a submitted job from a clean clone, requests that cannot be met, local runs on several nodes, growth."""

import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster
from ray.experimental import internal_kv

from ranksr import cluster as resources
from ranksr import storage
from ranksr.config import Compute
from ranksr.errors import UserError

HEAD_ID = "f" * 51 + "00000"
"""Node id that Ray's fake node provider expects of the head."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in taken]


@dataclasses.dataclass
class Started:
    """A cluster that `ray start --head` began, and the shell that a user of it has."""

    folder: str
    """Ray's --temp-dir; it stands in the command line of each of the cluster's processes."""
    environment: dict[str, str]
    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, *options: str, **variables: str) -> None:
        dashboard, *others = free_ports(5)
        names = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port", "ray-client-server-port")  # fmt: skip
        ports = [f"--{name}={port}" for name, port in zip(names, others, strict=True)]
        self.ray(
            "start", "--head", f"--port={self.port}", f"--dashboard-port={dashboard}", f"--temp-dir={self.folder}",
            "--object-store-memory=150000000", *ports, *options, **variables,
        )  # fmt: skip
        self.environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"

    def ray(self, *arguments: str, check: bool = True, **options: str) -> str:
        return self.call("ray", *arguments, check=check, **options).stdout

    def call(
        self, *command: str, check: bool = True, cwd: pathlib.Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as that user; with `check`, its failure fails the test and shows what it said."""
        environment = {**self.environment, **variables}
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=cwd or self.folder, env=environment
        )
        assert not (check and done.returncode), f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done

    def stop(self) -> None:
        """End this cluster's processes and their children, and no others: `ray stop` would end every Ray there is."""
        import psutil

        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(f"{self.folder}/" in word for word in process.cmdline()):
                    found += [process, *process.children(recursive=True)]
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def new_cluster(environment: dict[str, str]) -> Iterator[Started]:
    """Not started yet; stopped at the end whatever happens."""
    # Short and not pytest's: the path of a socket has at most 107 bytes.
    started = Started(tempfile.mkdtemp(prefix="ranksr-"), dict(environment), *free_ports(1))
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a user whose Python has every dependency, but nothing of ours, not even by `make setup`."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    ours = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # The .pth files of a folder named in a .pth file do not count: that is how an editable install becomes invisible.
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    pathlib.Path(ours.stdout.strip(), "dependencies.pth").write_text("\n".join(paths) + "\n")
    script = folder / "bin" / "ray"
    script.write_text("#!/usr/bin/env python\nfrom ray.scripts.scripts import main\n\nmain()\n")
    script.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def clone(root: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """What a clean clone of the working tree holds, were it committed: nothing that .gitignore names."""
    folder = tmp_path_factory.mktemp("clone")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def cluster(bare: dict[str, str]) -> Iterator[Started]:
    """`ray start --head` of that user, two CPUs."""
    with new_cluster(bare) as started:
        started.start("--num-cpus=2")
        yield started


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def small(tiny: list[str]) -> list[str]:
    """One method: every kind of job but the rank dataset, in few stages. Its steps take long enough to be met."""
    left_out = [f"methods.{name}=null" for name in ("srgan", "esrgan_psnr", "esrgan", "ranksrgan")]
    rest = [f"{key}.methods=[bicubic, srresnet]" for key in ("rank_dataset", "ranker", "evaluation")]
    steps = "methods.srresnet.train={steps: 300, validate_every_steps: 300, batch_size: 10}"
    return [*tiny, *left_out, *rest, steps, "scoring.metrics=[psnr]", "scoring.ma_model=null"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_submitted_from_a_clean_clone_is_stopped_and_goes_on(
    cluster: Started, clone: pathlib.Path, run: str, small: list[str]
) -> None:
    job = ["--working-dir", ".", "--", "python", "jobs/full_pipeline.py", "configs/demo.yaml"]
    # A checkpoint at every step slows down the training that is to be stopped, and is no part of the run's identity.
    first = [*small, "compute.checkpoint_every_steps=1"]
    again = [*small, "compute.checkpoint_every_steps=1000", "compute.log_every_steps=100"]
    cluster.call("ray", "job", "submit", "--no-wait", "--submission-id", "first", *job, *first, "--run", run, cwd=clone)
    wait_for(f"{run}/srresnet/checkpoints", cluster, "first")
    cluster.ray("job", "stop", "first")
    assert not storage.read_json(f"{run}/srresnet/stage.json")["done"]
    said = cluster.call("ray", "job", "submit", *job, *again, "--run", run, cwd=clone).stdout
    assert "stage patches" not in said
    assert "stage srresnet: continues" in said
    assert "srresnet: continues from the checkpoint of step" in said
    assert f"report: {run}/report/index.html" in said
    assert pathlib.Path(run, "report", "index.html").exists()


def wait_for(folder: str, cluster: Started, job: str) -> None:
    """Until the folder holds a file; a job that ended without one fails the test with what it said."""
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(cluster.environment["RAY_API_SERVER_ADDRESS"])
    for _ in range(400):
        if storage.list_files(folder):
            return
        time.sleep(0.2)
        if client.get_job_status(job).is_terminal():
            break
    raise AssertionError(client.get_job_logs(job))


@pytest.mark.ray
@pytest.mark.slow
def test_only_the_job_itself_brings_the_package_to_the_workers(cluster: Started) -> None:
    probe = (
        "import importlib.util, ray; ray.init(logging_level='ERROR'); "
        "print(importlib.util.find_spec('ranksr'), "
        "ray.get(ray.remote(lambda: importlib.util.find_spec('ranksr')).remote()))"
    )
    assert cluster.call("python", "-c", probe, RAY_ADDRESS=cluster.address).stdout.split() == ["None", "None"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_command_and_its_workers_miss_a_host_that_was_cut_off_soon(cluster: Started, root: pathlib.Path) -> None:
    probe = """
import ray
from ranksr import session
session.connect()
def patience():
    from ray._raylet import Config
    return Config.grpc_client_keepalive_time_ms() + Config.grpc_client_keepalive_timeout_ms()
print(patience(), ray.get(ray.remote(patience).remote()))
"""
    package = {"PYTHONPATH": str(root / "platform"), "RAY_ADDRESS": cluster.address}
    assert cluster.call("python", "-c", probe, **package).stdout.split() == ["75000", "75000"]
    chosen = {"RAY_grpc_client_keepalive_time_ms": "100000"}
    assert cluster.call("python", "-c", probe, **package, **chosen).stdout.split() == ["110000", "110000"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_that_asks_for_too_much_is_refused_before_the_first_stage(
    cluster: Started, clone: pathlib.Path, small: list[str], tmp_path: pathlib.Path
) -> None:
    command = ["python", "jobs/full_pipeline.py", "configs/demo.yaml", *small, "--run", str(tmp_path / "run")]
    done = cluster.call(*command, "compute.cpus_per_worker=3", check=False, cwd=clone, RAY_ADDRESS=cluster.address)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "ranksr" in line] == [
        "ranksr: training needs 3 CPU, 0 GPU for each of compute.num_workers=1, and the cluster has 2 CPU, 0 GPU on "
        "1 node: lower compute.num_workers or what each takes, or start more or larger nodes"
    ]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("stage.json"))


@pytest.mark.ray
@pytest.mark.slow
def test_an_ablation_on_two_nodes_needs_shared_files_and_trains_inside_its_trials(
    cluster: Started, clone: pathlib.Path, run: str, small: list[str]
) -> None:
    # A folder of its own, as on a machine of its own: a node that shares one unpacks the job's files over those in use.
    second = [f"--address={cluster.address}", f"--temp-dir={cluster.folder}/2"]
    cluster.ray("start", *second, "--num-cpus=1", "--object-store-memory=100000000")
    trial = {"name": "short", "overrides": ["methods.srresnet.train.steps=2"]}
    (clone / "steps.yaml").write_text(json.dumps({"about": "a test", "method": "srresnet", "trials": [trial]}))
    job = ["python", "jobs/ablation.py", "configs/demo.yaml", "steps.yaml", *small, "--run", run]
    done = cluster.call(*job, check=False, cwd=clone, RAY_ADDRESS=cluster.address)
    assert done.returncode == 2
    assert f"ranksr: --run {run} is a local folder, and the cluster has 2 nodes: use --run s3://" in done.stderr
    submit = ["ray", "job", "submit", "--working-dir", ".", "--"]
    cluster.call(*submit, *job, "compute.shared_filesystem=true", cwd=clone)
    (row,) = storage.read_json(f"{run}/ablation/steps/results.json")["trials"]
    assert row["state"] == "done"
    assert storage.read_json(f"{run}/{row['stages']['srresnet']}/stage.json")["done"]


@pytest.mark.ray
@pytest.mark.slow
def test_the_doctor_asks_every_node_of_a_cluster_that_has_nothing_of_ours(
    bare: dict[str, str], clone: pathlib.Path, small: list[str], tmp_path: pathlib.Path
) -> None:
    with new_cluster(bare) as two:
        two.start("--num-cpus=1")
        second = [f"--address={two.address}", f"--temp-dir={two.folder}/2"]
        two.ray("start", *second, "--num-cpus=1", "--object-store-memory=100000000")
        job = ["jobs/doctor.py", "configs/demo.yaml", *small, "--run", str(tmp_path / "run")]
        job.append("compute.shared_filesystem=true")
        done = two.call("python", *job, "--json", check=False, cwd=clone, RAY_ADDRESS=two.address)
    found = {row["check"]: row for row in json.loads(done.stdout)["rows"]}
    assert found["ray"]["found"] == "a cluster: 2 nodes, 2 CPU, 0 GPU"
    assert not [row for row in found.values() if row["state"] == "failure"], done.stderr
    assert done.returncode == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
@pytest.mark.slow
def test_a_question_to_processes_side_by_side_never_ends_its_own() -> None:
    # Ray ends the driver that cancels a task which has just ended: one of about 500 questions met that.
    probe = """
from ranksr import cluster, session
session.connect()
for number in range(2000):
    assert cluster.ask_side_by_side(lambda: 1, count=2, cpus=0.5, gpus=0, within_seconds=60) == [1, 1]
print("answered")
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "answered\n"), done.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_that_grows_is_asked_what_it_can_grow_to(bare: dict[str, str], root: pathlib.Path) -> None:
    probe = """
import ray
from ranksr import cluster
from ranksr.config import Compute
from ranksr.errors import UserError
ray.init(logging_level="ERROR")
cluster.require_resources(Compute(num_workers=2, upscale_actors=2))
try:
    cluster.require_shared_root(Compute(), "/local")
except UserError as error:
    print(error)
for change in ({"num_workers": 3}, {"cpus_per_worker": 2}, {"gpus_per_upscaler": 1}):
    try:
        cluster.require_resources(Compute(**change))
    except UserError as error:
        print(error)
"""
    with new_cluster(bare) as growing:
        start_growing(growing, head_cpus=0)
        package = str(root / "platform")
        done = growing.call("python", "-c", probe, RAY_ADDRESS=growing.address, PYTHONPATH=package)
    assert "--run /local is a local folder, and the cluster " in done.stdout
    refused = [line for line in done.stdout.splitlines() if "cannot grow to it" in line]
    assert [line.split(", and ")[0] for line in refused] == [
        "training needs 1 CPU, 0 GPU for each of compute.num_workers=3",
        "training needs 2 CPU, 0 GPU for each of compute.num_workers=1",
        "upscaling needs 0 CPU, 1 GPU for each of compute.upscale_actors=1",
    ]


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_grows_for_trials_that_wait_and_they_train_side_by_side(
    bare: dict[str, str], root: pathlib.Path, run: str, small: list[str], tmp_path: pathlib.Path
) -> None:
    rates = [f"methods.srresnet.train.learning_rate={rate}" for rate in (5e-4, 2e-3)]
    trials = [{"name": f"rate{number}", "overrides": [rate]} for number, rate in enumerate(rates)]
    (tmp_path / "rates.yaml").write_text(json.dumps({"about": "a test", "method": "srresnet", "trials": trials}))
    kept = ["compute.checkpoint_every_steps=20", "compute.keep_checkpoints=99", "compute.shared_filesystem=true"]
    job = [root / "jobs" / "ablation.py", root / "configs" / "demo.yaml", tmp_path / "rates.yaml"]
    # By PYTHONPATH: the provider's nodes share one folder, in which each would unpack the job's files over the others'.
    brought = json.dumps({"env_vars": {"PYTHONPATH": str(root / "platform")}})
    with new_cluster(bare) as growing:
        start_growing(growing, head_cpus=1)
        growing.ray(
            "job", "submit", "--runtime-env-json", brought, "--", "python", *map(str, job), *small, *kept, "--run", run
        )
    rows = storage.read_json(f"{run}/ablation/rates/results.json")["trials"]
    assert [row["state"] for row in rows] == ["done", "done"]
    training = [pathlib.Path(run, row["stages"]["srresnet"]) for row in rows]
    begun = [(folder / "checkpoints" / "step_00000020.pt").stat().st_mtime for folder in training]
    over = [(folder / "weights.pt").stat().st_mtime for folder in training]
    assert max(begun) < min(over)  # on a head with one CPU and workers that take one each


def start_growing(cluster: Started, head_cpus: int) -> None:
    """The head of a cluster that grows by up to two nodes of one CPU."""
    small = {"CPU": 1, "object_store_memory": 100_000_000}
    config = pathlib.Path(cluster.folder, "autoscaling.json")
    config.write_text(json.dumps(fake_autoscaling(cluster.port, small, head_cpus)))
    cluster.start(
        f"--num-cpus={head_cpus}", f"--autoscaling-config={config}", RAY_FAKE_CLUSTER="1",
        RAY_enable_autoscaler_v2="1", RAY_CLOUD_INSTANCE_ID=HEAD_ID, RAY_OVERRIDE_NODE_ID_FOR_TESTING=HEAD_ID,
        AUTOSCALER_UPDATE_INTERVAL_S="1",
    )  # fmt: skip


def fake_autoscaling(port: int, worker: dict[str, int], head_cpus: int) -> dict[str, object]:
    """What `ray up` gives to the autoscaler, for Ray's provider whose nodes are processes on this machine."""
    import ray

    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": f"{ray.util.get_node_ip_address()}:{port}",
        "launch_multiple": True,
        "head_node_id": HEAD_ID,
    }
    types = {
        "ray.head.default": {"resources": {"CPU": head_cpus}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": worker, "node_config": {}, "max_workers": 2},
    }
    empty = {"head_node": {}, "worker_nodes": {}, "auth": {}, "docker": {}, "file_mounts": {}}
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    lists = {f"{name}_commands": [] for name in commands}
    return {
        **empty,
        **lists,
        "cluster_name": "growing",
        "max_workers": 2,
        "idle_timeout_minutes": 1,
        "upscaling_speed": 100.0,
        "provider": provider,
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }


NODES = {
    "one": [{"CPU": 2.0}],
    "two of three": [{"CPU": 3.0}, {"CPU": 3.0}],
    "one GPU": [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}],
    "none yet": [{"memory": 1e9}],
}


@pytest.mark.ray
def test_a_run_in_a_bucket_is_held_by_one_command_of_a_cluster(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with resources.reserve("s3://bucket/run"), monkeypatch.context() as patched:
        patched.setattr(resources, "OWNER_MAY_BE_DYING_SECONDS", 0)
        with pytest.raises(UserError, match=rf"s3://bucket/run is in use by process {os.getpid()} on .*--run"):
            resources.reserve("s3://bucket/run").__enter__()
        with resources.reserve("s3://bucket/another"):
            pass
    with resources.reserve("s3://bucket/run"):
        pass


HOLD = """
import sys, ray
from ranksr import cluster, session
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
session.require_vitals({})  # asks both nodes
holding = [cluster.reserve(root) for root in sys.argv[2:]]
for each in holding:
    each.__enter__()
where = ray.get([
    ray.get_actor(root, "ranksr").__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())
    for root in sys.argv[2:]
])
print(ray.get_runtime_context().get_node_id(), *where, flush=True)
sys.stdin.read()
"""

RESERVE = """
import sys, ray
from ranksr import cluster
from ranksr.errors import UserError
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
cluster.OWNER_MAY_BE_DYING_SECONDS = float(sys.argv[2])
for root in sys.argv[3:]:
    try:
        cluster.reserve(root).__enter__()
        print("free")
    except UserError as error:
        print(error)
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_in_a_bucket_is_held_on_the_node_of_its_command_whatever_becomes_of_other_nodes(
    root: pathlib.Path,
) -> None:
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 2000}
    small = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    kept = internal_kv.internal_kv_get_gcs_client()
    nodes = Cluster(initialize_head=True, head_node_args={**small, "_system_config": quick})
    runs = [f"s3://bucket/run{number}" for number in range(6)]
    try:
        other = nodes.add_node(num_cpus=1, object_store_memory=small["object_store_memory"])
        command = [sys.executable, "-c", HOLD, nodes.address, *runs]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
            assert first.stdin is not None
            assert first.stdout is not None
            driver, *holders = first.stdout.readline().split()
            assert holders == [driver] * len(runs)
            assert driver == nodes.head_node.node_id
            nodes.remove_node(other, allow_graceful=False)
            second = [sys.executable, "-c", RESERVE, nodes.address]
            done = subprocess.run([*second, "0", *runs], check=True, capture_output=True, text=True)
            # Ray prints on standard output, too, that it misses a node.
            assert [line.split(" since")[0] for line in done.stdout.splitlines() if line.startswith("s3://")] == [
                f"{run} is in use by process {first.pid} on {platform.node()}" for run in runs
            ]
            first.stdin.close()
        done = subprocess.run([*second, "60", *runs], check=True, capture_output=True, text=True)
        assert [line for line in done.stdout.splitlines() if line == "free"] == ["free"] * len(runs)
    finally:
        nodes.shutdown()
        if kept is not None:  # of the Ray that all tests share: Cluster has put its own in its place, and taken it away
            internal_kv._initialize_internal_kv(kept)


@pytest.mark.parametrize(
    ("nodes", "changes", "refused"),
    [
        ("one", {"num_workers": 2}, ""),
        ("one", {"num_workers": 3}, "training needs 1 CPU, 0 GPU for each of compute.num_workers=3, and the cluster"),
        ("one", {"num_workers": 2, "cpus_per_worker": 1.5}, "1.5 CPU, 0 GPU for each of compute.num_workers=2"),
        ("one", {"upscale_actors": 2}, ""),
        ("one", {"upscale_actors": 3}, "upscaling needs 1 CPU, 0 GPU for each of compute.upscale_actors=3"),
        ("one", {"gpus_per_worker": 1}, "for each of compute.num_workers=1, and the cluster has 2 CPU, 0 GPU"),
        ("two of three", {"num_workers": 2, "cpus_per_worker": 2}, ""),
        ("two of three", {"num_workers": 3, "cpus_per_worker": 2}, "the cluster has 6 CPU, 0 GPU on 2 nodes"),
        ("one GPU", {"num_workers": 1, "gpus_per_worker": 1, "upscale_actors": 4, "gpus_per_upscaler": 0.25}, ""),
        ("one GPU", {"cpus_per_worker": 4, "gpus_per_worker": 1}, "needs 4 CPU, 1 GPU for each"),
        ("one GPU", {"upscale_actors": 2, "gpus_per_upscaler": 1}, "upscaling needs 0 CPU, 1 GPU for each"),
        ("none yet", {}, "the cluster has 0 CPU, 0 GPU on 1 node: lower"),
    ],
)
def test_a_bundle_must_find_room_on_one_node(
    monkeypatch: pytest.MonkeyPatch, nodes: str, changes: dict[str, float], refused: str
) -> None:
    monkeypatch.setattr(resources.ray, "nodes", lambda: [{"Alive": True, "Resources": each} for each in NODES[nodes]])
    monkeypatch.setattr(resources, "is_growing", lambda: False)
    compute = Compute.model_validate(changes)
    if not refused:
        resources.require_resources(compute)
        return
    with pytest.raises(UserError, match="start more or larger nodes") as raised:
        resources.require_resources(compute)
    assert refused in str(raised.value)
