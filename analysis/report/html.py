"""Parts of pages as HTML; whatever comes from a model, a tokenizer or a text is escaped in them."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from analysis.text.tokens import OutputDirection
from analysis.text.vocabulary import Vocabulary, visible


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
