"""The hooked class: TransformerLens' bridge for bilinear language models, with an adapter for each family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bilinear_lm.first_use import names_on_first_use

if TYPE_CHECKING:
    from bilinear_lm.hooked.adapters import (
        BilinearAdapter,
        BilinearGemma2Adapter,
        BilinearGemmaAdapter,
        BilinearGraniteAdapter,
        BilinearLlamaAdapter,
        BilinearMistralAdapter,
        BilinearOlmo2Adapter,
        BilinearPhi3Adapter,
        BilinearQwen2Adapter,
        BilinearQwen3Adapter,
        hook,
        load_hooked,
        unhook,
    )

__all__ = [
    "BilinearAdapter",
    "BilinearGemma2Adapter",
    "BilinearGemmaAdapter",
    "BilinearGraniteAdapter",
    "BilinearLlamaAdapter",
    "BilinearMistralAdapter",
    "BilinearOlmo2Adapter",
    "BilinearPhi3Adapter",
    "BilinearQwen2Adapter",
    "BilinearQwen3Adapter",
    "hook",
    "load_hooked",
    "unhook",
]

__getattr__ = names_on_first_use(__name__)
