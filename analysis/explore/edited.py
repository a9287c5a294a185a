"""A model whose activations are edited while it reads a prompt, and what it then expects and writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.circuits.readers import Write
from analysis.text.vocabulary import Vocabulary
from analysis.text.windows import prompt_ids
from bilinear_lm.shown import shown
from bilinear_lm.sites import Site, replaced
from bilinear_lm.text.generate import sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@shown
@dataclass(frozen=True)
class NextToken:
    """A token that may come next."""

    token: int
    label: str
    logit: float
    probability: float


@shown
@dataclass(frozen=True)
class Said:
    """The tokens that a model expects behind a prompt, and the text that it writes."""

    tokens: tuple[NextToken, ...]
    """The likeliest next tokens, first the likeliest."""
    text: str
    """The prompt and its continuation; empty where none was asked for."""


@dataclass(frozen=True)
class Writing:
    """How a text is written."""

    max_tokens: int = 40
    """The most new tokens; 0: no text."""
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    seed: int = 0


def next_token_list(
    logits: Float[Tensor, " d_vocab"], vocabulary: Vocabulary, k: int
) -> tuple[NextToken, ...]:
    """The k likeliest tokens of the logits at one position."""
    shares = logits.double().softmax(0)
    best = logits.topk(min(k, len(logits))).indices.tolist()
    return tuple(
        NextToken(token, vocabulary.label(token), float(logits[token]), float(shares[token]))
        for token in best
    )


def said(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    prompt: str,
    writing: Writing,
    k: int = 8,
    edited: Callable[[], AbstractContextManager[object]] = ExitStack,
) -> Said:
    """The answer of the model to a prompt; each reading lies within a context of its own from `edited`."""
    ids = torch.tensor([prompt_ids(model, tokenizer, prompt)], device=model.device)
    with torch.inference_mode(), edited():
        logits = model(input_ids=ids).logits[0, -1].float()
    text = ""
    if writing.max_tokens and ids.shape[1] < model.config.max_position_embeddings:
        with edited():
            (text,) = sample(
                model,
                tokenizer,
                prompt,
                max_tokens=writing.max_tokens,
                temperature=writing.temperature,
                seed=writing.seed,
            )
    return Said(next_token_list(logits, vocabulary, k), text)


@contextmanager
def with_writes(model: nn.Module, writes: Sequence[Write], n_pos: int) -> Iterator[None]:
    """While open, vectors are added to activations at positions of a prompt of `n_pos` tokens.

    They are where the model reads the whole prompt, or what begins with it. What it reads token by token
    afterwards follows from the keys and values of the edited prompt.
    """
    by_site: dict[Site, list[Write]] = {}
    for write in writes:
        by_site.setdefault(write.site, []).append(write)
    with ExitStack() as stack:
        for site, own in by_site.items():
            stack.enter_context(replaced(model, site, _adding(own, n_pos)))
        yield


def _adding(writes: Sequence[Write], n_pos: int) -> Callable[[Tensor], Tensor]:
    n_read = 0

    def function(x: Tensor) -> Tensor:
        nonlocal n_read
        n_read += 1
        # One token is a prompt of one where it comes first, and else what was written last.
        if x.shape[1] < n_pos or (n_pos == 1 and n_read > 1 and x.shape[1] == 1):
            return x
        x = x.clone()
        for write in writes:
            x[:, write.position] += write.vector.to(x)
        return x

    return function


@contextmanager
def with_direction(model: nn.Module, site: Site, vector: Float[Tensor, " d_model"]) -> Iterator[None]:
    """While open, a vector is added to the activations of a site at every position."""
    with replaced(model, site, lambda x: x + vector.to(x)):
        yield
