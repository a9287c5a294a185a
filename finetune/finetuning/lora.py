"""Low-rank additions (LoRA, arXiv 2106.09685) to a model's projections, through peft (extra `lora`)."""

from __future__ import annotations

from typing import Any

from torch import nn

from bilinear_lm.errors import InputError


def with_lora(model: Any, rank: int, seed: int) -> nn.Module:
    """The model with trainable additions of a rank to all its projections but the unembedding.

    W + (2 / rank) · A B with A [d_in, rank] and B [rank, d_out] in the place of W; B is 0 at first.
    Everything else is frozen.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        raise InputError("LoRA needs peft; install it with: pip install 'bilinear-lm[lora]'") from error
    from transformers import set_seed

    set_seed(seed)
    settings = peft.LoraConfig(
        r=rank, lora_alpha=2, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    model.enable_input_require_grads()
    return peft.get_peft_model(model, settings)


def merged(model: Any) -> Any:
    """The model that LoRA was added to, with the additions in its weights."""
    return model.merge_and_unload()
