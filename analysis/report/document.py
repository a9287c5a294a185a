"""The frame of a page: one HTML document with its styles and scripts inside.

Its Content-Security-Policy lets a browser run these scripts alone, by their SHA-256, and load nothing: a
script that got into the page in any other way, by a token or a text, does not run. A page that is served may
ask its own server besides, and one with files beside it load scripts from where it lies.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

BASE_SCRIPTS = ("data.js", "features/data.js", "parts.js")
"""Scripts that those of features and graphs build on."""

SERVED_SCRIPTS = (
    "explore/server.js",
    "explore/jobs.js",
    "explore/words.js",
    "explore/results.js",
    "explore/actions.js",
    "explore/measured.js",
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
    files_beside: bool = False,
) -> str:
    """A whole page of HTML parts, and names of files for their style and behaviour.

    `plotly`: whether figures are drawn on it; the library is large, so that it stands there as packed text,
    which becomes a script where the first figure is drawn. With `files_beside` it is a file in the folder
    `data`, where the page may read more. `served`: whether a server is there to be asked.
    """
    text = library() if plotly and not files_beside else ""
    source = ' data-source="data/plotly.js"' if files_beside else ""
    theme = page_file("theme.js")
    script = "\n".join(["(() => {", *map(page_file, scripts), "})();"])
    return Template(page_file("page.html")).substitute(
        policy=policy([theme, script, *([text] if text else [])], served, files_beside),
        title=escape(title),
        style="\n".join(map(page_file, styles)),
        theme=theme,
        nav=nav,
        main=main,
        library=f'<script type="text/plain" id="plotly"{source}>{packed_text(text)}</script>'
        if plotly
        else "",
        script=script,
    )


def library() -> str:
    """The library that draws figures."""
    from plotly.offline import get_plotlyjs

    # Browsers hash a script as they have parsed it, where every line ends in one character.
    return get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")


def policy(scripts: Sequence[str], served: bool = False, files_beside: bool = False) -> str:
    """A Content-Security-Policy under which these scripts run, and no others but files beside the page.

    Styles may be inline: heights and shades of tokens are attributes, and plotly brings sheets of its own.
    They can load nothing either.
    """
    parts = {
        "default-src": "'none'",
        "script-src": " ".join([*map(_hashed, scripts), *(["'self'"] if files_beside else [])]),
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


def packed_text(text: str) -> str:
    """A text as pages carry large ones: its UTF-8 by zlib, in base64; `unpacked` of data.js reads it."""
    return b64encode(zlib.compress(text.encode(), 9)).decode() if text else ""


def shard_element(name: str, value: Any) -> str:
    """A piece of data in the page, packed, which data.js reads when it is asked for it by name."""
    return f'<script type="text/plain" data-shard="{escape(name)}">{packed_text(script_json(value))}</script>'


def shard_script(name: str, value: Any) -> str:
    """A piece of data as a script in a file of its own, which gives data.js the JSON as a text.

    >>> shard_script("a", ["it's", "</script>"])
    'shard("a", \'["it\\\\\'s","\\\\\\\\u003c/script>"]\');\\n'
    """
    text = script_json(value).replace("\\", "\\\\").replace("'", "\\'")
    for separator in "\u2028\u2029":  # which end a line for some readers of scripts
        text = text.replace(separator, f"\\u{ord(separator):x}")
    return f"shard({json.dumps(name)}, '{text}');\n"
