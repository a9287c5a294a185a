"""Kinds of jobs that can be asked for, and their arguments, which are checked before they are queued.

A job's arguments are a JSON object. Whatever has another form is refused in one line, so that the worker gets
what it can read; what depends on the model (how long a prompt may be, which features exist) it checks itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from bilinear_lm.errors import InputError

LONGEST_PROMPT = 20_000
"""Characters of a prompt that are taken in; how many tokens fit is the model's to say."""

MOST_NODES = 1000
MOST_CHANGES = 200
LONGEST_NAME = 1000
MOST_TOKENS = 400
MOST_SAMPLES = 8

_FEATURE = re.compile(r"\d{1,4}-(mlp-in|mlp-out|resid-mid)-\d{1,9}")

Check = Callable[[str, Any], Any]


def checked_arguments(kind: Any, arguments: Any) -> dict[str, Any]:
    """The arguments of a job, with what was left out at its default; InputError for any that do not fit.

    >>> checked_arguments("tokens", {"prompt": "Her mom"})
    {'prompt': 'Her mom', 'k': 12}
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"kind {kind!r} of a job; expected one of {', '.join(KINDS)}")
    if not isinstance(arguments, dict):
        raise InputError(f"arguments of {kind}: got a {type(arguments).__name__}; expected an object")
    fields = KINDS[kind]
    if unknown := [name for name in arguments if name not in fields]:
        raise InputError(f"{kind}: unknown {', '.join(map(repr, unknown[:5]))}; expected {', '.join(fields)}")
    return {name: check(name, arguments.get(name, default)) for name, (check, default) in fields.items()}


def _prompt(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name}: got a {type(value).__name__}; expected a text")
    if not value.strip():
        raise InputError("the prompt is empty; expected a few words")
    if len(value) > LONGEST_PROMPT:
        raise InputError(f"a prompt of {len(value):,} characters; expected at most {LONGEST_PROMPT:,}")
    return _unicode(name, value)


def _unicode(name: str, value: str) -> str:
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise InputError(f"{name}: half of a character; expected a text in UTF-8")
    return value


def _whole(least: int, most: int) -> Check:
    def check(name: str, value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise InputError(f"{name}={value!r:.40}; expected a whole number from {least} to {most}")
        return value

    return check


def _number(least: float, most: float) -> Check:
    def check(name: str, value: Any) -> float:
        if type(value) not in (int, float) or not (math.isfinite(value) and least <= value <= most):
            raise InputError(f"{name}={value!r:.40}; expected a number from {least:g} to {most:g}")
        return float(value)

    return check


def _feature(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _FEATURE.fullmatch(value):
        raise InputError(
            f"{name} {value!r:.60}; expected LAYER-POINT-NUMBER of a dictionary, such as 2-mlp-out-17"
        )
    return value


def _target(name: str, value: Any) -> int | str | None:
    """A token by number, a logit by text, a feature by name; None: the likeliest token."""
    if value is None:
        return None
    if type(value) is int and 0 <= value < 10**9:
        return value
    if isinstance(value, str) and 0 < len(value) <= 500:
        return _unicode(name, value)
    raise InputError(f'{name} {value!r:.60}; expected a token\'s number, "A", "A - B, C" or a feature')


def _some_target(name: str, value: Any) -> int | str:
    target = _target(name, value)
    if target is None:
        raise InputError(f"no {name}; expected a token or a feature, for there is no prompt")
    return target


_FACTOR = _number(-1e6, 1e6)


def _changes(name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not 0 < len(value) <= MOST_CHANGES:
        raise InputError(f"{name}: expected a list of 1 to {MOST_CHANGES} changes of nodes")
    return [_change(each) for each in value]


def _change(change: Any) -> dict[str, Any]:
    if not isinstance(change, dict) or not isinstance(change.get("node"), str) or len(change["node"]) > 500:
        raise InputError("a change: expected an object with a node, by its id in the graph")
    given = change.keys() - {"node", "name"}
    if len(given) != 1 or not given <= _HOW.keys():
        raise InputError(f"a change of {change['node']!r}; expected one of {', '.join(_HOW)} beside the node")
    (how,) = given
    named = {"name": _name(change["name"])} if "name" in change else {}
    return {"node": _unicode("node", change["node"]), **named, how: _HOW[how](how, change[how])}


def _name(value: Any) -> str:
    """The name under which the page shows a change: it says nothing to the worker."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME:
        raise InputError(
            f"name {value!r:.60} of a change; expected a text of at most {LONGEST_NAME} characters"
        )
    return _unicode("name", value)


_HOW: Mapping[str, Check] = {"factor": _FACTOR, "value": _FACTOR, "patch": _prompt}
"""How a node is changed: times a factor, to a value, or to its value on another prompt."""

_GRAPH: dict[str, tuple[Check, Any]] = {
    "prompt": (_prompt, ""),
    "target": (_target, None),
    "max_nodes": (_whole(2, MOST_NODES), 120),
}

_TEXT: dict[str, tuple[Check, Any]] = {
    "max_tokens": (_whole(0, MOST_TOKENS), 40),
    "temperature": (_number(0.0, 100.0), 0.0),
    "seed": (_whole(0, 2**63 - 1), 0),
}

KINDS: Mapping[str, Mapping[str, tuple[Check, Any]]] = {
    "tokens": {"prompt": (_prompt, ""), "k": (_whole(1, 50), 12)},
    "graph": _GRAPH,
    "weights": {"target": (_some_target, None), "max_nodes": (_whole(2, MOST_NODES), 120)},
    "intervene": {**_GRAPH, "changes": (_changes, []), **_TEXT},
    "steer": {
        "prompt": (_prompt, ""),
        "feature": (_feature, None),
        "amount": (_FACTOR, 5.0),
        **_TEXT,
    },
    "sample": {"prompt": (_prompt, ""), "count": (_whole(1, MOST_SAMPLES), 1), **_TEXT},
}
"""By kind of job, its arguments with the check and the default of each."""
