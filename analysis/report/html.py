"""The frame of a page: one HTML document with its styles and scripts inside.

Its Content-Security-Policy lets a browser run these scripts alone, by their SHA-256, and load nothing: a
script that got into the page in any other way, by a token or a text, does not run.
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

BASE_SCRIPTS = ("features/data.js", "parts.js")
"""Scripts that those of features and graphs build on."""


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
