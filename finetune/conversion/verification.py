"""Conditions that a converted or finetuned checkpoint must meet before it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from bilinear_lm.checkpoints.huggingface import quiet
from bilinear_lm.errors import InputError
from bilinear_lm.files import require_finite

RELOAD_TOLERANCE = 1e-5
"""Largest difference of logits, relative to the largest, after loading a checkpoint stored in float32."""


def require_tokenizer_fits(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Raises InputError where the tokenizer has ids that the model has no embedding for."""
    embeddings: Any = model.get_input_embeddings()
    rows, most = embeddings.num_embeddings, max(tokenizer.get_vocab().values())
    if most >= rows:
        raise InputError(
            f"the tokenizer has token ids up to {most}, but the model has {rows} embeddings; give the "
            "tokenizer that it was trained with"
        )


def require_reloads(model: PreTrainedModel, folder: Path, store: str) -> float:
    """Loads a saved model by bare transformers; returns the largest difference of logits on a probe.

    Both compute on the model's device, so that nothing but the weights can make a difference.

    Raises InputError where it exceeds rounding, for weights stored in float32, or is not finite.
    """
    require_finite(dict(model.named_parameters()), "the finished model")
    with quiet():
        again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    again.eval().to(model.device)
    draws = torch.Generator().manual_seed(0)
    length = min(32, model.config.max_position_embeddings)
    ids = torch.randint(model.config.vocab_size, (2, length), generator=draws).to(model.device)
    with torch.inference_mode():
        own, loaded = (part(input_ids=ids).logits.float() for part in (model, again))
    difference = float((own - loaded).abs().max())
    bound = RELOAD_TOLERANCE * float(own.abs().max()) if store == "float32" else float("inf")
    if not difference <= bound:
        raise InputError(
            f"the saved model's logits differ by {difference:.2g} after loading; expected at most {bound:.2g}"
        )
    return difference
