"""Hosts that share nothing, on one machine: each has its own network, mounts, processes, name, /tmp, home, /dev/shm.

    sudo .venv/bin/python infra/local/hosts.py          # a cluster of three hosts, an S3 server and a shell beside them

Made of Linux namespaces, for which it needs root, `unshare`, `nsenter` (util-linux) and `ip` (iproute2). Every host is
a process whose standard input is held by this one: when this one ends, however, the hosts end with all that runs on
them, and nothing is left behind on the machine. The bridge that joins them is in a namespace of its own, too, so that
several such networks neither meet each other nor the machine's own.

Everything of the machine is read-only on a host; what is writable is a tmpfs of its own. Only Python's folders are
seen through it, and the repository on those hosts that are told to.
"""

import collections
import contextlib
import ctypes
import dataclasses
import fcntl
import json
import os
import pathlib
import random
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
NETWORK = "10.77.0"
COVERED = ("/tmp", "/var/tmp", "/run", "/dev/shm")
"""Folders in which programs of one machine meet: each host has its own."""
UNREAL = "proc sysfs devtmpfs devpts tmpfs cgroup cgroup2 mqueue securityfs debugfs tracefs bpf pstore fusectl configfs"
"""File systems that hold no files, or only those of this start of the machine."""
STARTED = "/run/started"
"""What `ray start` said on a worker."""
OBJECT_STORE = "--object-store-memory=100000000"
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 3000,
    "health_check_failure_threshold": 3,
}
"""A host that is cut off is given up after seconds; by Ray's default after half a minute."""
MEMORY_GROUPS = pathlib.Path("/sys/fs/cgroup/memory")


def why_not() -> str:
    """Why there can be no such hosts here; empty where they can be had."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts are made of namespaces, which needs root on Linux"
    missing = [name for name in ("ip", "unshare", "nsenter", "mount") if shutil.which(name) is None]
    if missing:
        return f"hosts need {', '.join(missing)}: apt-get install iproute2 util-linux"
    try:
        with Network() as network:
            network.host("probe").run("true")
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or error
        return f"namespaces are not to be had here: {' '.join(str(said).split())}"
    return ""


@dataclasses.dataclass
class Host:
    """A machine of a Network. `process` is what the host lives by: its end is the end of everything on it."""

    name: str
    address: str
    process: subprocess.Popen[bytes]
    pid: int
    """Of the host's first process, as the machine sees it."""
    environment: dict[str, str]
    memory_group: pathlib.Path | None = None
    started: list[subprocess.Popen[str]] = dataclasses.field(default_factory=list)

    def command(self, *words: str, cwd: str = "/", **variables: str) -> list[str]:
        """A command line of the machine that runs `words` on the host."""
        spaces = ["--mount", "--net", "--uts", "--ipc", "--pid"]
        there = ["nsenter", "--target", str(self.pid), *spaces, f"--wd={cwd}", "--", "env", "--ignore-environment"]
        named = [f"{name}={value}" for name, value in {**self.environment, **variables}.items()]
        if self.memory_group is None:
            return [*there, *named, *words]
        # A group is inherited: the shell joins it, and becomes the command.
        join = f'echo $$ > {self.memory_group / "cgroup.procs"}; exec "$@"'
        return ["sh", "-c", join, "sh", *there, *named, *words]

    def run(
        self, *words: str, check: bool = True, cwd: str = "/", timeout: float = 300, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host to its end; with `check`, raises CalledProcessError where it fails."""
        done = subprocess.run(
            self.command(*words, cwd=cwd, **variables),
            capture_output=True, text=True, check=False, timeout=timeout, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if check and done.returncode:
            raise subprocess.CalledProcessError(done.returncode, [self.name, *words], done.stdout, done.stderr)
        return done

    def start(self, *words: str, cwd: str = "/", **variables: str) -> subprocess.Popen[str]:
        """Run a command on the host beside us; its output, both streams, is in `stdout`."""
        started = subprocess.Popen(
            self.command(*words, cwd=cwd, **variables),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.started.append(started)
        return started

    def kill_everything(self) -> None:
        """SIGKILL to all that runs on the host: a power cut after which it is on again."""
        self.run("sh", "-c", "kill -9 -1", check=False)

    def fill(self, folder: str, leave_bytes: int) -> None:
        """Leave so many bytes in the file system of a folder."""
        left = int(self.run("df", "--output=avail", "-B1", folder).stdout.split()[-1])
        if left > leave_bytes:
            self.run("sh", "-c", f"head -c {left - leave_bytes} /dev/zero > {folder}/filled")

    def empty(self, folder: str) -> None:
        """Undo `fill`."""
        self.run("rm", "-f", f"{folder}/filled")


class Network:
    """Hosts on one bridge. A context manager: at its end everything is gone."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self._ends = contextlib.ExitStack()
        self._switch = 0

    def __enter__(self) -> "Network":
        with contextlib.ExitStack() as ends:
            ends.callback(self._ends.close)
            self._switch = self._namespaces("switch", "").pid
            self._ip("link", "add", "bridge", "type", "bridge")
            self._ip("link", "set", "bridge", "up")
            ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()
        for started in [each for host in self.hosts.values() for each in host.started]:
            started.kill()  # it is only what stood for the process that ended with its host
            started.communicate()

    def host(self, name: str, sees: Sequence[pathlib.Path] = (), tmp_bytes: int = 2**30, memory_bytes: int = 0) -> Host:
        """Another host. `sees`: folders of the machine that it may read; /tmp has `tmp_bytes`.

        `memory_bytes`: its processes together get no more (control groups v1), 0 for no limit.
        """
        address = f"{NETWORK}.{10 + len(self.hosts)}"
        python = [pathlib.Path(path).resolve() for path in dict.fromkeys((sys.base_prefix, sys.prefix))]
        group = self._memory_group(name, memory_bytes) if memory_bytes else None
        host = self._namespaces(name, setup(name, [*python, *(path.resolve() for path in sees)], tmp_bytes, group))
        host.address, host.memory_group = address, group
        self._ip("link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
        self._ip("link", "set", f"to-{name}", "master", "bridge", "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("address", "add", f"{address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            host.run("ip", *words)
        self.hosts[name] = host
        for each in self.hosts.values():
            names = "".join(f"{other.address} {other.name}\n" for other in self.hosts.values())
            each.run("sh", "-c", f"printf '127.0.0.1 localhost\n{names}' > /run/hosts")
        return host

    def cut(self, name: str) -> None:
        """The host's cable is out: nothing arrives, and nobody is told."""
        self._ip("link", "set", f"to-{name}", "down")

    def join(self, name: str) -> None:
        """The cable is in again."""
        self._ip("link", "set", f"to-{name}", "up")

    def slow(self, name: str, seconds: float, loss: float) -> None:
        """Whatever the host sends and is sent takes so long, and a share of it is lost. Until the end of the network.

        By a process that passes frames on: the kernel's own means, `tc netem`, is a module that few machines load.
        """
        self._ip("link", "set", f"to-{name}", "nomaster")
        self._ip("link", "add", f"slow-{name}", "type", "veth", "peer", "name", f"by-{name}")
        self._ip("link", "set", f"slow-{name}", "up")
        self._ip("link", "set", f"by-{name}", "master", "bridge", "up")
        # Between its own interfaces the kernel moves frames of any length without checksums; others cannot read them.
        this = [sys.executable, str(pathlib.Path(__file__).resolve())]
        subprocess.run([*self._there(), *this, "whole", f"by-{name}"], check=True, capture_output=True)
        on_host = ["nsenter", "--target", str(self.hosts[name].pid), "--net", "--"]
        subprocess.run([*on_host, *this, "whole", "eth0"], check=True, capture_output=True)
        words = [*this, "forward", f"to-{name}", f"slow-{name}", str(seconds), str(loss)]
        process = subprocess.Popen([*self._there(), *words], stdout=subprocess.PIPE)
        self._ends.callback(process.wait)
        self._ends.callback(process.kill)
        assert process.stdout is not None
        self._ends.callback(process.stdout.close)
        process.stdout.readline()

    def _there(self) -> list[str]:
        return ["nsenter", "--target", str(self._switch), "--net", "--"]

    def _ip(self, *words: str) -> None:
        subprocess.run([*self._there(), "ip", *words], check=True, capture_output=True, text=True)

    def _namespaces(self, name: str, script: str) -> Host:
        """A process in namespaces of its own, which ends when its standard input does: with us at the latest."""
        # The first process inherits every orphan. Those that it ignores the end of leave no zombies behind.
        script = f"set -e\n{script}\necho ready\nexec env --ignore-signal=CHLD cat"
        spaces = ["--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "--propagation=private"]
        process = subprocess.Popen(
            ["unshare", *spaces, "sh", "-c", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._ends.callback(_end, process)
        if process.stdout.readline() != b"ready\n":
            raise OSError(f"host {name}: {process.stderr.read().decode()}")
        (pid,) = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        environment = {
            "PATH": f"{pathlib.Path(sys.prefix).resolve()}/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": os.path.expanduser("~"),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
        }
        return Host(name, "", process, int(pid), environment)

    def _memory_group(self, name: str, limit: int) -> pathlib.Path:
        folder = MEMORY_GROUPS / f"hosts-{uuid.uuid4().hex[:8]}-{name}"
        folder.mkdir()
        self._ends.callback(_remove_group, folder)
        (folder / "memory.limit_in_bytes").write_text(str(limit))
        return folder


class Cluster:
    """A head without work, two workers and an S3 server, each on a host, and a host outside, where the user is."""

    def __init__(self, network: Network, sees: Sequence[pathlib.Path] = (), **second: int) -> None:
        """`sees`: folders of the machine that the user's host may read; `second`: options of the second worker."""
        self.network = network
        self.head, self.one = network.host("head"), network.host("one")
        self.two, self.s3 = network.host("two", **second), network.host("s3")
        self.outside = network.host("outside", sees=[REPOSITORY, *sees])
        for host in network.hosts.values():
            host.environment |= {
                "AWS_ENDPOINT_URL": f"http://{self.s3.address}:5000",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
                "RAY_AUTH_MODE": "disabled",
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_DEDUP_LOGS": "0",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONUNBUFFERED": "1",
                "RAY_raylet_start_wait_time_s": "90",
            }
        self.outside.environment |= {
            "RAY_API_SERVER_ADDRESS": f"http://{self.head.address}:8265",
            "PYTHONPATH": str(REPOSITORY / "platform"),
        }
        # Its log goes nowhere: a pipe that nobody reads is full after some hundred requests, and stops the server.
        self.s3.start("sh", "-c", "exec moto_server --host 0.0.0.0 --port 5000 > /dev/null 2>&1")

    def start(self) -> None:
        """Ray on the head, then on both workers side by side; and the bucket."""
        self.start_head()
        starting = [self.start_worker(host) for host in (self.one, self.two)]
        for host, each in zip((self.one, self.two), starting, strict=True):
            code = each.wait(timeout=120)
            assert not code, host.run("cat", STARTED).stdout
        self.python("import boto3; boto3.client('s3').create_bucket(Bucket='bucket')")

    def start_head(self) -> None:
        self.head.run(
            "ray", "start", "--head", "--num-cpus=0", f"--node-ip-address={self.head.address}", "--port=6379",
            "--dashboard-host=0.0.0.0", "--dashboard-port=8265", "--temp-dir=/tmp/head", OBJECT_STORE,
            f"--system-config={json.dumps(QUICK)}",
        )  # fmt: skip

    def start_worker(self, host: Host, cpus: int = 1, **variables: str) -> subprocess.Popen[str]:
        """The start of Ray on a worker, which may be waited for."""
        # Into a file: what Ray leaves behind may hold on to a pipe, and whoever reads that would wait for it.
        start = f"ray start --address={self.head.address}:6379 --node-ip-address={host.address} --num-cpus={cpus}"
        more = f"--temp-dir=/tmp/{host.name} {OBJECT_STORE} > {STARTED} 2>&1"
        return host.start("sh", "-c", f"{start} {more}", **variables)

    def submit(self, job: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """`ray job submit` of a job of this repository from outside: ends when that does, and says what it says."""
        words = ["python", f"jobs/{job}.py", "configs/demo.yaml", *arguments]
        environment = json.dumps({"env_vars": {"PYTHONUNBUFFERED": "1", **variables}})
        options = ["--working-dir", ".", "--runtime-env-json", environment]
        return self.outside.start("ray", "job", "submit", *options, "--", *words, cwd=str(REPOSITORY))

    def python(self, program: str, *arguments: str) -> str:
        """What a Python program prints outside."""
        return self.outside.run("python", "-c", program, *arguments).stdout


@contextlib.contextmanager
def cluster(sees: Sequence[pathlib.Path] = (), **second: int) -> Iterator[Cluster]:
    """A started Cluster; at the end it is gone."""
    with Network() as network:
        started = Cluster(network, sees, **second)
        started.start()
        yield started


def setup(name: str, readable: Sequence[pathlib.Path], tmp_bytes: int, group: pathlib.Path | None) -> str:
    """Shell script that a host begins with: what it sees of the machine's files.

    The folders to be read are opened before anything covers them: they may be below /tmp, or in the home.
    """
    hidden = [*map(pathlib.Path, COVERED), pathlib.Path.home(), REPOSITORY]
    covered = [place for place in hidden if not any(place.is_relative_to(o) for o in hidden if o != place)]
    seen = [path for path in dict.fromkeys(readable) if any(path.is_relative_to(place) for place in covered)]
    lines = [f"exec {3 + number}<{path}" for number, path in enumerate(seen)]
    lines += [f"hostname {name}"]
    for mount in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = mount.split()
        if kind not in UNREAL.split():
            lines.append(f"mount -o remount,bind,ro {place}")
    lines += [f"mount -t tmpfs -o mode=1777,size={tmp_bytes} tmpfs {place}" for place in covered]
    for number, path in enumerate(seen):
        # --no-canonicalize: the kernel finds the folder behind the descriptor, by name it cannot be reached any more.
        lines += [f"mkdir -p {path}", f"mount --no-canonicalize --bind /proc/self/fd/{3 + number} {path}"]
        lines += [f"mount -o remount,bind,ro {path}", f"exec {3 + number}<&-"]
    if group is not None:
        lines.append(f"mount --bind {group} {MEMORY_GROUPS}")  # where programs look for the limit of their container
    lines += ["echo 127.0.0.1 localhost > /run/hosts", "mount --bind /run/hosts /etc/hosts"]
    return "\n".join(lines)


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    process.wait(60)


def _remove_group(folder: pathlib.Path) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.1)


def whole(interface: str) -> None:
    """Have the kernel send frames of the interface's own size, with checksums, instead of leaving that to hardware."""
    for command in (0x17, 0x19, 0x1F, 0x23, 0x2C):  # ETHTOOL_STXCSUM, SSG, STSO, SGSO, SGRO
        value = ctypes.create_string_buffer(struct.pack("II", command, 0))
        request = struct.pack("16sP", interface.encode(), ctypes.addressof(value))
        with socket.socket() as any_socket, contextlib.suppress(OSError):
            fcntl.ioctl(any_socket, 0x8946, request)  # SIOCETHTOOL


def forward(first: str, second: str, seconds: float, loss: float) -> None:
    """Pass every frame that arrives at one interface on to the other after so many seconds, but for a random share."""
    raw = socket.AF_PACKET, socket.SOCK_RAW
    with socket.socket(*raw) as one, socket.socket(*raw) as other:
        for each, name in ((one, first), (other, second)):
            each.bind((name, 3))  # ETH_P_ALL
        print("ready", flush=True)
        waiting = collections.deque[tuple[float, socket.socket, bytes]]()
        while True:
            left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            for each in select.select([one, other], [], [], left)[0]:
                try:
                    frame, (_, _, kind, *_) = each.recvfrom(2**16)
                except OSError:  # the cable was pulled, which is said once
                    continue
                if kind != socket.PACKET_OUTGOING and random.random() >= loss:
                    waiting.append((time.monotonic() + seconds, other if each is one else one, frame))
            while waiting and waiting[0][0] <= time.monotonic():
                _, to, frame = waiting.popleft()
                with contextlib.suppress(OSError):  # the other end is down
                    to.send(frame)


def main() -> int:
    if sys.argv[1:2] == ["whole"]:
        whole(sys.argv[2])
        return 0
    if sys.argv[1:2] == ["forward"]:
        forward(*sys.argv[2:4], *map(float, sys.argv[4:]))
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 1
    with cluster() as started:
        there = started.outside.command("bash", cwd=str(REPOSITORY), TERM=os.environ.get("TERM", "dumb"))
        print("ray job submit --working-dir . -- python jobs/full_pipeline.py configs/demo.yaml --run s3://bucket/demo")
        return subprocess.run(there, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
