"""The frame of a page: one HTML document with its styles and scripts inside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

BASE_SCRIPTS = ("explorer_data.js", "explorer_parts.js")
"""What scripts of features and graphs build on."""


def document(
    title: str, nav: str, main: str, styles: Sequence[str], scripts: Sequence[str], plotly: bool = True
) -> str:
    """A whole page of HTML parts, and names of files for their style and behaviour.

    `plotly`: whether figures are drawn on it; the library is most of a page.
    """
    library = ""
    if plotly:
        from plotly.offline import get_plotlyjs

        library = get_plotlyjs()
    return Template(page_file("page.html")).substitute(
        title=escape(title),
        style="\n".join(map(page_file, styles)),
        theme=page_file("theme.js"),
        nav=nav,
        main=main,
        plotly=library,
        script="\n".join(map(page_file, scripts)),
    )


def page_file(name: str) -> str:
    """A file that pages are put together from."""
    return files("analysis").joinpath(name).read_text(encoding="utf-8")
