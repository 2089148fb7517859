"""What every start looks at on the machines that will work, in milliseconds each, and what is wrong with it.

`look` runs on a node and judges nothing; rows judge. `ranksr doctor` has more of both.
"""

import dataclasses
import importlib.metadata
import logging
import platform
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from ranksr import __version__, storage
from ranksr.data import sources
from ranksr.errors import UserError, mistake_behind

log = logging.getLogger(__name__)

PACKAGES = ("ray", "torch", "numpy", "numba")
"""Those whose versions decide whether nodes understand each other and compute the same numbers."""
ROOM_WARNS_BYTES, ROOM_FAILS_BYTES = 10 * 2**30, 2**30
"""Free room in the temporary folder: Ray's objects and logs go there as well as the copies of trainings."""
OPEN_FILES = 4096
"""Below this limit Ray itself warns of connection errors."""
FIRST = 3
"""Photographs of a source that are tried until one can be read."""
NAMED = 3
"""Number of nodes that a row names."""

Value = TypeVar("Value")
State = Literal["ok", "warning", "failure"]
STATES: tuple[State, ...] = ("ok", "warning", "failure")
Judged = tuple[State, str]
"""State and finding of one node."""


@dataclasses.dataclass(frozen=True)
class Failed:
    """In place of what could not be found out."""

    why: str


@dataclasses.dataclass(frozen=True)
class Vitals:
    """The state of one node, as far as it takes no time to tell."""

    versions: dict[str, str]
    """Python, ranksr and PACKAGES; `absent` for one that is not installed."""
    copies: str | Failed
    """The temporary folder, in which a training copies its data."""
    free_bytes: int | Failed
    """Room in that folder."""
    open_files: int
    """Soft limit of open files of a process that Ray started."""
    unreadable: dict[str, str]
    """Those of the files that cannot be read, and why."""


def look(files: Sequence[str] = ()) -> Vitals:
    """Find out how this node stands. `files`: paths, local, s3:// or skimage:, of which the first byte is read."""
    return Vitals(
        versions=versions(),
        copies=or_failed(tempfile.gettempdir),
        free_bytes=or_failed(lambda: shutil.disk_usage(tempfile.gettempdir()).free),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        unreadable={path: read.why for path in files if isinstance(read := or_failed(_touch, path), Failed)},
    )


def readable(photographs: Mapping[str, Sequence[sources.Photo]]) -> dict[str, str]:
    """Source to one of its first photographs that this process can read; a bad one is for its reader to reject."""
    firsts = {source: [photo.path for photo in photos[:FIRST]] for source, photos in photographs.items()}
    return {
        source: good[0]
        for source, paths in firsts.items()
        if (good := [path for path in paths if not isinstance(or_failed(_touch, path), Failed)])
    }


def versions() -> dict[str, str]:
    """Versions of Python, ranksr and PACKAGES in this process."""
    found = {"Python": platform.python_version(), "ranksr": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def why(error: Exception) -> str:
    """One line for a row: the user's mistake behind the error, else its kind and text."""
    if mistake := mistake_behind(error):
        return " ".join(str(mistake).split())
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


def or_failed(find: Callable[..., Value], *arguments: object) -> Value | Failed:
    """What is found, or why it is not."""
    try:
        return find(*arguments)
    except Exception as error:
        return Failed(why(error))


def _touch(path: str) -> None:
    if path.startswith(sources.WHEEL):
        path = sources.wheel_file(path.removeprefix(sources.WHEEL))
    filesystem, inner = storage.resolve(path)
    with storage.answering(path), filesystem.open_input_file(inner) as stream:
        stream.read(1)


@dataclasses.dataclass(frozen=True)
class Row:
    """A check and what it found."""

    check: str
    state: State
    found: str
    remedy: str = ""
    """Empty where nothing is to be done, and where `found` is an error that says it."""
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What `found` says, for programs; few rows have it."""


def require(rows: Iterable[Row]) -> None:
    """Warn of each row that is a warning, in one line. Raises UserError for those that are failures."""
    failed = []
    for row in rows:
        said = f"{row.check}: {row.found}" + (f"; {row.remedy}" if row.remedy else "")
        if row.state == "failure":
            failed.append(said)
        elif row.state == "warning":
            log.warning("%s", said)
    if failed:
        raise UserError("; ".join(failed))


def judge(nodes: Mapping[str, Vitals], driver: Mapping[str, str], files: Mapping[str, str]) -> list[Row]:
    """The rows of a start. `driver`: versions of the process that starts it; `files`: key to a path of `look`.

    Little room is a warning here: what finds none for its copy does without.
    """
    room = of_room(nodes, 0)
    return [
        of_versions({"the driver": driver, **{name: told.versions for name, told in nodes.items()}}),
        dataclasses.replace(room, state="ok" if room.state == "ok" else "warning"),
        of_open_files(nodes),
        *([of_files(nodes, files)] if files else []),
    ]


def per_node(check: str, judged: Mapping[str, Judged], remedy: str = "") -> Row:
    """One row for all nodes: the worst state, and the nodes in that state by name unless all say the same."""
    worst = max((state for state, _ in judged.values()), key=STATES.index)
    found = {name: text for name, (state, text) in judged.items() if state == worst}
    if len(found) == len(judged) and len(set(found.values())) == 1:
        said = next(iter(found.values()))
    else:
        said = "; ".join(f"{name}: {text}" for name, text in list(found.items())[:NAMED])
        said += f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return Row(check, worst, said, "" if worst == "ok" else remedy)


def of_versions(processes: Mapping[str, Mapping[str, str]]) -> Row:
    """`processes`: the driver and the nodes to their versions by package."""
    first, wrong = next(iter(processes.values())), []
    for package in first:
        having: dict[str, list[str]] = {}
        for name, versions in processes.items():
            having.setdefault(versions[package], []).append(name)
        if len(having) > 1 or "absent" in having:
            wrong.append(f"{package} {', '.join(f'{version} on {_some(names)}' for version, names in having.items())}")
    if wrong:
        remedy = "install the same versions on every node and on the driver, e.g. from infra/Dockerfile"
        return Row("versions", "failure", "; ".join(wrong), remedy)
    return Row("versions", "ok", ", ".join(f"{package} {version}" for package, version in first.items()))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def of_open_files(nodes: Mapping[str, Vitals]) -> Row:
    """The limit of open files of what Ray starts."""
    remedy = f"raise the limit (`ulimit -n`) to {OPEN_FILES} or more before `ray start`"
    return per_node("open files", {name: _open_files(told.open_files) for name, told in nodes.items()}, remedy)


def _open_files(limit: int) -> Judged:
    return ("warning" if 0 <= limit < OPEN_FILES else "ok"), "unlimited" if limit < 0 else str(limit)


def of_files(nodes: Mapping[str, Vitals], files: Mapping[str, str]) -> Row:
    """Models, weights and photographs that every node opens by itself."""

    def judge(told: Vitals) -> Judged:
        unread = [f"{key}: {told.unreadable[path]}" for key, path in files.items() if path in told.unreadable]
        return ("failure", "; ".join(unread)) if unread else ("ok", f"{', '.join(files)} can be read")

    remedy = "correct the path, or put the files where every node sees them: S3, or the same path on each"
    return per_node("files on nodes", {name: judge(told) for name, told in nodes.items()}, remedy)


def of_room(nodes: Mapping[str, Vitals], copies_bytes: int) -> Row:
    """Free room for local copies. `copies_bytes`: what they take, as far as the run has made what is copied."""

    def judge(folder: str | Failed, free: int | Failed) -> Judged:
        for each in (folder, free):
            if isinstance(each, Failed):
                return "failure", each.why
        assert isinstance(free, int)
        state: State = "failure" if free < ROOM_FAILS_BYTES else "ok"
        if state == "ok" and free < max(ROOM_WARNS_BYTES, copies_bytes):
            state = "warning"
        asked = f", copies of this run {size_text(copies_bytes)}" if copies_bytes else ""
        return state, f"{size_text(free)} free in {folder}{asked}"

    judged = {name: judge(told.copies, told.free_bytes) for name, told in nodes.items()}
    return per_node("room for copies", judged, "set TMPDIR to a folder with room before `ray start`")


def size_text(number: float) -> str:
    """Bytes for people."""
    return f"{number / 2**30:.1f} GiB"
