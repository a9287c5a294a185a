"""The header of a llama2.c `.bin` file: its version and sizes, which tell the layout of the tensors."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

from bilinear_lm.checkpoints.folder import Shape
from bilinear_lm.errors import InputError

_MAGIC = struct.pack("<I", 0x616B3432)
HEADER_BYTES = {0: 28, 1: 256}
"""Bytes of the header, by version."""


@dataclass(frozen=True)
class Llama2cHeader:
    """The sizes that a `.bin` file begins with."""

    version: int
    d_model: int
    d_mlp: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_vocab: int
    n_ctx: int
    tied: bool
    """Whether the unembedding is the embedding."""

    @property
    def d_head(self) -> int:
        """The width of one attention head."""
        return self.d_model // self.n_heads

    def layout(self) -> list[tuple[str, Shape]]:
        """Name, as in transformers, and shape of each tensor, in the order of the file."""
        d, hidden, d_kv = self.d_model, self.d_mlp, self.n_kv_heads * self.d_head
        embedding = ("model.embed_tokens.weight", (self.d_vocab, d))
        norm = ("model.norm.weight", (d,))
        attention_norm = self._layers("input_layernorm", (d,))
        attention = [
            *self._layers("self_attn.q_proj", (d, d)),
            *self._layers("self_attn.k_proj", (d_kv, d)),
            *self._layers("self_attn.v_proj", (d_kv, d)),
            *self._layers("self_attn.o_proj", (d, d)),
        ]
        mlp_norm = self._layers("post_attention_layernorm", (d,))
        mlp = [
            *self._layers("mlp.gate_proj", (hidden, d)),
            *self._layers("mlp.down_proj", (d, hidden)),
            *self._layers("mlp.up_proj", (hidden, d)),
        ]
        head = [] if self.tied else [("lm_head.weight", (self.d_vocab, d))]
        if self.version == 1:
            return [*attention_norm, *mlp_norm, norm, embedding, *attention, *mlp, *head]
        rotation = [(name, (self.n_ctx, self.d_head // 2)) for name in ("cos", "sin")]
        return [embedding, *attention_norm, *attention, *mlp_norm, *mlp, norm, *rotation, *head]

    def _layers(self, name: str, shape: Shape) -> list[tuple[str, Shape]]:
        return [(f"model.layers.{i}.{name}.weight", shape) for i in range(self.n_layers)]

    def n_parameters(self) -> int:
        """The number of weights, without version 0's tables of rotations."""
        return sum(math.prod(shape) for name, shape in self.layout() if name not in ("cos", "sin"))


def read_header(path: Path) -> Llama2cHeader:
    """The header of a `.bin` file, checked against the length of the file."""
    with path.open("rb") as file:
        start = file.read(256)
    version = struct.unpack_from("<i", start, 4)[0] if start[:4] == _MAGIC and len(start) >= 8 else 0
    if version not in HEADER_BYTES:
        raise InputError(
            f"{path}: llama2.c version {version}; expected version 0 or 1, whose weights are float32: "
            "export the model again with --version 1"
        )
    if len(start) < HEADER_BYTES[version]:
        raise InputError(f"{path}: {len(start)} bytes, too short for a llama2.c header")
    d_model, d_mlp, n_layers, n_heads, n_kv_heads, d_vocab, n_ctx = struct.unpack_from(
        "<7i", start, 8 if version else 0
    )
    # Version 0 tells an unembedding of its own by a negative vocabulary.
    tied = bool(start[36]) if version else d_vocab > 0
    header = Llama2cHeader(version, d_model, d_mlp, n_layers, n_heads, n_kv_heads, abs(d_vocab), n_ctx, tied)
    _require_plausible(header, path)
    return header


def _require_plausible(header: Llama2cHeader, path: Path) -> None:
    sizes = (header.d_model, header.d_mlp, header.n_layers, header.n_heads, header.n_kv_heads, header.n_ctx)
    plausible = (
        min(*sizes, header.d_vocab) > 0
        and header.n_layers < 10_000  # before the layout of a file of another kind is laid out
        and header.d_model % (2 * header.n_heads) == 0
        and header.n_heads % header.n_kv_heads == 0
    )
    if not plausible:
        raise InputError(f"{path}: not a llama2.c model, its header would be {header}")
    floats = sum(math.prod(shape) for _, shape in header.layout())
    expected, got = HEADER_BYTES[header.version] + 4 * floats, path.stat().st_size
    if got != expected:
        raise InputError(
            f"{path}: {got} bytes, expected {expected} for {header}; the file is truncated, damaged or of "
            "another kind"
        )
