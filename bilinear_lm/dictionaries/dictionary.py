"""Dictionaries: sparse autoencoders and transcoders, as encoder and decoder weights with an activation.

A dictionary writes an activation vector x as a sparse code over features, and the code as a vector again:

    pre = (x - b_dec) @ encoder + b_enc,    code = activation(pre),    x̂ = code @ decoder + b_dec.

Files of all formats become one, see `load_dictionary`; the sites that dictionaries belong to are read and
replaced by `bilinear_lm.sites`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from bilinear_lm.errors import InputError
from bilinear_lm.files import require_floating, require_representable
from bilinear_lm.shown import Words, shown
from bilinear_lm.sites import Site

Activation = Literal["topk", "relu", "jumprelu"]

Normalization = Literal["none", "constant_norm_rescale", "layer_norm"]

_LAYER_NORM_EPS = 1e-5
"""The number that SAELens adds to the standard deviation it divides by, not to the one it multiplies by."""


@shown
@dataclass(frozen=True)
class Dictionary:
    """Features of one site, or of the map from one site to another (a transcoder).

    The rows of `decoder` are the directions that features write; the columns of `encoder` those they read.
    A call reconstructs: `decode(encode(x))` plus the parts that bypass the code (`skip`, `passthrough`).

    >>> dictionary = Dictionary(torch.randn(8, 32), torch.randn(32, 8), activation="topk", k=4)
    >>> code = dictionary.encode(torch.randn(5, 8))
    >>> code.shape, int((code != 0).sum(-1).max()), dictionary.decode(code).shape
    (torch.Size([5, 32]), 4, torch.Size([5, 8]))
    """

    encoder: Float[Tensor, "d_in n_feat"]
    decoder: Float[Tensor, "n_feat d_out"]
    b_enc: Float[Tensor, " n_feat"] | None = None
    b_dec: Float[Tensor, " d_out"] | None = None
    activation: Activation = "relu"
    """topk: the `k` largest entries; relu: the positive ones; jumprelu: those above `threshold`."""
    k: int | None = None
    threshold: Float[Tensor, " n_feat"] | None = None
    signed: bool = False
    """Whether a negative entry among the k largest, or above its threshold, stays as it is; else it is 0."""
    b_dec_to_input: bool = False
    """Whether `b_dec` is subtracted from x before it is encoded."""
    encoder_gate: Float[Tensor, "d_in n_feat"] | None = None
    """A bilinear encoder: pre = (x @ encoder + b_enc) ∘ (x @ encoder_gate + b_gate)."""
    b_gate: Float[Tensor, " n_feat"] | None = None
    skip: Float[Tensor, "d_in d_out"] | None = None
    """A linear map of x that a transcoder adds to the reconstruction."""
    passthrough: tuple[int, ...] = ()
    """Outlier coordinates of x that are added to the reconstruction."""
    normalization: Normalization = "none"
    """Normalisation of x before encoding, undone after decoding, by SAELens' names: constant_norm_rescale
    divides x by ‖x‖ / √d_in; layer_norm subtracts the mean of its coordinates and divides by their standard
    deviation."""
    site: Site | None = None
    """The site that it reads; None where its file does not tell."""
    target: Site | None = None
    """The site that a transcoder reconstructs; None: the site itself."""

    def _first(self) -> dict[str, Any]:
        return {
            "site": Words(str(self.site)) if self.site else None,
            "n_feat": self.n_feat,
            "d_in": self.d_in,
        }

    def __post_init__(self):
        _require_fitting(self)

    @property
    def d_in(self) -> int:
        """Width of the vectors that are encoded."""
        return self.encoder.shape[0]

    @property
    def n_feat(self) -> int:
        """Number of features."""
        return self.encoder.shape[1]

    @property
    def d_out(self) -> int:
        """Width of the reconstruction."""
        return self.decoder.shape[1]

    @property
    def W_enc(self) -> Float[Tensor, "d_in n_feat"]:
        """The encoder, by SAELens' name."""
        return self.encoder

    @property
    def W_dec(self) -> Float[Tensor, "n_feat d_out"]:
        """The decoder, by SAELens' name."""
        return self.decoder

    @property
    def nonlinear(self) -> str | None:
        """The reason why features read no single direction of x, as a predicate; None where they do.

        With None the code of an active feature is x · (its column of `encoder`) plus a constant.
        """
        if self.encoder_gate is not None:
            return "has a bilinear encoder"
        if self.normalization != "none":
            return f"normalises what it reads ({self.normalization})"
        return None

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.encoder.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.encoder.dtype

    def to(self, *args: Any, **kwargs: Any) -> Dictionary:
        """The same dictionary on another device or in another precision; arguments as for `Tensor.to`.

        Raises InputError where a weight is too large for the precision.
        """
        weights = self.weights
        moved: dict[str, Any] = {name: value.to(*args, **kwargs) for name, value in weights.items()}
        require_floating(moved, "a dictionary")
        require_representable(weights, moved["encoder"].dtype, "a dictionary")
        return replace(self, **moved)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The tensors of the dictionary, by the names of its fields."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def encode(self, x: Float[Tensor, "*axes d_in"]) -> Float[Tensor, "*axes n_feat"]:
        """The code of x: zero but for the active features."""
        pre = self.pre_activations(x)
        kept = pre if self.signed else pre.relu()
        if self.k is not None:
            largest = pre.topk(self.k, dim=-1).indices
            return torch.zeros_like(pre).scatter(-1, largest, kept.gather(-1, largest))
        if self.threshold is not None:
            return torch.where(pre > self.threshold, kept, 0.0)
        return kept

    def pre_activations(self, x: Float[Tensor, "*axes d_in"]) -> Float[Tensor, "*axes n_feat"]:
        """The numbers that the activation is applied to."""
        if self.normalization != "none":
            shift, scale = self._moments(x)
            # A zero has no direction, and stays zero.
            divisor = scale + _LAYER_NORM_EPS if self.normalization == "layer_norm" else scale
            x = (x - shift) / divisor.where(divisor > 0, 1.0)
        if self.b_dec_to_input and self.b_dec is not None:
            x = x - self.b_dec
        pre = _affine(x, self.encoder, self.b_enc)
        if self.encoder_gate is not None:
            pre = pre * _affine(x, self.encoder_gate, self.b_gate)
        return pre

    def decode(
        self, code: Float[Tensor, "*axes n_feat"], x: Float[Tensor, "*axes d_in"] | None = None
    ) -> Float[Tensor, "*axes d_out"]:
        """The vectors that codes stand for: code @ decoder + b_dec.

        A dictionary that normalises needs the `x` that was encoded: codes do not hold its mean and scale.
        """
        out = _affine(code, self.decoder, self.b_dec)
        if self.normalization == "none":
            return out
        if x is None:
            raise InputError(
                f"a code of a dictionary that {self.nonlinear} does not tell the size of what it stands for; "
                "give decode(code, x) with the x that was encoded"
            )
        shift, scale = self._moments(x)
        return out * scale + shift

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The shift subtracted from x and the scale that it is divided by, [..., 1] each."""
        if self.normalization == "layer_norm":
            return x.mean(dim=-1, keepdim=True), x.std(dim=-1, keepdim=True)
        scale = x.norm(dim=-1, keepdim=True) / self.d_in**0.5
        return torch.zeros_like(scale), scale

    def __call__(self, x: Float[Tensor, "*axes d_in"]) -> Float[Tensor, "*axes d_out"]:
        """The reconstruction from x, with the skip connection and the coordinates passed through."""
        out = self.decode(self.encode(x), x)
        if self.skip is not None:
            out = out + x @ self.skip
        if self.passthrough:
            through = torch.zeros_like(x)
            through[..., list(self.passthrough)] = x[..., list(self.passthrough)]
            out = out + through
        return out


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight if bias is None else x @ weight + bias


def _require_fitting(dictionary: Dictionary) -> None:
    """Raises InputError where the parts of a dictionary do not fit together."""
    if dictionary.encoder.ndim != 2 or dictionary.decoder.ndim != 2:
        raise InputError("a dictionary needs an encoder [d_in, n_feat] and a decoder [n_feat, d_out]")
    require_floating(dictionary.weights, "a dictionary")
    d_in, n_feat, d_out = dictionary.d_in, dictionary.n_feat, dictionary.d_out
    shapes = {
        "decoder": (n_feat, d_out),
        "b_enc": (n_feat,),
        "b_dec": (d_out,),
        "threshold": (n_feat,),
        "encoder_gate": (d_in, n_feat),
        "b_gate": (n_feat,),
        "skip": (d_in, d_out),
    }
    for name, expected in shapes.items():
        value = getattr(dictionary, name)
        if value is not None and tuple(value.shape) != expected:
            raise InputError(
                f"{name} of a dictionary has shape {list(value.shape)}, expected {list(expected)} "
                f"beside an encoder of {[d_in, n_feat]}"
            )
    if dictionary.activation not in get_args(Activation):
        raise InputError(
            f"activation {dictionary.activation!r} of a dictionary; expected one of "
            + ", ".join(get_args(Activation))
        )
    k, threshold = dictionary.k, dictionary.threshold
    if (k is not None) != (dictionary.activation == "topk") or not (k is None or _whole(k, 1, n_feat)):
        raise InputError(
            f"k is {k} with activation {dictionary.activation} and {n_feat} features; "
            "expected 1 to all of them for topk, none otherwise"
        )
    if (threshold is not None) != (dictionary.activation == "jumprelu"):
        raise InputError("a threshold belongs to jumprelu, and to it alone; give both or neither")
    if dictionary.b_gate is not None and dictionary.encoder_gate is None:
        raise InputError("b_gate without encoder_gate; a dictionary has both or no gate")
    if (dictionary.b_dec_to_input or dictionary.passthrough) and d_in != d_out:
        raise InputError(
            f"reads {d_in} and writes {d_out} numbers; only a dictionary that reconstructs as many as it "
            "reads can subtract b_dec from its input or pass coordinates through"
        )
    if not all(_whole(coordinate, 0, d_in - 1) for coordinate in dictionary.passthrough):
        raise InputError(f"passthrough {list(dictionary.passthrough)}; expected coordinates below {d_in}")
    if dictionary.normalization not in get_args(Normalization):
        raise InputError(
            f"normalization {dictionary.normalization!r} of a dictionary; expected one of "
            + ", ".join(get_args(Normalization))
        )
    if dictionary.normalization != "none" and not 1 < d_in == d_out:
        raise InputError(
            f"a dictionary that {dictionary.nonlinear} and writes {d_out} numbers for {d_in}; only one that "
            "reconstructs as many as it reads, two or more, can undo it"
        )


def _whole(value: Any, least: int, most: int) -> bool:
    """Whether a value is a whole number in a range; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
