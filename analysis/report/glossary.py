"""The glossary of the page: each word is explained where it stands, and all of them at the end.

In the page's own HTML `<dfn>word</dfn>` marks a word of `web/glossary.html`; data-term names the entry where
it is called otherwise there. `with_terms` makes a button of each that opens the entry beside it, without
scripts (the popover of HTML). Whatever comes from a model or a text is escaped before: it marks nothing.
"""

from __future__ import annotations

import re
from functools import cache

from analysis.report.document import page_file

_ENTRY = re.compile(r'<dt data-term="([a-z-]+)">(.*?)</dt>\s*<dd>(.*?)</dd>', re.DOTALL)
_MARKED = re.compile(r'<dfn(?: data-term="([a-z-]+)")?>([^<]*)</dfn>')


@cache
def entries() -> dict[str, tuple[str, str]]:
    """The word and its explanation, by the name of the entry, in the order of the file."""
    found = _ENTRY.findall(page_file("glossary.html"))
    return {name: (word, text.strip()) for name, word, text in found}


def with_terms(html: str) -> str:
    """The HTML with a button for each marked word, and at its end the explanations that they open."""
    used = dict.fromkeys(_name(match) for match in _MARKED.finditer(html))
    opened = "".join(
        f'<div class="definition" id="term-{name}" popover><p><b>{entries()[name][0]}</b></p>'
        f"<p>{entries()[name][1]}</p></div>"
        for name in used
    )
    return _MARKED.sub(_button, html) + opened


def glossary() -> str:
    """All entries as a list."""
    items = "".join(f"<dt>{word}</dt><dd>{text}</dd>" for word, text in entries().values())
    return f'<dl class="guide">{items}</dl>'


def _button(match: re.Match[str]) -> str:
    return f'<button type="button" class="term" popovertarget="term-{_name(match)}">{match[2]}</button>'


def _name(match: re.Match[str]) -> str:
    """The entry that a marked word stands for; KeyError where the glossary has none."""
    name = match[1] or match[2].lower().replace(" ", "-")
    if name not in entries():
        raise KeyError(f"glossary.html has no entry {name!r}")
    return name
