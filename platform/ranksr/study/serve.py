"""`ranksr study serve`: the participants' pages over the pictures and the database of a study."""

import asyncio
import collections
import concurrent.futures
import json
import os
import pathlib
import secrets
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from aiohttp import web

from ranksr import storage
from ranksr.config import Section
from ranksr.errors import UserError
from ranksr.serving import address, serve_until_interrupted
from ranksr.study.answers import Answer, Answers, Page, Participant
from ranksr.study.design import DESIGN, PICTURES, Design, Items, load_design, read_items
from ranksr.study.playlist import Balance, Shown, draw
from ranksr.templates import render

TOKENS = "tokens.json"
COOKIE, DOOR, ADMIN = "ranksr_participant", "ranksr_study", "ranksr_study_admin"
YEAR_SECONDS = 365 * 24 * 3600
GUESS_SECONDS = 1.0
"""Every wrong token of one address waits for so long, one after the other."""
MOST_GUESSES = 20
"""Wrong tokens of one address that may wait; further ones are turned away at once."""
MOST_BODY = 64 * 1024
PLACE = "study/page"
Found = TypeVar("Found")
Px = Annotated[float, pydantic.Field(ge=0, le=100_000)]


class Joining(Section):
    """What a browser sends to take part."""

    device: Literal["desktop", "tablet", "phone"]
    screen: tuple[Px, Px]
    """Width and height, CSS pixels."""
    window: tuple[Px, Px]
    device_pixel_ratio: Annotated[float, pydantic.Field(gt=0, le=100)]
    colour_depth: Annotated[int, pydantic.Field(ge=0, le=1000)]
    dark_steps_seen: Annotated[int, pydantic.Field(ge=0, le=100)]
    """Of eight dark squares on black, those that the participant sees."""
    fields: Annotated[dict[str, Annotated[str, pydantic.Field(max_length=1000)]], pydantic.Field(max_length=50)] = (
        pydantic.Field(default_factory=dict)
    )


class Seen(Section):
    """How the pictures stood on the screen at the answer."""

    window: tuple[Px, Px]
    picture: tuple[Px, Px]
    """Visible part of each picture, CSS pixels."""
    device_pixel_ratio: Annotated[float, pydantic.Field(gt=0, le=100)]
    zoom: Annotated[float, pydantic.Field(gt=0, le=1000)]
    """Device pixels of an image pixel."""
    most_zoom: Annotated[float, pydantic.Field(gt=0, le=1000)]
    """Largest zoom used for this page."""
    by: Literal["key", "pointer"]


class Answering(Section):
    """What a browser sends to answer a page."""

    position: Annotated[int, pydantic.Field(ge=0)]
    choice: Annotated[tuple[int, ...], pydantic.Field(min_length=1, max_length=10)]
    """Places from the left, the best first; of a pair the chosen one alone."""
    reaction_ms: Annotated[float, pydantic.Field(ge=0, le=1e9)]
    seen: Seen


class Server:
    """A study that is being served."""

    def __init__(self, folder: str) -> None:
        """Raises UserError where the folder holds no study, or cannot be written."""
        self.folder, self.items = folder, read_items(folder)
        self.design: Design = load_design(storage.join(folder, DESIGN))
        self.tokens = read_tokens(folder)
        self._items = {item.id: item for item in self.items.items}
        self.pictures = {name for item in self.items.items for name in item.versions.values()}
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "answers")  # a SQLite connection is one thread's
        self._answers = self._thread.submit(Answers, folder).result()
        self._guesses: dict[str, asyncio.Lock] = collections.defaultdict(asyncio.Lock)
        self._waiting: collections.Counter[str] = collections.Counter()

    async def ask(self, question: Callable[[Answers], Found]) -> Found:
        """The database's answer; one question at a time, none on the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, question, self._answers)

    async def close(self, _: web.Application) -> None:
        await self.ask(Answers.close)
        self._thread.shutdown()

    async def require(self, request: web.Request, given: str, wanted: str) -> None:
        """Let a right token pass at once, and wrong ones of an address wait in a queue."""
        if secrets.compare_digest(given.encode(), wanted.encode()):
            return
        await self.slow_down(request)
        raise web.HTTPForbidden(text="This link is not complete: open the one that you were given.")

    async def slow_down(self, request: web.Request) -> None:
        address = request.remote or ""
        if self._waiting[address] >= MOST_GUESSES:
            raise web.HTTPTooManyRequests(text="Too many wrong links: wait a minute.")
        self._waiting[address] += 1
        try:
            async with self._guesses[address]:
                await asyncio.sleep(GUESS_SECONDS)
        finally:
            self._waiting[address] -= 1
            if not self._waiting[address]:  # no address is remembered
                del self._waiting[address], self._guesses[address]

    async def participant(self, request: web.Request) -> Participant | None:
        secret = request.cookies.get(COOKIE)
        if not secret:
            return None
        found = await self.ask(lambda answers: answers.participant(secret))
        if found is None:
            await self.slow_down(request)
        return found

    def drawn(self, device: str) -> Callable[[Balance, int], list[Shown]]:
        return lambda seen, number: draw(self.items, self.design, seen, number, with_pairs=device != "phone")

    def told(self, participant: Participant, pages: list[Page]) -> dict[str, Any]:
        """The next page as the browser is told of it: nothing by which a version could be recognised."""
        if not pages:
            return {"done": True, "code": participant.code, "thanks": self.design.thanks}
        page, *later = pages
        session = self.design.pairs if page.shown.session == "pairs" else self.design.ranking
        assert session is not None
        return {
            "done": False,
            "position": page.position,
            "total": participant.total,
            "session": page.shown.session,
            "practice": page.shown.kind == "practice",
            "question": session.question,
            "pictures": self._pictures(page.shown),
            "patch": self._items[page.shown.item].patch,
            "patch_zoom": self.design.patch_zoom,
            "next": [name for each in later for name in self._pictures(each.shown)],
        }

    def _pictures(self, shown: Shown) -> list[str]:
        return [f"pictures/{self._items[shown.item].versions[method]}" for method in shown.order]

    def chosen(self, shown: Shown, choice: tuple[int, ...]) -> list[str] | None:
        """Methods from the best to the worst; None for what is no answer to this page."""
        places = range(len(shown.order))
        if shown.session == "pairs" and len(choice) == 1 and choice[0] in places:
            return [shown.order[choice[0]], shown.order[1 - choice[0]]]
        if shown.session == "ranking" and sorted(choice) == list(places):
            return [shown.order[place] for place in choice]
        return None


def read_tokens(folder: str) -> dict[str, str]:
    """The tokens of the participants' link (`study`) and the researcher's (`admin`), made at the first call."""
    path = pathlib.Path(folder, TOKENS)
    try:
        if not path.is_file():
            made = {"study": secrets.token_urlsafe(12), "admin": secrets.token_urlsafe(24)}
            with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
                json.dump(made, stream)
        found: dict[str, str] = json.loads(path.read_text())
        return found
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; a study is served from a folder that can be written") from error


async def _posted(request: web.Request, kind: type[Found]) -> Found:
    """The body as a `kind` of Section; 400 for anything else."""
    assert issubclass(kind, Section)
    try:
        return kind.model_validate_json(await request.read())
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise web.HTTPBadRequest(text=f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def application(server: Server) -> web.Application:
    """The participants' pages, and the researcher's under /admin."""
    routes = web.RouteTableDef()

    @routes.get("/")
    async def _(request: web.Request) -> web.Response:
        if await server.participant(request) is None:
            await server.require(request, request.query.get("study", ""), server.tokens["study"])
        return _text(render("study.html.j2", PLACE, title=server.design.title), "text/html")

    @routes.get("/study.{kind:js|css}")
    async def _(request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        path = pathlib.Path(__file__).parent / "page" / f"study.{kind}"
        return _text(path.read_text(encoding="utf-8"), {"js": "text/javascript", "css": "text/css"}[kind])

    @routes.get("/pictures/{name}")
    async def _(request: web.Request) -> web.StreamResponse:
        if await server.participant(request) is None or request.match_info["name"] not in server.pictures:
            raise web.HTTPNotFound
        path = pathlib.Path(server.folder, PICTURES, request.match_info["name"])
        return web.FileResponse(path, headers={"Cache-Control": "private, max-age=86400"})

    @routes.get("/api/state")
    async def _(request: web.Request) -> web.Response:
        participant = await server.participant(request)
        if participant is not None:
            return await _next(server, participant)
        await server.require(request, request.query.get("study", ""), server.tokens["study"])
        design = server.design
        asked = {"consent": design.consent, "fields": design.fields, "picture_px": design.picture_px}
        return web.json_response({"joining": asked | {"pairs": bool(design.pairs), "ranking": bool(design.ranking)}})

    @routes.post("/api/join")
    async def _(request: web.Request) -> web.Response:
        if (known := await server.participant(request)) is not None:  # sent twice
            return await _next(server, known)
        await server.require(request, request.query.get("study", ""), server.tokens["study"])
        body = await _posted(request, Joining)
        if unknown := body.fields.keys() - server.design.fields.keys():
            raise web.HTTPBadRequest(text=f"fields.{min(unknown)} is not asked for")
        if body.device == "phone" and server.design.ranking is None:
            raise web.HTTPConflict(text="This study needs a larger screen: please come back with a computer.")
        screen = body.model_dump(exclude={"fields", "device"})
        secret, joined = await server.ask(
            lambda answers: answers.join(server.drawn(body.device), body.device, screen, body.fields)
        )
        response = await _next(server, joined)
        # Lax: a participant who comes back by the link in a letter is known again.
        response.set_cookie(COOKIE, secret, max_age=YEAR_SECONDS, httponly=True, samesite="Lax")
        return response

    @routes.post("/api/answer")
    async def _(request: web.Request) -> web.Response:
        participant = await server.participant(request)
        if participant is None:
            raise web.HTTPForbidden(text="Take part first: open the link that you were given.")
        body = await _posted(request, Answering)

        def store(answers: Answers) -> list[Page] | None:
            shown = answers.shown(participant.number, body.position)
            choice = server.chosen(shown, body.choice) if shown else None
            if choice is None:
                return None
            answers.add(participant.number, body.position, choice, body.reaction_ms, body.seen.model_dump())
            return answers.pages(participant.number)

        pages = await server.ask(store)  # one turn of the queue
        if pages is None:
            raise web.HTTPBadRequest(text=f"choice={list(body.choice)} does not answer page {body.position}")
        return _told(server, participant, pages)

    @routes.get("/admin")
    async def _(request: web.Request) -> web.Response:
        await _require_admin(server, request)
        people = await server.ask(Answers.participants)
        response = _text(render("admin.html.j2", PLACE, title=server.design.title, people=people), "text/html")
        response.set_cookie(ADMIN, server.tokens["admin"], httponly=True, samesite="Strict", path="/admin")
        return response

    @routes.get("/admin/answers.csv")
    async def _(request: web.Request) -> web.Response:
        await _require_admin(server, request)
        answers, people = await server.ask(lambda answers: (answers.all(), answers.participants()))
        return _text(await asyncio.to_thread(_csv, answers, server.items, people), "text/csv")

    app = web.Application(client_max_size=MOST_BODY)
    app.add_routes(routes)
    app.on_cleanup.append(server.close)
    return app


async def _require_admin(server: Server, request: web.Request) -> None:
    given = request.query.get("token") or request.cookies.get(ADMIN, "")
    await server.require(request, given, server.tokens["admin"])


async def _next(server: Server, participant: Participant) -> web.Response:
    return _told(server, participant, await server.ask(lambda answers: answers.pages(participant.number)))


def _told(server: Server, participant: Participant, pages: list[Page]) -> web.Response:
    return web.json_response(server.told(participant, pages), headers={"Cache-Control": "no-store"})


def _text(text: str, kind: str) -> web.Response:
    return web.Response(text=text, content_type=kind, charset="utf-8", headers={"Cache-Control": "no-cache"})


def _csv(answers: list[Answer], items: Items, people: list[dict[str, Any]]) -> str:
    """The table of `ranksr study results`."""
    from ranksr.study import votes  # only here: with scipy, for which no participant should wait

    return votes.table(answers, items, people).to_csv(index=False)


def serve(folder: str, host: str | None, port: int) -> None:
    """Serve until Ctrl+C. `host` None: this machine alone."""
    server = Server(folder)
    shown = address(host, port)
    lines = [
        f"participants: {shown}?study={server.tokens['study']}",
        f"you:          {shown}admin?token={server.tokens['admin']}",
        "(Ctrl+C ends it; the answers stay)",
    ]
    serve_until_interrupted(application(server), host, port, lines, access_log=None)  # no address is stored
