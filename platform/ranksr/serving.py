"""Serving pages from a command: where it listens, and what it says once it does."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from ranksr.errors import UserError

LOCAL = ("127.0.0.1", "localhost", "::1")
"""Names of this machine, the first of them where no host is given."""


def address(host: str | None, port: int) -> str:
    """The address of the first page, with its last slash."""
    return f"http://{host or LOCAL[0]}:{port}/"


def serve_until_interrupted(
    app: web.Application, host: str | None, port: int, lines: Sequence[str], **options: Any
) -> None:
    """Print `lines` and serve until Ctrl+C. `host` None: this machine alone. `options`: those of aiohttp's run_app.

    Raises UserError where something else listens at that port, or the host is none of this machine's.
    """

    async def say(_: web.Application) -> None:
        print("\n".join(lines), flush=True)

    app.on_startup.append(say)
    try:
        web.run_app(app, host=host or LOCAL[0], port=port, print=None, **options)
    except OSError as error:
        where = f"{host or LOCAL[0]}, port {port}"
        raise UserError(f"cannot listen at {where} ({error.strerror}): give another --port") from error
