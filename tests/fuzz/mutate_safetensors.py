"""Ways to spoil a safetensors file. Each takes a path and a random generator."""

import json
import struct

import numpy as np
from mutate_bytes import rewrite
from mutate_json import DEEP


def read_safetensors(data):
    """Header and tensors' bytes of a file."""
    (size,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def write_safetensors(header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def header_length(change):
    return rewrite(
        lambda data, random: struct.pack("<Q", change(struct.unpack_from("<Q", data)[0])) + data[8:]
    )


def header_text(change):
    def spoiled(data, random):
        header, body = read_safetensors(data)
        text = change(json.dumps(header))
        return write_safetensors(text if isinstance(text, bytes) else text.encode(), body)

    return rewrite(spoiled)


def tensors(change):
    """A mutation of the tensors of a file: `change` gets name → (dtype, shape, bytes) and the generator."""

    def spoiled(data, random):
        header, body = read_safetensors(data)
        made = {
            name: (entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])])
            for name, entry in header.items()
            if name != "__metadata__"
        }
        change(made, random)
        rewritten, parts, at = {"__metadata__": {"format": "pt"}}, [], 0
        for name, (dtype, shape, part) in made.items():
            rewritten[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(part)]}
            parts.append(part)
            at += len(part)
        return write_safetensors(rewritten, b"".join(parts))

    return rewrite(spoiled)


def one_tensor(change):
    """A mutation of one tensor, drawn at random."""

    def changed(made, random):
        name = random.choice(sorted(made))
        made[name] = change(*made[name])

    return tensors(changed)


def poisoned(value):
    """One number of one tensor is `value`."""

    def change(dtype, shape, part):
        numbers = np.frombuffer(part, "<f4").copy()
        numbers[len(numbers) // 2] = value
        return dtype, shape, numbers.tobytes()

    return one_tensor(change)


def cast(dtype, to, value=None):
    """All tensors in another type; `value` is put into the first."""

    def changed(made, random):
        for index, (name, (_, shape, part)) in enumerate(made.items()):
            numbers = np.frombuffer(part, "<f4").astype(to)
            if value is not None and index == 0:
                numbers[0] = value
            made[name] = dtype, shape, numbers.tobytes()

    return tensors(changed)


def _rename(made, random):
    name = random.choice(sorted(made))
    made[name + "_"] = made.pop(name)


def _remove(made, random):
    del made[random.choice(sorted(made))]


def _add(made, random):
    made["extra.weight"] = "F32", [2, 2], bytes(16)


def _swap(made, random):
    """Two tensors of the same shape change places, or the first matrix is turned."""
    first, *rest = sorted(made)
    for other in rest:
        if made[other][1] == made[first][1]:
            made[first], made[other] = made[other], made[first]
            return


def _half(dtype, shape, part):
    rows = shape[0] // 2
    return dtype, [rows, *shape[1:]], part[: len(part) // shape[0] * rows]


def _offsets(change):
    def spoiled(data, random):
        header, body = read_safetensors(data)
        name = random.choice([name for name in header if name != "__metadata__"])
        header[name] |= change(header[name])
        return write_safetensors(header, body)

    return rewrite(spoiled)


SAFETENSORS = {
    "header-length-zero": header_length(lambda size: 0),
    "header-length-short": header_length(lambda size: size - 1),
    "header-length-long": header_length(lambda size: size + 10**6),
    "header-length-2-to-the-63": header_length(lambda size: 2**63),
    "header-not-json": header_text(lambda text: b"\xff" * len(text)),
    "header-deep": header_text(lambda text: "[" * DEEP + "]" * DEEP),
    "header-list": header_text(lambda text: "[]"),
    "header-empty": header_text(lambda text: "{}"),
    "header-twice-a-name": header_text(lambda text: text[:-1] + ", " + text[1:]),
    "offsets-beyond-the-end": _offsets(lambda entry: {"data_offsets": [0, 10**9]}),
    "offsets-backwards": _offsets(lambda entry: {"data_offsets": entry["data_offsets"][::-1]}),
    "offsets-overlap": _offsets(lambda entry: {"data_offsets": [0, entry["data_offsets"][1]]}),
    "shape-huge": _offsets(lambda entry: {"shape": [2**40, 2**40]}),
    "shape-negative": _offsets(lambda entry: {"shape": [-1]}),
    "shape-text": _offsets(lambda entry: {"shape": "many"}),
    "dtype-unknown": _offsets(lambda entry: {"dtype": "F99"}),
    "dtype-int-of-the-same-size": _offsets(lambda entry: {"dtype": "I32"}),
    "dtype-float8": cast("F8_E4M3", np.int8),
    "dtype-bool": cast("BOOL", bool),
    "dtype-int64": cast("I64", np.int64),
    "dtype-uint8": cast("U8", np.uint8),
    "dtype-complex": cast("C64", np.complex64, 1 + 2j),
    "dtype-float16": cast("F16", np.float16),
    "dtype-float64": cast("F64", np.float64),
    "dtype-float64-1e300": cast("F64", np.float64, 1e300),
    "value-NaN": poisoned(np.nan),
    "value-infinite": poisoned(np.inf),
    "tensor-missing": tensors(_remove),
    "tensor-extra": tensors(_add),
    "tensor-renamed": tensors(_rename),
    "tensors-swapped": tensors(_swap),
    "tensor-turned": one_tensor(lambda dtype, shape, part: (dtype, shape[::-1], part)),
    "tensor-flat": one_tensor(lambda dtype, shape, part: (dtype, [len(part) // 4], part)),
    "tensor-with-an-axis-more": one_tensor(lambda dtype, shape, part: (dtype, [*shape, 1], part)),
    "tensor-of-size-zero": one_tensor(lambda dtype, shape, part: (dtype, [0, *shape[1:]], b"")),
    "tensor-a-number": one_tensor(lambda dtype, shape, part: (dtype, [], part[:4])),
    "tensor-half": one_tensor(_half),
    "no-tensors": tensors(lambda made, random: made.clear()),
}
