"""The hooked class: TransformerLens' bridge for bilinear language models, with an adapter for each family."""

from __future__ import annotations

from bilinear_lm.first_use import names_on_first_use

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

__getattr__ = names_on_first_use(__name__, dict.fromkeys(__all__, "bilinear_lm.hooked.adapters"))
