"""Attempts at a photograph, counted outside the process that makes them: one that is killed counts as well.

Ray repeats the work of a process that died without end. Where one photograph takes all memory, it would die each time.
"""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from ranksr import storage

MOST_DEATHS = 3
"""Deaths of a worker at one photograph, on one node in one job, before it is left out. Chance seldom kills so often."""


class DeadlyPhotographError(ValueError):
    """A photograph whose workers died."""


def folder(job: str) -> pathlib.Path:
    """Files of a job's attempts on this node: in the temporary folder, where they cost an S3 run no request."""
    return pathlib.Path(tempfile.gettempdir()) / f"ranksr-attempts-{job}"


@contextlib.contextmanager
def attempt(job: str, work: str, image_id: str) -> Iterator[None]:
    """Count an attempt at the photograph, and forget it at the end, also by an exception.

    `job` is new at every start of a job: who stops one in the middle of a photograph, again and again, must not lose
    it. `work` tells the steps of a job apart. Raises DeadlyPhotographError, a ValueError, instead of one attempt more.
    """
    if not job:  # called by hand
        yield
        return
    mark = folder(job) / storage.digest_of([work, image_id])
    deaths = _read(mark)
    if deaths >= MOST_DEATHS:  # the mark stays: another photograph of the part may be as bad
        raise DeadlyPhotographError(
            f"its worker died {deaths} times at it, probably for lack of memory: give each more (fewer "
            "compute.upscale_actors), make the image smaller, or leave it out"
        )
    with contextlib.suppress(OSError):  # a full disk: then attempts are not counted
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(str(deaths + 1))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            mark.unlink()
            mark.parent.rmdir()  # fails while others have marks in it


def _read(mark: pathlib.Path) -> int:
    try:
        return int(mark.read_text() or 0)
    except (OSError, ValueError):
        return 0


def forget(job: str) -> None:
    """Delete what the attempts of a job have left on this node."""
    shutil.rmtree(folder(job), ignore_errors=True)
