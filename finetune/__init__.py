"""Training: bilinear language models from scratch, and their SwiGLU twins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.config import PretrainConfig

if TYPE_CHECKING:
    from finetune.from_scratch import pretrain

__all__ = ["PretrainConfig", "pretrain"]


def __getattr__(name: str) -> Any:
    if name == "pretrain":  # loads transformers' Trainer
        from finetune.from_scratch import pretrain

        return pretrain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
