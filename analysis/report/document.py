"""The frame of a page: one HTML document with its styles and scripts inside.

Its Content-Security-Policy lets a browser run these scripts alone, by their SHA-256, and load nothing: a
script that got into the page in any other way, by a token or a text, does not run. A page that is served may
ask its own server besides.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

BASE_SCRIPTS = ("features/data.js", "parts.js")
"""Scripts that those of features and graphs build on."""

SERVED_SCRIPTS = (
    "explore/server.js",
    "explore/jobs.js",
    "explore/words.js",
    "explore/results.js",
    "explore/actions.js",
    "explore/bar.js",
)
"""Scripts of a page that is served, behind `BASE_SCRIPTS`: features and graphs call what they add."""

SERVED_START = "explore/main.js"
"""The last script of a page that is served."""

SERVED_STYLE = "explore/style.css"


def document(
    title: str,
    nav: str,
    main: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    plotly: bool = True,
    served: bool = False,
) -> str:
    """A whole page of HTML parts, and names of files for their style and behaviour.

    `plotly`: whether figures are drawn on it; the library is most of a page. `served`: whether a server is
    there to be asked.
    """
    library = ""
    if plotly:
        from plotly.offline import get_plotlyjs

        # Browsers hash a script as they have parsed it, where every line ends in one character.
        library = get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")
    theme = page_file("theme.js")
    script = "\n".join(["(() => {", *map(page_file, scripts), "})();"])
    return Template(page_file("page.html")).substitute(
        policy=policy([theme, library, script], served),
        title=escape(title),
        style="\n".join(map(page_file, styles)),
        theme=theme,
        nav=nav,
        main=main,
        plotly=library,
        script=script,
    )


def policy(scripts: Sequence[str], served: bool = False) -> str:
    """A Content-Security-Policy under which these scripts run, and no others.

    Styles may be inline: heights and shades of tokens are attributes, and plotly brings sheets of its own.
    They can load nothing either.
    """
    parts = {
        "default-src": "'none'",
        "script-src": " ".join(map(_hashed, scripts)),
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        **({"connect-src": "'self'"} if served else {}),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items())


def _hashed(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def page_file(name: str) -> str:
    """A file that pages are put together from."""
    return files("analysis.report").joinpath("web", name).read_text(encoding="utf-8")


def script_json(value: Any) -> str:
    """A value as compact JSON, in which no text can end the script element around it.

    Raises ValueError for numbers that JSON does not have: NaN and infinity.

    >>> script_json({"text": "</script>", "values": [1, None]})
    '{"text":"\\\\u003c/script>","values":[1,null]}'
    """
    return script_safe(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def script_safe(text: str) -> str:
    """JSON of the same value that can stand in a script element: each "<" is written as its escape."""
    # In a script element only "<" could end the data early, or begin a comment.
    return text.replace("<", "\\u003c")
