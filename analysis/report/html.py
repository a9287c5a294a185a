"""The frame of a page: one HTML document with its styles and scripts inside.

Its Content-Security-Policy lets a browser run these scripts alone, by their SHA-256, and load nothing: a
script that got into the page in any other way, by a token or a text, does not run. A page with files beside
it may load scripts from its own origin besides.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from analysis.text.tokens import OutputDirection
from analysis.text.vocabulary import Vocabulary, visible

BASE_SCRIPTS = ("data.js", "features/data.js", "parts.js")
"""Scripts that those of features and graphs build on."""


def document(
    title: str,
    nav: str,
    main: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    plotly: bool = True,
    files_beside: bool = False,
) -> str:
    """A whole page of HTML parts, and names of files for their style and behaviour.

    `plotly`: whether figures are drawn on it; the library is most of a page, so that it stands there as text,
    which becomes a script where the first figure is drawn. With `files_beside` it is a file in the folder
    `data`, where the page may read more.
    """
    text = library() if plotly and not files_beside else ""
    theme = page_file("theme.js")
    script = "\n".join(["(() => {", *map(page_file, scripts), "})();"])
    source = ' data-source="data/plotly.js"' if files_beside else ""
    return Template(page_file("page.html")).substitute(
        policy=_policy([theme, script, *([text] if text else [])], files_beside),
        title=escape(title),
        style="\n".join(map(page_file, styles)),
        theme=theme,
        nav=nav,
        main=main,
        library=f'<script type="text/plain" id="plotly"{source}>{text}</script>' if plotly else "",
        script=script,
    )


def library() -> str:
    """The library that draws figures."""
    from plotly.offline import get_plotlyjs

    # Browsers hash a script as they have parsed it, where every line ends in one character.
    return get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")


def _policy(scripts: Sequence[str], files_beside: bool) -> str:
    """A Content-Security-Policy under which these scripts run, and no others but files beside the page.

    Styles may be inline: heights and shades of tokens are attributes, and plotly brings sheets of its own.
    They can load nothing either.
    """
    parts = {
        "default-src": "'none'",
        "script-src": " ".join([*map(_hashed, scripts), *(["'self'"] if files_beside else [])]),
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


def shard_element(name: str, value: Any) -> str:
    """A piece of data in the page, which data.js reads when it is asked for it by name."""
    return f'<script type="application/json" data-shard="{escape(name)}">{script_json(value)}</script>'


def shard_script(name: str, value: Any) -> str:
    """A piece of data as a script in a file of its own, which gives data.js the JSON as a text.

    >>> shard_script("a", ["it's", "</script>"])
    'shard("a", \'["it\\\\\'s","\\\\\\\\u003c/script>"]\');\\n'
    """
    text = script_json(value).replace("\\", "\\\\").replace("'", "\\'")
    for separator in "\u2028\u2029":  # which end a line for some readers of scripts
        text = text.replace(separator, f"\\u{ord(separator):x}")
    return f"shard({json.dumps(name)}, '{text}');\n"


def rounded(value: float, digits: int) -> int | float:
    """A number with so many significant digits; an integer where it is whole, which JSON writes shorter.

    >>> rounded(0.123456, 3), rounded(2.0, 3)
    (0.123, 2)
    """
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() else short


FAINT = 0.02
"""Values below this part of the largest are left uncoloured."""


def numbers(pairs: Iterable[tuple[str, str]]) -> str:
    """Named numbers in a row."""
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="numbers">{cells}</dl>'


def signed(value: float) -> str:
    """Three digits with a sign."""
    return f"{value:+.3g}".replace("-", "−")


def chips(labels: Iterable[str], scores: Iterable[float]) -> str:
    """Tokens in a row, each with its score in the title."""
    return " ".join(
        f'<span class="token" title="{signed(score)}">{escape(label)}</span>'
        for label, score in zip(labels, scores, strict=True)
    )


def coloured(texts: list[str], values: list[float], titles: list[str]) -> str:
    """Tokens one after the other as running text, coloured by sign and size of their values."""
    largest = max(map(abs, values), default=0.0) or 1.0
    spans = []
    for text, value, title in zip(texts, values, titles, strict=True):
        part = abs(value) / largest
        color = f' class="{"p" if value > 0 else "n"}" style="--a:{part:.2f}"' if part >= FAINT else ""
        shown = escape(visible(text, keep=" ")).replace("⏎", "⏎\n")
        spans.append(f'<span{color} title="{escape(title)}">{shown}</span>')
    return f'<p class="text">{"".join(spans)}</p>'


def direction_title(direction: OutputDirection, vocabulary: Vocabulary) -> str:
    """A direction in words, as HTML."""
    token, *against = (_code(vocabulary.label(index)) for index in (direction.token, *direction.against))
    return f"{token} against {', '.join(against) or 'all tokens'}"


def _code(label: str) -> str:
    return f"<code>{escape(label)}</code>"
