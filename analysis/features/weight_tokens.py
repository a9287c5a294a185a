"""Features in tokens by weights alone: what an output feature raises, what an input feature reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.features.layer import READ
from analysis.text.tokens import TokenReading, read_tokens
from bilinear_lm.dictionaries.dictionary import Dictionary
from bilinear_lm.families import mlp_norm, plain
from bilinear_lm.numerics.memory import rows_at_once
from bilinear_lm.sites import Site
from bilinear_lm.weights import embedding, unembedding


def token_verb(site: Site) -> str:
    """The verb for what features of a site do with tokens: "reads" for what an MLP reads, else "raises"."""
    return "reads" if site.point in READ else "raises"


def weight_tokens(
    model: nn.Module,
    dictionary: Dictionary,
    site: Site,
    features: Int[Tensor, " n"],
    listed: Int[Tensor, " n_listed"],
    k: int,
) -> TokenReading:
    """The listed tokens that features of a dictionary act on most and least, by weights alone.

    A feature of what an MLP reads is scored by its pre-activation for each token's embedding alone,
    normalised as the stream is; any other by the logits that its decoder's direction adds straight to the
    output, each against the mean of all tokens. k is at most the number of tokens listed; tokens are given
    by id.
    """
    chunks = features.to(dictionary.device).split(rows_at_once(8 * len(listed)))
    listed = listed.to(dictionary.device)
    if token_verb(site) == "reads":
        rows = _normalised_embeddings(model, site, listed).to(dictionary.encoder)
        scores = (_selected(dictionary, chunk).pre_activations(rows).T for chunk in chunks)
    else:
        W_U = unembedding(model).to(dictionary.decoder)
        W_U = (W_U - W_U.mean(dim=1, keepdim=True))[:, listed]
        scores = (dictionary.decoder[chunk] @ W_U for chunk in chunks)
    return _ends(scores, listed, min(k, len(listed)))


def _normalised_embeddings(
    model: nn.Module, site: Site, listed: Int[Tensor, " n"]
) -> Float[Tensor, "n d_model"]:
    rows = embedding(model)
    rows = rows[listed.to(rows.device)]
    norm = mlp_norm(model, site.layer)
    if site.point == "mlp-in" and norm is not None:
        with torch.inference_mode():
            rows = plain(norm)(rows)
    return rows


def _ends(
    scores: Iterable[Float[Tensor, "_n n_listed"]], listed: Int[Tensor, " n_listed"], k: int
) -> TokenReading:
    readings = [read_tokens(piece, k) for piece in scores]
    columns = {
        field.name: torch.cat([getattr(part, field.name) for part in readings])
        for field in fields(TokenReading)
    }
    for name in ("top", "bottom"):
        columns[name] = listed[columns[name]]
    return TokenReading(**columns)


def _selected(dictionary: Dictionary, features: Int[Tensor, " n"]) -> Dictionary:
    """Some features of a dictionary, for their pre-activations."""
    columns: dict[str, Any] = {"decoder": dictionary.decoder[features]}
    for name in ("encoder", "b_enc", "encoder_gate", "b_gate"):
        value = getattr(dictionary, name)
        columns[name] = None if value is None else value[..., features]
    return replace(dictionary, activation="relu", k=None, threshold=None, **columns)
