"""Bilinear language models: load them, hook them, and read what their MLPs compute from the weights.

A bilinear MLP is `down(gate(x) * up(x))`, without activation: a third-order tensor. `BilinearTensor` and
the accessors need torch alone; what needs transformers or transformer_lens loads it on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bilinear_lm.errors import InputError
from bilinear_lm.first_use import names_on_first_use
from bilinear_lm.own_packages import warn_of_hidden_packages

if TYPE_CHECKING:
    from bilinear_lm import environments, images, networks
    from bilinear_lm.checkpoints.info import checkpoint_info
    from bilinear_lm.checkpoints.load import load_pretrained
    from bilinear_lm.checkpoints.save import export
    from bilinear_lm.checkpoints.tokenizer import load_tokenizer
    from bilinear_lm.dictionaries import load_dictionary, save_dictionary
    from bilinear_lm.dictionaries.dictionary import Dictionary
    from bilinear_lm.glu_weights import GLUWeights
    from bilinear_lm.hooked.adapters import hook, load_hooked, unhook
    from bilinear_lm.polynomials.approximate import approximate_glu, approximate_layer, approximate_mlp
    from bilinear_lm.polynomials.bilinear import BilinearApproximation, bilinear_approximation
    from bilinear_lm.polynomials.explained import explained_variance
    from bilinear_lm.polynomials.gaussian import FactoredCovariance
    from bilinear_lm.polynomials.hermite import swish
    from bilinear_lm.polynomials.measured import fit_polynomial
    from bilinear_lm.polynomials.polynomial import Polynomial
    from bilinear_lm.polynomials.polynomial_folder import load_polynomial, save_polynomial
    from bilinear_lm.shipped import shipped_models, shipped_scope
    from bilinear_lm.sites import Site, mlp_inputs
    from bilinear_lm.tensor import BilinearTensor
    from bilinear_lm.text.evaluate import TextLoss, text_loss
    from bilinear_lm.text.generate import sample
    from bilinear_lm.weights import (
        AttentionWeights,
        attention_weights,
        embedding,
        mlp_tensor,
        mlp_weights,
        unembedding,
    )

__version__ = "0.1.0"

_LIGHT = (
    "bilinear_lm.checkpoints.info",
    "bilinear_lm.polynomials.bilinear",
    "bilinear_lm.polynomials.approximate",
    "bilinear_lm.dictionaries",
    "bilinear_lm.dictionaries.dictionary",
    "bilinear_lm.polynomials.hermite",
    "bilinear_lm.polynomials.polynomial",
    "bilinear_lm.shipped",
    "bilinear_lm.sites",
    "bilinear_lm.networks",
    "bilinear_lm.images",
    "bilinear_lm.environments",
    "bilinear_lm.tensor",
    "bilinear_lm.weights",
    "bilinear_lm.glu_weights",
    "bilinear_lm.polynomials.explained",
    "bilinear_lm.polynomials.gaussian",
    "bilinear_lm.polynomials.measured",
    "bilinear_lm.polynomials.polynomial_folder",
)
"""Modules that do not need transformers."""

__all__ = [
    "AttentionWeights",
    "BilinearApproximation",
    "BilinearTensor",
    "Dictionary",
    "FactoredCovariance",
    "GLUWeights",
    "InputError",
    "Polynomial",
    "Site",
    "TextLoss",
    "approximate_glu",
    "approximate_layer",
    "approximate_mlp",
    "attention_weights",
    "bilinear_approximation",
    "checkpoint_info",
    "embedding",
    "environments",
    "explained_variance",
    "export",
    "fit_polynomial",
    "hook",
    "images",
    "load_dictionary",
    "load_hooked",
    "load_polynomial",
    "load_pretrained",
    "load_tokenizer",
    "mlp_inputs",
    "mlp_tensor",
    "mlp_weights",
    "networks",
    "sample",
    "save_dictionary",
    "save_polynomial",
    "shipped_models",
    "shipped_scope",
    "swish",
    "text_loss",
    "unembedding",
    "unhook",
]


__getattr__ = names_on_first_use(__name__, light=_LIGHT)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


warn_of_hidden_packages()
