"""The frame of a page: one HTML document with its styles and scripts inside.

Its Content-Security-Policy lets a browser run these scripts alone, by their SHA-256, and load nothing: a
script that got into the page in any other way, by a token or a text, does not run.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
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

        # Browsers hash a script as they have parsed it, where every line ends in one character.
        library = get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")
    theme = page_file("theme.js")
    script = "\n".join(["(() => {", *map(page_file, scripts), "})();"])
    return Template(page_file("page.html")).substitute(
        policy=_policy([theme, library, script]),
        title=escape(title),
        style="\n".join(map(page_file, styles)),
        theme=theme,
        nav=nav,
        main=main,
        plotly=library,
        script=script,
    )


def _policy(scripts: Sequence[str]) -> str:
    """A Content-Security-Policy under which these scripts run, and no others.

    Styles may be inline: heights and shades of tokens are attributes, and plotly brings sheets of its own.
    They can load nothing either.
    """
    parts = {
        "default-src": "'none'",
        "script-src": " ".join(map(_hashed, scripts)),
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items())


def _hashed(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def page_file(name: str) -> str:
    """A file that pages are put together from."""
    return files("analysis").joinpath(name).read_text(encoding="utf-8")
