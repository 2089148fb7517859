"""HTML pages from the templates of this package."""

import importlib.resources
from typing import Any

import jinja2
from markupsafe import Markup

from ranksr import __version__


def render(template: str, folder: str = "report", /, **values: Any) -> str:
    """A template of a folder of this package, with `css`, the look of all pages, and `version`."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    places = ((folder, template), ("report", "page.css"))
    files = importlib.resources.files("ranksr")
    source, css = (files.joinpath(*place).read_text(encoding="utf-8") for place in places)
    return environment.from_string(source).render(css=Markup(css), version=__version__, **values)
