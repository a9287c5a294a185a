"""A model's activations on a prompt, in the parts that analyses add up: `measure`.

Attention patterns and scales of norms are measured numbers. Given these, everything else in a bilinear model
is a polynomial of the embeddings: heads are linear, MLPs quadratic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.attention.layer import attention_layer
from analysis.attention.pattern import MeasuredAttention, attend
from analysis.paths.components import Component, Components
from analysis.text.windows import require_windows
from bilinear_lm.arguments import checked
from bilinear_lm.checks import require_index
from bilinear_lm.errors import InputError
from bilinear_lm.families import (
    attention_norm,
    decoder,
    family_of,
    mlp_norm,
    plain,
    require_unhooked,
    residual_factor,
)
from bilinear_lm.norms import IDENTITY_EPS, norm_epsilon, norm_factor, norm_gradient, norm_scale
from bilinear_lm.numerics.shared_keys import keys_of_each_head
from bilinear_lm.shown import shown


@shown
@dataclass(frozen=True)
class Passage:
    """The map between the output of attention or an MLP and the residual stream: x ↦ x · factor / scale.

    It is a norm (Gemma 2, OLMo 2), a multiplier (Granite), or both.
    """

    x: Float[Tensor, "pos d_model"]
    """The output as the module gives it."""
    factor: Float[Tensor, " d_model"]
    scale: Float[Tensor, " pos"]
    """The norm's divisor; 1 without a norm."""
    is_norm: bool
    """Whether the scale changes with x."""

    def written(self, vectors: Float[Tensor, "*axes d_model"], position: int | slice) -> Tensor:
        """Parts of x as parts of what is added to the stream, with the scale held.

        The map is its own transpose: it makes readings of the stream readings of x too.
        """
        return vectors * self.factor / self.scale[position].unsqueeze(-1)

    def gradient(self, w: Float[Tensor, "*axes d_model"], position: int | slice) -> Tensor:
        """The derivative by x of a reading w of what is added to the stream."""
        read = self.written(w, position)
        return norm_gradient(read, self.x[position], self.scale[position]) if self.is_norm else read


@shown
@dataclass(frozen=True)
class MeasuredLayer:
    """One block on a prompt."""

    resid_pre: Float[Tensor, "pos d_model"]
    ln1_scale: Float[Tensor, " pos"]
    """The divisor of the norm before the attention: the root mean square, or 1 where it is the identity."""
    attention: MeasuredAttention
    resid_mid: Float[Tensor, "pos d_model"]
    ln2_scale: Float[Tensor, " pos"]
    """The divisor of the norm before the MLP."""
    mlp_out: Float[Tensor, "pos d_model"]
    """The vector that the MLP adds to the stream."""
    attention_passage: Passage | None = None
    """The map between the attention and the stream; None: nothing lies there."""
    mlp_passage: Passage | None = None

    @property
    def pattern(self) -> Float[Tensor, "n_heads pos pos"]:
        """The attention pattern, rows the queries."""
        return self.attention.pattern

    @property
    def heads(self) -> Float[Tensor, "n_heads pos d_model"]:
        """The vectors that each head adds to the stream, without the value bias."""
        heads, passage = self.attention.heads, self.attention_passage
        return heads if passage is None else passage.written(heads, slice(None))

    def heads_at(self, position: int) -> Float[Tensor, "n_heads d_model"]:
        """The vectors that each head adds to the stream at one position."""
        heads, passage = self.attention.heads_at(position), self.attention_passage
        return heads if passage is None else passage.written(heads, position)

    @property
    def attention_bias(self) -> Float[Tensor, "pos d_model"] | None:
        """The vectors that biases of the attention add to the stream; None: nothing."""
        if self.attention.bias is None:
            return None
        bias, passage = self.attention.bias.expand_as(self.resid_pre), self.attention_passage
        return bias if passage is None else passage.written(bias, slice(None))


@shown
@dataclass(frozen=True)
class Measured:
    """A model on one prompt; made by `measure`."""

    ids: Int[Tensor, " pos"]
    layers: tuple[MeasuredLayer, ...]
    resid_final: Float[Tensor, "pos d_model"]
    final_scale: Float[Tensor, " pos"]
    """The divisor of the norm before the unembedding."""
    logits: Float[Tensor, "pos d_vocab"]

    def before_attention(self, layer: int) -> Components:
        """The parts of the residual stream that the attention of a layer reads (before its norm)."""
        require_index(layer, len(self.layers), "layer")
        return self._components(layer, with_attention=False)

    def before_mlp(self, layer: int) -> Components:
        """The parts of the residual stream that the MLP of a layer reads (before its norm)."""
        require_index(layer, len(self.layers), "layer")
        return self._components(layer, with_attention=True)

    def before_unembedding(self) -> Components:
        """The parts of the residual stream that logits are read from (before the last norm)."""
        return self._components(len(self.layers), with_attention=False)

    def _components(self, n_whole: int, with_attention: bool) -> Components:
        """The embedding, all that the first `n_whole` blocks wrote, and the attention of the next one."""
        names, values = [Component("embedding")], [self.layers[0].resid_pre.unsqueeze(0)]
        for number, layer in enumerate(self.layers[: n_whole + with_attention]):
            heads, bias = layer.heads, layer.attention_bias
            names += [Component("head", number, head) for head in range(len(heads))]
            values.append(heads)
            if bias is not None:
                names.append(Component("bias", number))
                values.append(bias.unsqueeze(0))
            if number < n_whole:
                names.append(Component("mlp", number))
                values.append(layer.mlp_out.unsqueeze(0))
        return Components(tuple(names), torch.cat(values))


@checked
def measure(model: nn.Module, ids: Sequence[int] | Int[Tensor, "*one pos"]) -> Measured:
    """Runs a transformers model on one prompt and records its parts.

    Parts are on the model's device, in float32 at least. They sum to what the model computes, to the rounding
    of its own precision: about 1e-6 in float32. The model is not changed. A float64 model is computed in
    float64 throughout while it is measured, also its norms and softmax, which transformers rounds to float32;
    there sums hold to 1e-12. MLPs may have any gate.

    Where a block normalises or scales what attention and MLP put out before it adds it to the stream (Gemma
    2, OLMo 2, Granite), the divisors of these norms are measured like the others.

    Raises InputError for a prompt that the context does not hold; for a hooked model and one in training
    mode; and where attention is not what the weights give.

    >>> measured = measure(model, tokenizer.encode("Once upon a time"))  # doctest: +SKIP
    >>> measured.layers[0].pattern.shape, measured.before_mlp(0).values.shape  # doctest: +SKIP
    (torch.Size([6, 4, 4]), torch.Size([7, 4, 192]))
    """
    _require_measurable(model)
    prompt = _prompt(model, ids)
    records: list[dict[str, Any]] = [{} for _ in range(len(decoder(model).layers) + 1)]
    with torch.no_grad(), keys_of_each_head(prompt.device), _recording(model, records):
        logits = model(input_ids=prompt.unsqueeze(0), use_cache=False).logits[0]
    *blocks, last = records
    return Measured(
        ids=prompt,
        layers=tuple(MeasuredLayer(**record) for record in blocks),
        resid_final=last["resid_final"],
        final_scale=last["final_scale"],
        logits=_promoted(logits),
    )


def _require_measurable(model: nn.Module) -> None:
    family_of(model)
    require_unhooked(model, "to measure")
    if model.training:
        raise InputError("the model to measure is in training mode; call model.eval() first")


def _prompt(model: Any, ids: Sequence[int] | Tensor) -> Tensor:
    """The token ids on the model's device, checked."""
    prompt = torch.as_tensor(ids, device=next(model.parameters()).device)
    if prompt.ndim == 0 or prompt.numel() != prompt.shape[-1]:
        raise InputError(f"prompts of shape {list(prompt.shape)}; expected one, [pos] or [1, pos]")
    if prompt.numel() and (prompt.is_floating_point() or prompt.is_complex() or prompt.dtype == torch.bool):
        raise InputError(f"a prompt of {prompt.dtype}; expected token ids, which are whole numbers")
    prompt = prompt.flatten()
    if not len(prompt):
        raise InputError("an empty prompt; expected one token id or more")
    require_windows(model, [prompt.tolist()])
    return prompt


@contextmanager
def _recording(model: Any, records: list[dict[str, Any]]) -> Iterator[None]:
    """While open, the model notes the parts of each block, and of the last norm, in `records`."""
    *blocks, last = records
    handles = [decoder(model).norm.register_forward_hook(_of_norm(last, "resid_final", "final_scale"))]
    for number, (block, record) in enumerate(zip(decoder(model).layers, blocks, strict=True)):
        names = family_of(model)
        factor = residual_factor(model, number)
        handles += [
            _before(attention_norm(model, number), block, record, "resid_pre", "ln1_scale"),
            block.self_attn.register_forward_hook(_of_attention(model, number, record), with_kwargs=True),
            _before(mlp_norm(model, number), block.mlp, record, "resid_mid", "ln2_scale"),
        ]
        for module, norm, name in (
            (block.self_attn, names.attention_norm_after, "attention"),
            (block.mlp, names.mlp_norm_after, "mlp"),
        ):
            behind = None if norm is None else getattr(plain(block), norm)
            handles += _behind(module, behind, factor, record, name)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _of_norm(record: dict[str, Any], resid: str, scale: str) -> Callable[..., Tensor | None]:
    """Notes what a norm reads and what it divides by. In float64 it is computed here."""

    def hook(norm: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        x = _promoted(args[0])
        record[resid], divisor = x[0], norm_scale(x, norm_epsilon(norm))
        record[scale] = divisor[0]
        return x / divisor.unsqueeze(-1) * norm_factor(norm) if output.dtype == torch.float64 else None

    return hook


def _of_attention(model: nn.Module, number: int, record: dict[str, Any]) -> Callable[..., Any]:
    """Computes the attention of a block from its weights, and compares. In float64 it is put in its place."""

    def hook(attention: Any, args: Any, kwargs: dict[str, Any], output: tuple[Any, ...]) -> Any:
        layer = attention_layer(model, number, len(record["resid_pre"]))
        # The model's own angles, which it rounds to float32.
        cos, sin = (_promoted(part)[0, :, : len(layer.frequencies)] for part in kwargs["position_embeddings"])
        x = record["resid_pre"] / record["ln1_scale"].unsqueeze(-1)
        measured = record["attention"] = attend(layer, x, (cos, sin))
        written, theirs = measured.out, output[0]
        precision = torch.float32 if theirs.dtype == torch.float64 else theirs.dtype
        off = float((written - theirs[0]).abs().max() / written.abs().max())
        if off > torch.finfo(precision).eps ** 0.5:
            raise InputError(
                f"the attention of layer {number} is off by {off:.1e} of its size from what its weights "
                "give; expected causal softmax attention, with nothing hooked into it"
            )
        return (written.unsqueeze(0), *output[1:]) if theirs.dtype == torch.float64 else None

    return hook


def _before(norm: Any | None, reader: Any, record: dict[str, Any], resid: str, scale: str) -> Any:
    """Notes what is read through a norm; without one, what the reader itself reads, undivided."""
    if norm is not None:
        return norm.register_forward_hook(_of_norm(record, resid, scale))

    def hook(_: Any, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        x = _promoted(args[0] if args else kwargs["hidden_states"])[0]
        record[resid], record[scale] = x, x.new_ones(len(x))

    return reader.register_forward_pre_hook(hook, with_kwargs=True)


def _behind(module: Any, norm: Any | None, factor: float, record: dict[str, Any], name: str) -> list[Any]:
    """Notes what a module puts out, what lies behind it, and for the MLP what is added to the stream."""
    key = f"{name}_passage"

    def of_output(_: Any, args: Any, output: Any) -> None:
        x = _promoted(output[0] if isinstance(output, tuple) else output)[0]
        if norm is None and factor != 1:
            record[key] = Passage(x, x.new_full(x.shape[-1:], factor), x.new_ones(len(x)), is_norm=False)
        if norm is None and name == "mlp":
            record["mlp_out"] = x * factor if factor != 1 else x

    def of_norm(norm: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        x, epsilon = _promoted(args[0]), norm_epsilon(norm)
        scale, gamma = norm_scale(x, epsilon), norm_factor(norm)
        is_norm = epsilon < IDENTITY_EPS
        record[key] = Passage(x[0], gamma.to(x) * factor, scale[0], is_norm)
        exact = x / scale.unsqueeze(-1) * gamma
        if name == "mlp":
            record["mlp_out"] = (exact if output.dtype == torch.float64 else _promoted(output))[0] * factor
        return exact if output.dtype == torch.float64 else None

    handles = [module.register_forward_hook(of_output)]
    return handles if norm is None else [*handles, norm.register_forward_hook(of_norm)]


def _promoted(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
