"""The weights of a SAELens dictionary, with the factors that SAELens applies at each call folded into them.

A **gated** encoder, active where x @ W_enc + b_gate > 0, of magnitude relu(x @ (W_enc ∘ e^r_mag) + b_mag), is
a JumpReLU over the encoder W_enc ∘ e^r_mag and the bias b_mag with the threshold b_mag - e^r_mag ∘ b_gate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bilinear_lm.dictionaries.strict import setting
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown

FINETUNING = ("scaling_factor", "finetuning_scaling_factor")
"""The names of the tensor that codes are multiplied by after finetuning."""


@shown
@dataclass(frozen=True)
class Weights:
    """The weights that factors are folded into."""

    encoder: Tensor
    b_enc: Tensor
    decoder: Tensor
    b_dec: Tensor
    threshold: Tensor | None

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Weights:
        """The weights of a file, from its tensors by name."""
        encoder, b_enc, decoder, b_dec = (tensors[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
        return cls(encoder, b_enc, decoder, b_dec, tensors.get("threshold"))

    def scaled(self, factor: float) -> Weights:
        """The weights for x, where these are for factor · x."""
        decoder, b_dec = wide(self.decoder) / factor, wide(self.b_dec) / factor
        return replace(self, encoder=wide(self.encoder) * factor, decoder=decoder, b_dec=b_dec)

    def rescaled(self) -> Weights:
        """The weights with entries scaled by their decoder row's norm, as SAELens does at each call.

        Entries are then compared by how much they write.
        """
        decoder = wide(self.decoder)
        norms = decoder.norm(dim=-1)
        encoder, b_enc = wide(self.encoder) * norms, wide(self.b_enc) * norms
        # A feature that writes nothing has entries of zero, and goes on writing nothing.
        return replace(
            self, encoder=encoder, b_enc=b_enc, decoder=decoder / norms.where(norms > 0, 1).unsqueeze(-1)
        )


def wide(value: Tensor) -> Tensor:
    """A tensor in the precision that SAELens computes in, at least."""
    return value if value.dtype == torch.float64 else value.float()


def ungated(tensors: dict[str, Tensor], where: Path) -> Weights:
    """A gated encoder as a JumpReLU; float64 decides where the threshold lies."""
    r_mag, b_mag, b_gate = (tensors[name].double() for name in ("r_mag", "b_mag", "b_gate"))
    W_enc = wide(tensors["W_enc"])
    scale = r_mag.exp()
    kept = scale.to(W_enc.dtype)
    if not (torch.isfinite(kept) & (kept > 0)).all():
        raise InputError(
            f"{where}: r_mag from {r_mag.min():.3g} to {r_mag.max():.3g}, whose exponentials are no "
            f"{str(W_enc.dtype).removeprefix('torch.')} numbers; expected log-scales of magnitudes"
        )
    threshold = (b_mag - scale * b_gate).to(W_enc.dtype)
    return Weights(W_enc * kept, tensors["b_mag"], tensors["W_dec"], tensors["b_dec"], threshold)


def finetuned(weights: Weights, tensors: dict[str, Tensor], config: dict[str, Any], where: Path) -> Weights:
    """The weights with the finetuning factors, which multiply codes, folded into the decoder."""
    stored = [tensors[name] for name in FINETUNING if name in tensors]
    # A period of SAELens wrote one in any case, of ones where it was not used.
    factors = [factor for factor in stored if not torch.equal(factor, torch.ones_like(factor))]
    if not factors:
        return weights
    if len(factors) > 1 or not setting(config, "finetuning_scaling_factor", bool, where, False):
        raise InputError(
            f"{where}: a scaling_factor from finetuning where finetuning_scaling_factor is not true; set it "
            "in cfg.json if codes are to be multiplied by it, else take the tensor out"
        )
    return replace(weights, decoder=wide(weights.decoder) * wide(factors[0]).unsqueeze(-1))
