"""TransformerLens' `TransformerBridge` that tells padding from text, or says that it cannot.

The stock class takes all ids as text: a batch with padding in front gives other logits than the texts alone,
without a warning.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from bilinear_lm.errors import InputError
from bilinear_lm.hooked.changed_in_place import Unsaveable
from bilinear_lm.hooked.padding import PaddingToken, Side, padded, positions, text_mask


class BilinearBridge(Unsaveable, TransformerBridge):
    """The bridge that `bilinear_lm.hook` returns.

    Texts given as strings have the logits they have alone, on either side of padding. So have ids with
    padding in front of a beginning-of-sequence token, and ids with an `attention_mask`. Ids that begin with
    the padding token in any other way are refused, unless `padding_side` says what it is; a bridge without
    tokenizer knows no padding token, and takes all ids as text. Residual streams (`start_at_layer`) of a
    padded batch need its `attention_mask`.
    """

    unsaveable = "a bridge cannot be pickled or saved; save the model, bilinear_lm.unhook(bridge)"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass of TransformerBridge, at text; see the class."""
        self._require_hooked()
        given = _arguments(TransformerBridge.forward, self, args, kwargs)
        if given.get("attention_mask") is None:
            given["attention_mask"] = given.pop("one_zero_attention_mask", None)
        mask, x = given["attention_mask"], given["input"]
        if mask is None and given.get("past_key_values") is None:
            wanted = given.get("return_type")
            self._mark_text(given, given.get("padding_side"), with_end=wanted in ("loss", "both"))
            if given["attention_mask"] is not None and (
                given.get("use_cache") or wanted == "logits_and_cache"
            ):
                raise InputError(
                    "a batch with padding whose keys and values are kept for later calls; give "
                    "attention_mask here and, one column longer for each new token, in those"
                )
        elif mask is not None and isinstance(x, Tensor) and x.is_floating_point() and mask.ndim == 2:
            given.setdefault("position_ids", positions(mask))  # the stock class has them for ids only
        return super().forward(**given)

    def run_with_cache(self, input: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs and caches as TransformerBridge does."""
        self._require_hooked()
        # The stock method turns a string into ids, which say less.
        return super().run_with_cache([input] if isinstance(input, str) else input, *args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generates as TransformerBridge does; prompts of different lengths each continue as alone."""
        return super().generate(**self._prompts(TransformerBridge.generate, args, kwargs))

    def generate_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Generates as TransformerBridge does; prompts of different lengths each continue as alone."""
        return super().generate_stream(**self._prompts(TransformerBridge.generate_stream, args, kwargs))

    def hf_generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generates as TransformerBridge does; prompts of different lengths each continue as alone."""
        given = _arguments(TransformerBridge.hf_generate, self, args, kwargs)
        if isinstance(given.get("input"), Tensor):  # strings come with their mask
            given = self._prompts(TransformerBridge.hf_generate, (), given)
        return super().hf_generate(**given)

    def _prompts(
        self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """The arguments of a generating method, with the mask of its prompts."""
        self._require_hooked()
        given = _arguments(method, self, args, kwargs)
        prompts, side = given.get("input", ""), given.pop("padding_side", None)
        texts = isinstance(prompts, str | list)
        if given.get("attention_mask") is None:
            given |= {"input": prompts, "attention_mask": None}
            self._mark_text(given, "left" if texts else side, with_end=True, truncate=not texts)
            if texts and given.get("return_type", "input") == "input":
                given["return_type"] = "str"
            ids = given["input"]
            if given["attention_mask"] is not None and self.tokenizer.pad_token_id >= self._n_vocab:
                raise InputError(
                    "prompts of different lengths, and a tokenizer without a padding token of the model's; "
                    "give them one by one"
                )
            if given["attention_mask"] is None and self.tokenizer is not None and not ids.is_floating_point():
                # Said here for all steps, which have ids only.
                given["attention_mask"] = torch.ones_like(ids)
        mask = given["attention_mask"]
        if mask is not None and not bool(mask[:, -1].all()):
            raise InputError("prompts with padding at the end, from where generation goes on; pad in front")
        return given

    def _require_hooked(self) -> None:
        if self.__dict__["original_model"] is None:
            raise InputError("the bridge is unhooked; hook the model again for a new one")

    @property
    def _n_vocab(self) -> int:
        model: Any = self.original_model
        return model.config.vocab_size

    def _mark_text(
        self, given: dict[str, Any], side: Side | None, *, with_end: bool, truncate: bool = True
    ) -> None:
        """Makes the input token ids, and sets the attention mask if there is padding among them.

        Padding at the end changes nothing at text, so it is only looked for `with_end`.
        """
        x = given["input"]
        if isinstance(x, str | list):
            ids, mask = self._padded([x] if isinstance(x, str) else x, given, side, truncate)
        elif isinstance(x, Tensor) and not x.is_floating_point() and x.ndim in (1, 2) and x.shape[-1]:
            ids = x.unsqueeze(0) if x.ndim == 1 else x
            mask = self._text_mask(ids, given, side, with_end)
        else:
            return
        n_vocab = self._n_vocab
        if mask is not None:
            # What TransformerLens pads with may lie beyond the embedding.
            ids = ids.masked_fill((mask == 0) & (ids >= n_vocab), 0)
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < n_vocab:
            raise InputError(f"token ids {int(ids.min())} to {int(ids.max())}; expected 0 to {n_vocab - 1}")
        given["input"], given["attention_mask"] = ids, mask

    def _padded(
        self, texts: list[Any], given: dict[str, Any], side: Side | None, truncate: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Token ids of texts, each as it is alone, and the mask that says which are padding."""
        if self.tokenizer is None:
            raise InputError(
                "text for a bridge without tokenizer; hook the model with one, or give token ids"
            )
        if not texts or not all(isinstance(text, str) for text in texts):
            raise InputError("expected one text or more, or token ids as a tensor")
        rows = [
            self.to_tokens(text, given.get("prepend_bos"), padding_side="right", truncate=truncate)[0].long()
            for text in texts
        ]
        for text, row in zip(texts, rows, strict=True):
            if not len(row):
                raise InputError(f"the text {text!r} has no tokens; expected one or more")
        return padded(rows, self.tokenizer.pad_token_id, side or self.tokenizer.padding_side)

    def _text_mask(
        self, ids: Tensor, given: dict[str, Any], side: Side | None, with_end: bool
    ) -> Tensor | None:
        token = None if self.tokenizer is None else PaddingToken.of(self.tokenizer)
        if token is None:
            return None
        with_bos = given.get("prepend_bos")
        before = token.n_before(ids, side, self.cfg.default_prepend_bos if with_bos is None else with_bos)
        return text_mask(ids, before, token.n_after(ids, side) if with_end else None)


def _arguments(
    method: Callable[..., Any], bridge: BilinearBridge, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by their names."""
    bound = inspect.signature(method).bind(bridge, *args, **kwargs).arguments
    del bound["self"]
    for name, parameter in inspect.signature(method).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound |= bound.pop(name, {})
    return dict(bound)
