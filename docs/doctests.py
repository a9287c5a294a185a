"""A griffe extension: examples of docstrings become blocks of code on the site's pages."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"(?:^>>> .*\n?)(?:^(?!\s*$).*\n?)*", re.MULTILINE)
_SKIPPED = re.compile(r"\s*# doctest: \+\w+")


def fenced(text: str) -> str:
    """A docstring whose examples, up to the next empty line, are fenced.

    >>> fenced(">>> 1 + 1\\n2")
    '```pycon\\n>>> 1 + 1\\n2\\n```\\n'
    """
    return _EXAMPLE.sub(lambda match: f"```pycon\n{_SKIPPED.sub('', match[0]).rstrip()}\n```\n", text)


class Examples(griffe.Extension):
    """Fences the examples of every docstring that is loaded."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Fences the examples of one."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
