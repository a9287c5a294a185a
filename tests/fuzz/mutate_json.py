"""Ways to spoil a JSON file. Each takes a path and a random generator."""

import json

from mutate_bytes import rewrite

DEEP = 100_000
"""Brackets inside one another, which no recursive reader survives."""

RAW = "\x00raw\x00"
"""Stands in a JSON value for text that is no Python value, and is put in when it is written."""


def with_raw(value, raw):
    """JSON text in which `raw` stands where the value has RAW."""
    return json.dumps(value).replace(json.dumps(RAW), raw)


RAW_VALUES = {
    "null": "null",
    "true": "true",
    "minus-one": "-1",
    "zero": "0",
    "half": "0.5",
    "billion": "1000000000",
    "two-to-the-64": str(2**64),
    "5000-digits": "7" * 5000,
    "1e999": "1e999",
    "minus-1e999": "-1e999",
    "NaN": "NaN",
    "tiny": "1e-320",
    "empty-text": '""',
    "text": '"many"',
    "markup": '"<script>alert(1)</script>\\u001b[31m\\n\\ud800"',
    "list": "[1, 2]",
    "object": '{"a": 1}',
    "deep-list": "[" * DEEP + "]" * DEEP,
    "deep-object": '{"a":' * DEEP + "1" + "}" * DEEP,
}


def put(keys, raw):
    """A mutation of a JSON file: `raw` in the place of the value at a path of keys."""

    def spoil(path, random):
        value = json.loads(path.read_text())
        parent = value
        for key in keys[:-1]:
            parent = parent[key]
        parent[keys[-1]] = RAW
        path.write_text(with_raw(value, raw))

    return spoil


def drop(keys):
    def spoil(path, random):
        value = json.loads(path.read_text())
        parent = value
        for key in keys[:-1]:
            parent = parent[key]
        del parent[keys[-1]]
        path.write_text(json.dumps(value))

    return spoil


def paths_of(value, keys=()):
    """The path of every value inside a JSON value, of long lists the first two alone."""
    if isinstance(value, dict):
        inside = list(value.items())
    else:
        inside = list(enumerate(value))[:2] if isinstance(value, list) else []
    for key, part in inside:
        yield (*keys, key)
        yield from paths_of(part, (*keys, key))


def anywhere(mutate):
    """A mutation of the value at a path that is drawn when the file is there; `mutate` makes it of keys."""

    def spoil(path, random):
        keys = random.choice(list(paths_of(json.loads(path.read_text()))))
        mutate(keys)(path, random)

    return spoil


def drawn_json(random, number):
    """A name and a mutation of a JSON file: a value somewhere is another, or is gone."""
    value, raw = random.choice(sorted(RAW_VALUES.items()))
    if number % 5 == 0:
        return f"{number}-missing", anywhere(drop)
    return f"{number}-{value}", anywhere(lambda keys: put(keys, raw))


def _encoded(encoding):
    return rewrite(lambda data, random: data.decode().encode(encoding))


def _doubled(data, random):
    """Every key of the outermost object a second time, with null."""
    value = json.loads(data)
    again = ", ".join(f"{json.dumps(key)}: null" for key in value)
    return (json.dumps(value)[:-1] + f", {again}}}").encode()


DOCUMENTS = {
    "not-json": rewrite(lambda data, random: b"layers: 2\n"),
    "list": rewrite(lambda data, random: b"[" + data + b"]"),
    "null": rewrite(lambda data, random: b"null"),
    "number": rewrite(lambda data, random: b"7" * 5000),
    "text": rewrite(lambda data, random: b'"text"'),
    "empty-object": rewrite(lambda data, random: b"{}"),
    "deep": rewrite(lambda data, random: b"[" * DEEP + b"]" * DEEP),
    "deep-and-open": rewrite(lambda data, random: b'{"a":' * DEEP),
    "trailing-comma": rewrite(lambda data, random: data.rstrip()[:-1] + b",}"),
    "duplicate-keys": rewrite(_doubled),
    "byte-order-mark": _encoded("utf-8-sig"),
    "utf-16": _encoded("utf-16"),
    "not-utf-8": rewrite(lambda data, random: data.replace(b'"', b'"\xff', 1)),
    "null-bytes": rewrite(lambda data, random: data.replace(b":", b":\x00", 1)),
}
