"""Text for conversions, and the inputs of a model's MLPs on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from bilinear_lm.arguments import checked
from bilinear_lm.errors import InputError
from bilinear_lm.glus import GLU
from finetune.choices import TEXT_OF_TRAIN, Selection
from finetune.data.sources import require_sources
from finetune.data.windows import Windows, require_window, tokenize_source

BATCH = 16
"""Windows of one forward pass."""


@checked
def calibration_windows(
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    *,
    n_tokens: int = 262_144,
    context: int = 256,
    first: bool = True,
    seed: int = 0,
    selection: Selection = TEXT_OF_TRAIN,
) -> Int[Tensor, "window pos"]:
    """Windows of `context` tokens, about `n_tokens` in all, spread over the sources.

    Each begins with the tokenizer's beginning-of-sequence token, unless it has none or `first` is off.
    The head of each source is read, one and a half times its equal share of the tokens; of a dataset the part
    that `selection` names.
    """
    if not sources:
        raise InputError("no calibration text given; expected at least one text file or dataset")
    require_sources(sources, selection)
    limit = head_length(n_tokens, len(sources))
    streams = (tokenize_source(source, tokenizer, limit=limit, selection=selection) for source in sources)
    first_token = tokenizer.bos_token_id if first else None
    return spread_windows(sources, streams, n_tokens=n_tokens, context=context, first=first_token, seed=seed)


def head_length(n_tokens: int, n_sources: int) -> int:
    """Tokens to read of each source for `n_tokens` in all."""
    share = -(-n_tokens // n_sources)
    return share + share // 2


def spread_windows(
    sources: Sequence[str],
    streams: Iterable[np.ndarray],
    *,
    n_tokens: int,
    context: int,
    first: int | None,
    seed: int,
) -> Int[Tensor, "window pos"]:
    """`calibration_windows` of sources whose tokens are there already; only their heads are read."""
    limit = head_length(n_tokens, len(sources))
    heads = []
    for source, stream in zip(sources, streams, strict=True):
        heads.append(stream[:limit])
        require_window(source, heads[-1], context)
    share = -(-n_tokens // len(sources))
    passes = [min(1.0, share / len(head)) for head in heads]
    windows = Windows(heads, passes, context=context, first=first, seed=seed)
    if not len(windows):
        raise InputError(
            f"{n_tokens} tokens of calibration text hold no window of {context}; give more text, more tokens "
            "or a shorter context"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(windows), generator=generator).tolist()
    return torch.stack([windows[row]["input_ids"] for row in order])


class _Reached(Exception):
    """Ends a forward pass at the module whose input is wanted."""


def glu_inputs(
    model: nn.Module, glu: GLU, windows: Int[Tensor, "window pos"], batch_size: int = BATCH
) -> Iterator[Float[Tensor, "_batch pos d_in"]]:
    """The inputs of a GLU in the windows of a text, batch by batch; modules behind it do not run."""
    seen: list[Tensor] = []

    def stop(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].detach())
        raise _Reached

    device = next(model.parameters()).device
    handle = glu.module.register_forward_pre_hook(stop)
    try:
        for batch in windows.split(batch_size):
            with torch.no_grad():
                try:
                    model(input_ids=batch.to(device))
                except _Reached:
                    yield seen.pop()
    finally:
        handle.remove()
