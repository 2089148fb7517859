"""`ranksr view`: local pages over runs: states, curves laid over each other, scores, what stages left, all pictures."""

import asyncio
import dataclasses
import functools
import logging
import pathlib
import secrets
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from aiohttp import web

from ranksr import storage
from ranksr.errors import StorageError, UserError
from ranksr.inspect import compare, validation
from ranksr.inspect.album import Album, open_album
from ranksr.report import duration, figures, gallery, read_ranker, remarks
from ranksr.report.page import stage_values
from ranksr.runs import METRICS, RUN_FILE, Run, Stage
from ranksr.serving import LOCAL, address, serve_until_interrupted
from ranksr.templates import render
from ranksr.train.journal import read_metrics
from ranksr.train.pictures import VALIDATION, kept

log = logging.getLogger(__name__)

GALLERIES = ("pictures", VALIDATION)
"""Pages of pictures: of test images by every method, and of validation images by trainings at their kept steps."""
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".csv": "text/csv", ".md": "text/plain"}
TYPES |= {".png": "image/png", ".jpg": "image/jpeg"}
Kept = dict[str, dict[str, dict[int, list[str]]]]
"""Run to `train.pictures.kept` of it."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclasses.dataclass(frozen=True)
class Row:
    """One stage of a run or of its trials, for the table of states."""

    stage: str
    state: str
    step: str
    """`450 of 800`; empty for what is no training."""
    left: str
    """Time left, estimated from the steps seen since this page was opened first."""
    kept: str
    """`3 steps`: those that it kept pictures of."""
    link: str
    """Place of the viewer of these; empty without one."""


class Site:
    """What may be looked at: the named runs, and of them only what is listed here."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Raises UserError where a path is neither a run nor a folder of runs."""
        self.roots = [root for path in paths for root in _runs_in(path)]
        self._shown: dict[str, dict[str, str]] = {}  # of each of GALLERIES, address below it to the stored picture
        self._first_seen: dict[str, tuple[int, float]] = {}

    def overview(self) -> str:
        """The first page."""
        curves: dict[str, list[dict[str, Any]]] = {}
        seen = self._kept()
        runs: list[dict[str, Any]] = []
        for number, root in enumerate(self.roots):
            rows = []
            for stage in _stages(root):
                name = stage.folder.removeprefix(root).strip("/")
                found = read_metrics(stage.path(METRICS))
                if any("niqe" in row for row in found) and (not stage.done or "/" not in name):  # trials: the report
                    curves[f"{_name(root)}/{name}"] = found
                rows.append(self._row(name, stage, found, _link(seen, root, name)))
            has_report = storage.exists(Run(root).path("report", "index.html"))
            runs.append(
                {"number": number, "root": root, "rows": rows, "has_report": has_report, "scores": _scores(root)}
            )
        busy = any(row.state == "unfinished" for each in runs for row in each["rows"])
        return render(
            "view.html.j2", runs=runs, curves=figures.overlaid(curves), busy=busy, has_kept=any(seen.values())
        )

    def _row(self, name: str, stage: Stage, found: list[dict[str, Any]], link: tuple[str, str]) -> Row:
        steps = _steps(stage)
        if not found or steps is None:
            return Row(name, stage.state, "", "", "", "")
        step, now = max(row["step"] for row in found), time.monotonic()
        first, begun = self._first_seen.setdefault(stage.folder, (step, now))
        left = "" if stage.done or step <= first else duration((steps - step) * (now - begun) / (step - first))
        return Row(name, stage.state, f"{step} of {steps}", left, *link)

    def _kept(self) -> Kept:
        return {root: kept(root) for root in self.roots}

    def gallery(self, name: str) -> str:
        """gallery.js of one of GALLERIES: of every evaluation that is done, or of every training that kept pictures.
        Remembers which pictures it names."""
        evaluated = [root for root in self.roots if _is_evaluated(root)]
        paths = _paths(self._kept()) if name == VALIDATION else evaluated
        album = open_album(paths, name == VALIDATION) if paths else Album([], [], ())
        shown: dict[str, str] = {}

        def address(place: str, path: str) -> str:
            shown[place] = path
            return urllib.parse.quote(place)

        shots = gallery.shots(album.sources)
        described = gallery.describe(shots, album.sources, album.metrics, album.arguments, address)
        self._shown[name] = shown
        return gallery.script(described)

    def picture(self, name: str, place: str) -> bytes | None:
        """A picture or thumbnail that the gallery `name` showed; None for all else."""
        path = self._shown.get(name, {}).get(place)
        if path is None or not _is_inside(path, self.roots):
            return None
        png = storage.read_bytes(path)
        return gallery.thumbnail(png) if place.startswith("thumbnails/") else png

    def stages(self, number: int) -> str | None:
        """The page of what a run's own stages left so far: rank datasets, Rankers, trainings; None for no run."""
        if number >= len(self.roots):
            return None
        run = Run(self.roots[number])
        config, begun = run.config(), {stage.name: stage for stage in run.stages()}
        rows = {name: read_metrics(stage.path(METRICS)) for name, stage in begun.items()}
        curves = {name: found for name, found in rows.items() if found}
        ranked = {name: begun.get(config.learns_from(name)) for name in config.rankers}
        rankers = [
            read_ranker(config, name, stage, run.path(name))
            for name, stage in ranked.items()
            if stage and storage.list_tables(stage.folder)
        ]
        return render("run.html.j2", root=run.root, **stage_values(rankers, curves, remarks(config), ()))

    def report_file(self, number: int, name: str) -> bytes | None:
        """A file of a run's report; None for all else."""
        if number >= len(self.roots):
            return None
        folder = Run(self.roots[number]).path("report")
        path = storage.join(folder, name)
        if name not in {each for each, _ in storage.list_files(folder)} or not _is_inside(path, self.roots):
            return None
        return storage.read_bytes(path)


def _runs_in(path: str) -> list[str]:
    root = storage.absolute(path)
    if storage.exists(storage.join(root, RUN_FILE)):
        return [root]
    below = dict.fromkeys(name.partition("/")[0] for name, _ in storage.list_files(root) if "/" in name)
    folders = [storage.join(root, each) for each in below]
    found = [each for each in folders if storage.exists(storage.join(each, RUN_FILE))]
    if not found:
        raise UserError(f"{path} is no run and holds none: give a folder with run.json, or the one above it")
    return found


def _name(root: str) -> str:
    return root.rstrip("/").rpartition("/")[2]


def _is_evaluated(root: str) -> bool:
    stage = Run(root).recorded("evaluation")
    return stage is not None and stage.done


def _scores(root: str) -> str:
    return compare.compare([root]) if _is_evaluated(root) else ""


def _stages(root: str) -> list[Stage]:
    """The stages of a run, and of its trials, that have begun."""
    run = Run(root)
    return [*run.stages(), *run.trials.stages()]


def _paths(seen: Kept) -> list[str]:
    """The runs whose trainings kept pictures, and the trainings of trials that did."""
    runs = [root for root, found in seen.items() if any("/" not in folder for folder in found)]
    return [*runs, *(storage.join(root, folder) for root, found in seen.items() for folder in found if "/" in folder)]


def _link(seen: Kept, root: str, folder: str) -> tuple[str, str]:
    """The number of steps that a training kept, and the place where the first and last are shown; empty for none."""
    found = seen[root].get(folder)
    if not found:
        return "", ""
    label = storage.join(root, folder) if "/" in folder else validation.named(root, folder, len(_paths(seen)) == 1)
    ends = dict.fromkeys([min(found), max(found)])
    shown = [("method", name) for name in [*(validation.at(label, step) for step in ends), "hr"]]
    place = urllib.parse.urlencode([("image", f"{VALIDATION}/{found[max(found)][0]}"), *shown])
    return f"{len(found)} step{'s' * (len(found) > 1)}", f"{VALIDATION}/#{place}"


def _steps(stage: Stage) -> int | None:
    """Steps of a training; None for another stage."""
    for key, value in stage.settings.items():
        if key.endswith("train.steps") and isinstance(value, int):
            return value
    return None


def _is_inside(path: str, roots: Sequence[str]) -> bool:
    """Whether a path leads to a file of the runs once links are followed."""
    if storage.is_remote(path):
        return any(path.startswith(f"{root}/") for root in roots)
    real = pathlib.Path(path).resolve()
    return any(real.is_relative_to(pathlib.Path(root).resolve()) for root in roots if not storage.is_remote(root))


def application(site: Site, token: str | None = None) -> web.Application:
    """The server. `token`: asked for once in the address, then kept as a cookie; None serves this machine alone."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token is None:
            if urllib.parse.urlsplit(f"//{request.host}").hostname not in LOCAL:  # a foreign name that leads here
                raise web.HTTPForbidden(text="this page answers 127.0.0.1 and localhost only")
            return await handler(request)
        given = request.query.get("token") or request.cookies.get("ranksr_token", "")
        if not secrets.compare_digest(given.encode(), token.encode()):
            raise web.HTTPForbidden(text="open the link with the token that `ranksr view` printed")
        response = await handler(request)
        response.set_cookie("ranksr_token", token, httponly=True, samesite="Strict")
        return response

    @web.middleware
    async def explained(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except (UserError, StorageError) as error:
            raise web.HTTPInternalServerError(text=str(error)) from error

    def page(make: Callable[[], str], kind: str) -> Handler:
        async def answer(_: web.Request) -> web.Response:
            return web.Response(text=await asyncio.to_thread(make), content_type=kind, charset="utf-8")

        return answer

    def file(read: Callable[[web.Request], bytes | None]) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            data = await asyncio.to_thread(read, request)
            if data is None:
                raise web.HTTPNotFound
            kind = TYPES.get(pathlib.PurePosixPath(request.match_info["name"]).suffix, "application/octet-stream")
            return web.Response(body=data, content_type=kind)

        return answer

    async def run_page(request: web.Request) -> web.Response:
        text = await asyncio.to_thread(site.stages, int(request.match_info["number"]))
        if text is None:
            raise web.HTTPNotFound
        return web.Response(text=text, content_type="text/html", charset="utf-8")

    def viewer(name: str) -> str:
        title = ", ".join(_name(root) for root in site.roots)
        return render("viewer.html.j2", title=f"{title}: {name}", text="", inside=None)

    def galleries() -> Iterator[web.RouteDef]:
        for name in GALLERIES:
            yield web.get(f"/{name}/", page(functools.partial(viewer, name), "text/html"))
            yield web.get(f"/{name}/gallery.js", page(functools.partial(site.gallery, name), "text/javascript"))
            for file_name, kind in (("viewer.js", "text/javascript"), ("viewer.css", "text/css")):
                yield web.get(f"/{name}/{file_name}", page(functools.partial(gallery.viewer_file, file_name), kind))
            read = functools.partial(lambda name, request: site.picture(name, request.match_info["name"]), name)
            yield web.get(f"/{name}/{{name:.+}}", file(read))

    app = web.Application(middlewares=[guard, explained])
    app.add_routes(
        [
            web.get("/", page(site.overview, "text/html")),
            *galleries(),
            web.get(r"/run/{number:\d+}/", run_page),
            web.get(
                r"/report/{number:\d+}/{name:.+}",
                file(lambda request: site.report_file(int(request.match_info["number"]), request.match_info["name"])),
            ),
        ]
    )
    return app


def serve(paths: Sequence[str], host: str | None, port: int) -> None:
    """Serve until Ctrl+C. `host` None: this machine alone; another: whoever has the printed link."""
    site = Site(paths)
    token = None if host in (None, *LOCAL) else secrets.token_urlsafe(16)
    shown = address(host, port) + (f"?token={token}" if token else "")
    line = f"{len(site.roots)} run{'s' * (len(site.roots) > 1)}: {shown} (Ctrl+C ends it)"
    serve_until_interrupted(application(site, token), host, port, [line])
