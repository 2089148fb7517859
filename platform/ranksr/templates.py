"""HTML pages from the templates of this package."""

import importlib.resources
from typing import Any

import jinja2
from markupsafe import Markup

from ranksr import __version__


def render(template: str, folder: str = "report", /, **values: Any) -> str:
    """A template of a folder of this package, with `css`, the look of all pages, and `version`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ranksr", folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = importlib.resources.files("ranksr").joinpath("report", "page.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(css=Markup(css), version=__version__, **values)
