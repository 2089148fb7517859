"""`ranksr score`: image files and folders in, a table, JSON lines or a file of scores out."""

import concurrent.futures
import io
import math
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ranksr import listing, storage, terminal
from ranksr.errors import UserError
from ranksr.images import decode_photograph
from ranksr.metrics.engine import Models, load_models, score_batch
from ranksr.metrics.scores import FITTED, Score, mean_score, unscorable
from ranksr.metrics.table import PYIQA, made_of, metric_info

MAX_CHUNK = 16
"""Images that a process takes at once: enough for the forests, few enough for large images."""
ALONE = 4
"""Largest number of images scored in this process: starting others takes longer."""


class Request(NamedTuple):
    """Metrics, protocol and models; travels to every process."""

    metrics: tuple[str, ...]
    profile: str
    niqe_model: str | None
    ma_model: str | None


class Row(NamedTuple):
    """Scores of one file; `reason` names the first thing that has no score, None when all have."""

    image: str
    scores: dict[str, Score]
    reason: str | None


def request(metrics: str | None, profile: str, niqe_model: str, ma_model: str, reference: str | None) -> Request:
    """The Request of the command's options; `metrics` is comma-separated. Raises UserError."""
    chosen = metrics if metrics is not None else "niqe,ma,pi,psnr,ssim" if reference else "niqe,ma,pi"
    names = tuple(name.strip() for name in chosen.split(",") if name.strip())
    if not names:
        raise UserError(f"--metrics {metrics!r} names no metric: use e.g. niqe,ma,pi")
    return Request(names, profile, niqe_model, ma_model)


def run(
    paths: Sequence[str], request: Request, reference: str | None, jobs: int | None, as_json: bool, out: str | None
) -> int:
    """Score image files, print a table or JSON lines, and write `out`; exit code 1 when something has no score."""
    if out and not out.endswith((".csv", ".parquet")):
        raise UserError(f"--out {out}: use a name that ends in .csv or .parquet")
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: use 1 or more")
    models = _models(request)
    rows = score_paths(paths, request, reference, jobs)
    note = fitted_note(request, models)
    if as_json:
        for row in rows:
            print(storage.to_json(_record(row, request, note)))
    else:
        print(format_table(rows, request, note))
    if out:
        write_rows(out, rows, request, note)
    bad = [row for row in rows if row.reason]
    for row in bad:
        print(f"ranksr: {row.image}: {row.reason}", file=sys.stderr)
    return 1 if bad else 0


def score_paths(
    paths: Sequence[str],
    request: Request,
    reference: str | None = None,
    jobs: int | None = None,
) -> list[Row]:
    """Score files and the images in folders, in that order, with `jobs` processes (None: all cores).

    A file that cannot be read becomes a row with a reason.
    """
    models = _models(request)  # a download and the compiler come before the processes
    score_batch([], request.metrics, models, request.profile, [])  # and so does a user's mistake
    if needing := [name for name in request.metrics if reference is None and metric_info(name).needs_reference]:
        raise UserError(f"{', '.join(needing)} compare with a reference: give --reference DIR")
    work = _with_references(_find(paths), reference)
    jobs = jobs or terminal.num_cores()
    size = max(1, min(MAX_CHUNK, len(work) // (4 * jobs)))
    chunks = [work[start : start + size] for start in range(0, len(work), size)]
    rows: list[Row] = []
    with terminal.Bar("score", len(work), "images") as bar:
        for found in _map(chunks, request, jobs if len(work) > ALONE else 1):
            rows += found
            bar.add(len(found))
    return rows


def _map(chunks: list[list[tuple[str, str | None]]], request: Request, jobs: int) -> Iterator[list[Row]]:
    if jobs == 1:
        yield from (_score_chunk(request, chunk) for chunk in chunks)
        return
    # A server that has imported us once, from which processes are forked without our threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with concurrent.futures.ProcessPoolExecutor(min(jobs, len(chunks)), context, _use_one_thread, (request,)) as pool:
        yield from pool.map(_score_chunk, [request] * len(chunks), chunks)


def _use_one_thread(request: Request) -> None:
    if any(name.startswith(PYIQA) for name in request.metrics):
        import torch

        torch.set_num_threads(1)


def _score_chunk(request: Request, chunk: list[tuple[str, str | None]]) -> list[Row]:
    loaded = [(_read(path), _read(reference) if reference else None) for path, reference in chunk]
    whole = {index: image for index, (image, _) in enumerate(loaded) if isinstance(image, np.ndarray)}
    references = [reference if isinstance(reference, np.ndarray) else None for _, reference in loaded]
    scores = score_batch(
        list(whole.values()), request.metrics, _models(request), request.profile, [references[at] for at in whole]
    )
    found = dict(zip(whole, scores, strict=True))
    rows = []
    for index, ((path, _), (image, _)) in enumerate(zip(chunk, loaded, strict=True)):
        of_image = found.get(index) or {name: unscorable(str(image)) for name in request.metrics}
        rows.append(Row(path, of_image, next((score.reason for score in of_image.values() if score.reason), None)))
    return rows


def _models(request: Request) -> Models:
    """Only what the metrics need: NIQE alone must not download Ma's 78 MB."""
    needed = {raw for name in request.metrics for raw in made_of(name)}
    return load_models(request.niqe_model if "niqe" in needed else None, request.ma_model if "ma" in needed else None)


def _read(path: str) -> np.ndarray | str:
    """The image, or why it cannot be read."""
    if path.startswith(listing.NOT_UTF8):
        return "its name is not UTF-8: rename it"
    try:
        if not storage.is_remote(path) and os.path.isdir(path):
            return "it is a folder"
        return decode_photograph(storage.read_bytes(path))
    except OSError as error:
        return error.strerror or " ".join(str(error).split())
    except ValueError as error:
        return str(error)


def _find(paths: Sequence[str]) -> list[tuple[str, str]]:
    """(file, its name inside the given folder, without suffix) for each image; what is no folder stands for itself."""
    found: list[tuple[str, str]] = []
    for path in paths:
        images = listing.images_of(path, told_apart=False)
        # Under the path as it was given, which may be relative.
        found += [(image.path.replace(storage.absolute(path), path.rstrip("/"), 1), image.name) for image in images]
    return found


def _with_references(found: list[tuple[str, str]], reference: str | None) -> list[tuple[str, str | None]]:
    """(file, its reference: that of the same name, or of the same picture as `listing.match` knows; None without).

    Raises UserError for a folder that is not there, and where two of its files answer to one name.
    """
    if reference is None:
        return [(path, None) for path, _ in found]
    twins = listing.match([name for _, name in found], listing.list_images(reference))
    return [(path, twins[name].path if name in twins else None) for path, name in found]


def fitted_note(request: Request, models: Models) -> str | None:
    """The remark beside scores of models that were fitted here; None without any."""
    parts = [
        f"{name}: {model.provenance}"
        for name, model in zip(Models._fields, models, strict=True)
        if model and FITTED in model.provenance
    ]
    return "; ".join(parts) or None


def _record(row: Row, request: Request, note: str | None) -> dict[str, Any]:
    """One row of a file. No score is null; an infinite one is a score, with a reason of its own."""
    values = {name: None if math.isnan(score.value) else score.value for name, score in row.scores.items()}
    infinite = [name for name, value in values.items() if value is not None and math.isinf(value)]
    reason = row.reason or (f"{', '.join(infinite)}: the image equals its reference" if infinite else None)
    return {"image": row.image, **values, "reason": reason, "profile": request.profile, "note": note}


def write_rows(path: str, rows: Sequence[Row], request: Request, note: str | None) -> None:
    """Write a .csv or .parquet file, whole or not at all."""
    records = [_record(row, request, note) for row in rows]
    text, numbers = ("image", "reason", "profile", "note"), request.metrics
    columns = ("image", *numbers, *text[1:])
    schema = pa.schema([(name, pa.float64() if name in numbers else pa.string()) for name in columns])
    table, out = pa.Table.from_pylist(records, schema), io.BytesIO()
    if path.endswith(".csv"):
        pyarrow.csv.write_csv(table, out)
    else:
        pyarrow.parquet.write_table(table, out)
    storage.write_bytes(path, out.getbuffer())


def format_table(rows: Sequence[Row], request: Request, note: str | None) -> str:
    """A table for people: one line an image, the mean of what has a score, and of how many where some have none."""
    lines = [["image", *request.metrics]]
    lines += [[row.image, *(_number(row.scores[name].value) for name in request.metrics)] for row in rows]
    means = [mean_score(row.scores[name].value for row in rows) for name in request.metrics]
    lines.append(["mean", *(_number(mean) for mean, _ in means)])
    if any(count < len(rows) for _, count in means):
        lines.append([f"scored of {len(rows)}", *(str(count) for _, count in means)])
    head, *body = terminal.aligned(lines).splitlines()
    rule = "-" * len(head)
    notes = [f"profile {request.profile}", *([note] if note else [])]
    return "\n".join([head, rule, *body[: len(rows)], rule, *body[len(rows) :], *notes])


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
