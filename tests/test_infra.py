"""infra/: what can be checked of the cluster files without a cluster. Every check must notice a typo."""

import copy
import pathlib
import re
import shlex
from collections.abc import Callable
from typing import Any

import click
import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

from ranksr import cli

ROOT = pathlib.Path(__file__).parents[1]
INFRA = ROOT / "infra"
FILES = sorted(path for path in INFRA.rglob("*") if path.is_file())
KUBERNETES = "1.37"

# The fields of KubeRay's ray.io/v1, as of KubeRay 1.7; pod templates are checked by Kubernetes' own schema.
TOP = {"apiVersion", "kind", "metadata", "spec"}
METADATA = {"name", "generateName", "namespace", "labels", "annotations"}
JOB = {
    *("entrypoint", "runtimeEnvYAML", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes", "rayClusterSpec"),
    *("ttlSecondsAfterFinished", "activeDeadlineSeconds", "submitterPodTemplate", "metadata", "clusterSelector"),
    *("submitterConfig", "managedBy", "deletionStrategy", "jobId", "entrypointResources", "entrypointNumCpus"),
    *("entrypointNumGpus", "suspend"),
}
CLUSTER = {
    *("rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "authOptions", "headGroupSpec", "workerGroupSpecs"),
    *("headServiceAnnotations", "suspend", "managedBy", "gcsFaultToleranceOptions", "upgradeStrategy"),
}
AUTOSCALER = {
    *("version", "idleTimeoutSeconds", "upscalingMode", "resources", "image", "imagePullPolicy", "env", "envFrom"),
    *("volumeMounts", "securityContext"),
}
AUTH = {"mode", "secretName"}
GCS = {"redisAddress", "redisUsername", "redisPassword", "externalStorageNamespace"}
DOCKER = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "LABEL", "USER"}
GROUP = {"rayStartParams", "template", "resources", "labels"}
HEAD = GROUP | {"serviceType", "headService", "enableIngress"}
WORKERS = GROUP | {
    "groupName",
    "replicas",
    "minReplicas",
    "maxReplicas",
    "numOfHosts",
    "scaleStrategy",
    "idleTimeoutSeconds",
    "suspend",
}


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((INFRA / name).read_text(encoding="utf-8"))


def known(what: str, found: dict[str, Any], allowed: set[str], required: tuple[str, ...] = ()) -> None:
    """Fail on a key that does not exist and on one that must."""
    assert set(found) <= allowed, f"{what}: unknown {sorted(set(found) - allowed)}"
    assert set(required) <= set(found), f"{what}: missing {sorted(set(required) - set(found))}"


def check_cluster_spec(spec: dict[str, Any]) -> None:
    known("cluster", spec, CLUSTER, ("rayVersion", "headGroupSpec", "workerGroupSpecs", "authOptions"))
    known("autoscalerOptions", spec["autoscalerOptions"], AUTOSCALER, ("version",))
    known("authOptions", spec["authOptions"], AUTH, ("mode",))
    known("gcsFaultToleranceOptions", spec.get("gcsFaultToleranceOptions", {}), GCS)
    assert spec["autoscalerOptions"]["version"] in ("v1", "v2")
    assert spec["autoscalerOptions"]["upscalingMode"] in ("Default", "Aggressive", "Conservative")
    assert spec["authOptions"]["mode"] in ("token", "disabled")
    known("headGroupSpec", spec["headGroupSpec"], HEAD, ("rayStartParams", "template"))
    for group in spec["workerGroupSpecs"]:
        known(
            "workerGroupSpecs",
            group,
            WORKERS,
            ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
        )
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "rayStartParams are texts"
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        for container in pod["spec"]["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"], (
                "Ray takes limits for the node's size"
            )


def check_raycluster(found: dict[str, Any]) -> None:
    known("RayCluster", found, TOP, tuple(TOP))
    known("metadata", found["metadata"], METADATA)
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", "RayCluster")
    check_cluster_spec(found["spec"])


def check_rayjob(found: dict[str, Any]) -> None:
    known("RayJob", found, TOP, tuple(TOP))
    known("metadata", found["metadata"], METADATA)
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", "RayJob")
    assert set(found["metadata"].get("labels", {})) <= {"kueue.x-k8s.io/queue-name"}
    assert found["metadata"].get("annotations", ELASTIC) == ELASTIC
    assert isinstance(found["spec"]["activeDeadlineSeconds"], int)
    assert found["spec"]["entrypointNumCpus"] == 0, "the head, where the driver runs, has no CPU"
    known("spec", found["spec"], JOB, ("entrypoint", "rayClusterSpec"))
    assert found["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
    check_runtime_env(yaml.safe_load(found["spec"]["runtimeEnvYAML"]))
    check_command(found["spec"]["entrypoint"])
    check_cluster_spec(found["spec"]["rayClusterSpec"])


def check_aws(found: dict[str, Any]) -> None:
    assert "cluster_name" in found, "Ray's own check does not ask for it"
    validate_config(prepare_config(copy.deepcopy(found)))
    for name, node in found["available_node_types"].items():
        assert node.get("min_workers", 0) <= node.get("max_workers", 0) <= found["max_workers"], name
        known(name, node["resources"], {"CPU", "GPU", "memory", "object_store_memory"}, ("CPU",))
        known(name, node["node_config"], EC2_INSTANCE, ("InstanceType",))


def check_sky(found: dict[str, Any]) -> None:
    """SkyPilot's own check wants its package, which is large; these are the keys of its YAML reference that we know."""
    known("sky", found, SKY, ("resources", "envs", "setup", "run"))
    known("resources", found["resources"], SKY_RESOURCES, ("accelerators", "use_spot"))
    known("job_recovery", found["resources"]["job_recovery"], {"strategy", "max_restarts_on_errors"})
    assert all(isinstance(count, int) for count in found["resources"]["accelerators"].values())
    assert found["resources"]["use_spot"] is True
    assert all(isinstance(value, str) for value in found["envs"].values()), "environment variables are texts"
    assert found["envs"]["RAY_AUTH_MODE"] in ("token", "disabled")
    assert "pip install -c constraints.txt ." in found["setup"]
    for name in re.findall(r"\$(\w+)", found["run"]):
        assert name in found["envs"], f"${name} is none of envs"
    (command,) = re.findall(r"python jobs/.*", found["run"])
    check_command(command.replace("$RUN", found["envs"]["RUN"]))


def check_runtime_env(found: dict[str, Any]) -> None:
    known("runtime_env", found, RuntimeEnv.known_fields)
    # Ray validates values here, but refuses local folders only when a job is submitted.
    RuntimeEnv(**{key: value for key, value in found.items() if key != "working_dir"})


def check_command(command: str) -> None:
    """`python jobs/X.py ARGUMENTS`: the job exists, takes these arguments, and the files that they name exist."""
    python, job, *arguments = shlex.split(command)
    assert python == "python"
    assert (ROOT / job).is_file(), f"{job} does not exist"
    parsed = cli.commands.commands[pathlib.PurePath(job).stem].make_context(job, arguments).params
    assert (ROOT / parsed["config"]).is_file(), f"{parsed['config']} does not exist"
    assert parsed["root"], "a command says where its run lies"


def check_dockerfile(text: str) -> None:
    """What is copied exists and passes .dockerignore; instructions and arguments are known; versions agree."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    instructions = [line.split(maxsplit=1) for line in lines]
    known("Dockerfile", dict(instructions), DOCKER, ("FROM", "COPY", "ENV", "LABEL"))
    assert instructions[-1] == ["USER", "1000"], "the image ends as uid 1000"
    ignore = (INFRA / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for name, rest in instructions:
        if name == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), f"COPY {source}: no such file"
                assert f"!{source}" in ignore, f"COPY {source}: kept out by Dockerfile.dockerignore"
    arguments = dict(rest.partition("=")[::2] for name, rest in instructions if name == "ARG")
    for used in set(re.findall(r"\$\{?([A-Z_]+)", text)) - {"PWD"}:
        assert used in arguments, f"${used} is no ARG"
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (supported,) = re.findall(r'requires-python = "(.*)"', project)
    assert Version(arguments["PYTHON"]) in SpecifierSet(supported)
    assert re.search(r"pip install .*-c constraints.txt .*\"\.\$\{EXTRAS\}\"", text), "the package is installed, pinned"
    assert re.search(r"RAY_AUTH_MODE=(token|disabled)", dict(instructions)["ENV"]), (
        "Ray's token mode is said explicitly"
    )


ELASTIC = {"kueue.x-k8s.io/elastic-job": "true"}
SKY = {"name", "workdir", "num_nodes", "resources", "envs", "secrets", "file_mounts", "setup", "run"}
SKY_RESOURCES = {
    *("accelerators", "cpus", "memory", "disk_size", "disk_tier", "use_spot", "job_recovery", "infra", "any_of"),
    *("instance_type", "image_id", "ports", "labels", "autostop"),
}
EC2_INSTANCE = {
    "InstanceType",
    "BlockDeviceMappings",
    "InstanceMarketOptions",
    "IamInstanceProfile",
    "ImageId",
    "SubnetIds",
}
MISTAKES = (
    *(AssertionError, KeyError, TypeError, ValueError),
    *(click.UsageError, jsonschema.ValidationError, kubernetes_validate.ValidationError),
)
CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "aws/cluster.yaml": check_aws,
    "kuberay/raycluster.yaml": check_raycluster,
    "kuberay/rayjob.yaml": check_rayjob,
    "runtime_env.yaml": check_runtime_env,
    "sky.yaml": check_sky,
}


def parent_of(tree: Any, path: str) -> tuple[Any, str]:
    """The mapping or list that holds the end of `path` (a/0/b), and the last key."""
    *parents, last = path.split("/")
    for key in parents:
        tree = tree[int(key)] if isinstance(tree, list) else tree[key]
    return tree, last


def rename(found: dict[str, Any], path: str, to: str) -> dict[str, Any]:
    """A copy with the key at the end of `path` renamed."""
    changed = copy.deepcopy(found)
    node, last = parent_of(changed, path)
    node[to] = node.pop(last)
    return changed


def replace(found: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at `path`."""
    changed = copy.deepcopy(found)
    node, last = parent_of(changed, path)
    node[last] = value
    return changed


@pytest.mark.parametrize("name", CHECKS)
def test_the_file_is_accepted_by_every_schema_there_is(name):
    CHECKS[name](load(name))


@pytest.mark.parametrize(
    ("name", "path", "to"),
    [
        ("aws/cluster.yaml", "max_workers", "max_worker"),
        ("aws/cluster.yaml", "cluster_name", "cluster"),
        ("aws/cluster.yaml", "available_node_types/gpu/min_workers", "min_worker"),
        ("aws/cluster.yaml", "available_node_types/gpu/resources/GPU", "gpu"),
        ("aws/cluster.yaml", "available_node_types/cpu_spot/node_config/InstanceType", "instanceType"),
        ("aws/cluster.yaml", "docker/image", "imagee"),
        ("kuberay/raycluster.yaml", "spec/enableInTreeAutoscaling", "enableInTreeAutoscalling"),
        ("kuberay/raycluster.yaml", "spec/authOptions/mode", "mod"),
        ("kuberay/raycluster.yaml", "spec/workerGroupSpecs/0/maxReplicas", "maxReplica"),
        ("kuberay/raycluster.yaml", "spec/headGroupSpec/template/spec/containers/0/envFrom", "envfrom"),
        ("kuberay/raycluster.yaml", "spec/workerGroupSpecs/1/template/spec/tolerations", "toleration"),
        ("kuberay/rayjob.yaml", "spec/entrypoint", "entryPoint"),
        ("kuberay/rayjob.yaml", "spec/shutdownAfterJobFinishes", "shutdownAfterJobFinish"),
        ("kuberay/rayjob.yaml", "metadata/generateName", "generatename"),
        ("kuberay/rayjob.yaml", "spec/entrypointNumCpus", "entrypointNumCPUs"),
        ("sky.yaml", "resources/use_spot", "use_spots"),
        ("sky.yaml", "resources/job_recovery/max_restarts_on_errors", "max_restarts_on_error"),
        ("sky.yaml", "envs/RUN", "RUNS"),
        ("runtime_env.yaml", "excludes", "exclude"),
        ("runtime_env.yaml", "env_vars", "env"),
    ],
)
def test_a_misspelt_key_is_noticed(name, path, to):
    with pytest.raises(MISTAKES):
        CHECKS[name](rename(load(name), path, to))


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("aws/cluster.yaml", "head_node_type", "haed"),
        ("aws/cluster.yaml", "max_workers", "ten"),
        ("aws/cluster.yaml", "available_node_types/gpu/max_workers", 99),
        ("kuberay/raycluster.yaml", "spec/autoscalerOptions/version", "v3"),
        ("kuberay/raycluster.yaml", "spec/headGroupSpec/rayStartParams/num-cpus", 0),
        (
            "kuberay/rayjob.yaml",
            "spec/entrypoint",
            "python jobs/full_pipline.py configs/paper.yaml --run s3://bucket/paper",
        ),
        (
            "kuberay/rayjob.yaml",
            "spec/entrypoint",
            "python jobs/full_pipeline.py configs/papr.yaml --run s3://bucket/paper",
        ),
        (
            "kuberay/rayjob.yaml",
            "spec/entrypoint",
            "python jobs/full_pipeline.py configs/paper.yaml --runs s3://bucket/paper",
        ),
        ("kuberay/rayjob.yaml", "spec/runtimeEnvYAML", "workingdir: /opt/ranksr"),
        ("kuberay/rayjob.yaml", "spec/entrypointNumCpus", 1),
        ("kuberay/rayjob.yaml", "spec/activeDeadlineSeconds", "1w"),
        ("sky.yaml", "run", "python jobs/full_pipeline.py configs/papr.yaml --run $RUN"),
        ("sky.yaml", "envs/RAY_AUTH_MODE", "off"),
        ("runtime_env.yaml", "excludes", "/.venv/"),
        ("runtime_env.yaml", "env_vars/PYTHONUNBUFFERED", 1),
    ],
)
def test_a_wrong_value_is_noticed(name, path, value):
    with pytest.raises(MISTAKES):
        CHECKS[name](replace(load(name), path, value))


def test_the_dockerfile_copies_what_exists_and_pins_what_it_installs():
    check_dockerfile((INFRA / "Dockerfile").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("COPY jobs jobs", "COPY job jobs", "COPY job: no such file"),
        ("COPY jobs jobs", "COPY tests tests", "COPY tests: kept out"),
        ("COPY jobs jobs", "COPPY jobs jobs", "unknown .'COPPY'"),
        ("ARG PYTHON=3.11", "ARG PYTHON=3.9", "3.9"),
        ("ARG TORCH_INDEX=", "ARG TORCH_IDX=", ".TORCH_INDEX is no ARG"),
        ("RAY_AUTH_MODE=token \\", "RAY_AUTH_MOD=token \\", "token mode"),
        ('".${EXTRAS}"', ".", "the package is installed"),
        ("USER 1000", "USER root", "ends as uid 1000"),
        ("USER 1000", "USER 1000\nRUN true", "ends as uid 1000"),
        ("ARG REVISION=", "ARG REVISON=", ".REVISION is no ARG"),
    ],
)
def test_a_typo_in_the_dockerfile_is_noticed(old, new, complaint):
    text = (INFRA / "Dockerfile").read_text(encoding="utf-8")
    assert old in text
    with pytest.raises(AssertionError, match=complaint):
        check_dockerfile(text.replace(old, new))


def test_the_job_brings_the_cluster_of_the_cluster_file():
    assert load("kuberay/rayjob.yaml")["spec"]["rayClusterSpec"] == load("kuberay/raycluster.yaml")["spec"]


@pytest.mark.parametrize(
    ("name", "first", "path"),
    [
        ("kuberay/rayjob.yaml", "labels", "metadata/labels"),
        ("kuberay/rayjob.yaml", "annotations", "metadata/annotations"),
        ("kuberay/raycluster.yaml", "gcsFaultToleranceOptions", "spec/gcsFaultToleranceOptions"),
    ],
)
def test_an_option_in_a_comment_is_accepted_once_it_is_none(name, first, path):
    lines = (INFRA / name).read_text(encoding="utf-8").splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.startswith(f"  # {first}:")]
    end = next(number for number in range(start + 1, len(lines)) if not lines[number].startswith("  #   "))
    opened = [*lines[:start], *(line.replace("# ", "", 1) for line in lines[start:end]), *lines[end:]]
    found = yaml.safe_load("\n".join(opened))
    CHECKS[name](found)
    with pytest.raises(MISTAKES):
        CHECKS[name](replace(found, path, {"misspelt": "ranksr"}))


def test_the_job_runs_the_code_that_the_image_holds():
    folder = yaml.safe_load(load("kuberay/rayjob.yaml")["spec"]["runtimeEnvYAML"])["working_dir"]
    assert f"WORKDIR {folder}\n" in (INFRA / "Dockerfile").read_text(encoding="utf-8")


def test_kuberay_is_told_the_ray_version_that_the_image_gets():
    version = Version(load("kuberay/raycluster.yaml")["spec"]["rayVersion"])
    (pinned,) = re.findall(r"^ray(?:\[.*\])?==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert version == Version(pinned)
    assert version.release[:2] == Version(ray.__version__).release[:2]


def test_the_head_does_no_work_and_nothing_but_it_runs_without_a_job():
    aws = load("aws/cluster.yaml")
    assert aws["available_node_types"][aws["head_node_type"]]["resources"] == {"CPU": 0}
    assert all(node.get("min_workers", 0) == 0 for node in aws["available_node_types"].values())
    assert aws["available_node_types"]["cpu_spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert aws["available_node_types"]["gpu"]["resources"]["GPU"] == 1
    spec = load("kuberay/raycluster.yaml")["spec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert all(group["minReplicas"] == 0 for group in spec["workerGroupSpecs"])


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix in ("", ".yaml")], ids=lambda path: path.name)
def test_every_file_begins_with_commands_that_work(path):
    text = path.read_text(encoding="utf-8")
    comments = re.match(r"(?:#.*\n)+", text)
    assert comments, "the file begins with its commands"
    joined = re.sub(r"\\\n#\s*", " ", comments[0])
    commands = re.findall(r"python jobs/\S+\.py [^#\n]*", text.partition("spec:")[2] + joined)
    assert commands
    for command in commands:
        check_command(command.strip())


def test_no_init_file_hides_the_standard_librarys_platform():
    assert not (ROOT / "platform" / "__init__.py").exists()
