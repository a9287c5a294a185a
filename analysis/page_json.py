"""Data as JSON that can stand in a script element of a page."""

from __future__ import annotations

import json
from typing import Any


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
