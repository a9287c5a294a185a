"""Bilinear (and SwiGLU) transformers models as TransformerLens' hooked class, and back again.

`hook` wraps a model of the classes in `HOOKABLE` in place and returns a `TransformerBridge`; `unhook` takes
the wrapping off. The adapters are TransformerLens' own with another MLP component and with eager attention.
"""

import copy
import os
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import GatedMLPBridge, JointGateUpMLPBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.model_bridge.supported_architectures.gemma1 import Gemma1ArchitectureAdapter
from transformer_lens.model_bridge.supported_architectures.gemma2 import Gemma2ArchitectureAdapter
from transformer_lens.model_bridge.supported_architectures.granite import GraniteArchitectureAdapter
from transformer_lens.model_bridge.supported_architectures.llama import LlamaArchitectureAdapter
from transformer_lens.model_bridge.supported_architectures.mistral import MistralArchitectureAdapter
from transformer_lens.model_bridge.supported_architectures.olmo2 import Olmo2ArchitectureAdapter
from transformer_lens.model_bridge.supported_architectures.phi3 import Phi3ArchitectureAdapter
from transformer_lens.model_bridge.supported_architectures.qwen2 import Qwen2ArchitectureAdapter
from transformer_lens.model_bridge.supported_architectures.qwen3 import Qwen3ArchitectureAdapter
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bilinear_lm.arguments import checked
from bilinear_lm.checkpoints.load import load_pretrained
from bilinear_lm.checkpoints.locate import local_path
from bilinear_lm.checkpoints.tokenizer import has_tokenizer, load_tokenizer
from bilinear_lm.errors import InputError
from bilinear_lm.families import plain
from bilinear_lm.hooked.bridge import BilinearBridge
from bilinear_lm.hooked.changed_in_place import changed_in_place


class DelegatingMLPBridge(GatedMLPBridge):
    """A gated MLP that is always computed by the module it wraps, whatever its activation.

    Once weights have been processed the stock class computes the MLP itself, with SiLU for each activation
    it does not know, "linear" among them. Processed weights are also copied into the wrapped module, and its
    projections carry the hooks, so calling it is right with and without processing.
    """

    # The generic forward: the wrapped module between hook_in and hook_out.
    forward = GeneralizedComponent.forward


class DelegatingJointMLPBridge(JointGateUpMLPBridge):
    """The same for an MLP with one projection for gate and up (Phi-3), computed from its two halves."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The wrapped module between hook_in and hook_out."""
        mlp: Any = self.original_component
        mlp.forward = self._product
        try:  # called as a module, so that what is registered on it has its effect
            return self.hook_out(mlp(self.hook_in(args[0])))
        finally:
            del mlp.forward

    def _product(self, x: Tensor) -> Tensor:
        """Gate and in projection of the input, their product through the out projection."""
        return self.out(self._activation_fn(self.gate(x)) * getattr(self, "in")(x))


class BilinearAdapter(ArchitectureAdapter):
    """The changes of our adapters to a stock adapter, which follows this class among the bases."""

    # Each attention bridge computes its pattern itself (`hook_pattern`). Asking transformers for it too would
    # leave transformers' recording hooks in the model, also after unhooking.
    supports_hf_output_attentions = False

    attention_before: str
    """The model's attention implementation before it was hooked."""
    class_before: type[PreTrainedModel]
    """The model's class before it was hooked."""
    children_before: list[tuple[nn.Module, dict[str, nn.Module | None]]]
    """Every module of the model with its children before it was hooked."""

    def _gated_mlp(self, name: str = "mlp", **projections: Any) -> GatedMLPBridge:
        stock = super()._gated_mlp(name, **projections)
        return DelegatingMLPBridge(stock.name, stock.config, stock.submodules, stock.optional)

    def prepare_model(self, hf_model: PreTrainedModel) -> None:
        """Note what hooking will change; set eager attention, which is what the attention bridges compute."""
        self.children_before = [(module, dict(module._modules)) for module in hf_model.modules()]
        self.attention_before = hf_model.config._attn_implementation
        self.cfg.attn_implementation = "eager"
        super().prepare_model(hf_model)

    def write_back(self, bridge: TransformerBridge) -> None:
        """Copy into the model the weights that the bridge holds apart from it; most families have none."""


class BilinearLlamaAdapter(BilinearAdapter, LlamaArchitectureAdapter):
    """Llama, with any activation in its MLPs."""


class BilinearMistralAdapter(BilinearAdapter, MistralArchitectureAdapter):
    """Mistral, with any activation in its MLPs."""


class BilinearQwen2Adapter(BilinearAdapter, Qwen2ArchitectureAdapter):
    """Qwen2, with any activation in its MLPs."""


class BilinearQwen3Adapter(BilinearAdapter, Qwen3ArchitectureAdapter):
    """Qwen3, with any activation in its MLPs."""


class BilinearGemmaAdapter(BilinearAdapter, Gemma1ArchitectureAdapter):
    """Gemma, with any activation in its MLPs."""


class BilinearGemma2Adapter(BilinearAdapter, Gemma2ArchitectureAdapter):
    """Gemma 2, with any activation in its MLPs."""


class BilinearOlmo2Adapter(BilinearAdapter, Olmo2ArchitectureAdapter):
    """OLMo 2, with any activation in its MLPs."""


class BilinearGraniteAdapter(BilinearAdapter, GraniteArchitectureAdapter):
    """Granite, with any activation in its MLPs."""


class BilinearPhi3Adapter(BilinearAdapter, Phi3ArchitectureAdapter):
    """Phi-3, with any activation in its MLPs."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        parts = self.components["blocks"].submodules
        stock = parts["mlp"]
        parts["mlp"] = DelegatingJointMLPBridge(
            "mlp", cfg, {"out": stock.submodules["out"]}, split_gate_up_matrix=stock.split_gate_up_matrix
        )

    def write_back(self, bridge: TransformerBridge) -> None:
        """Copy the parts of fused projections, which the bridge computes with, back into the model.

        They are apart from it once they were moved or copied.
        """
        for block in bridge.blocks:
            attention, mlp = block.attn, block.mlp
            fused = (
                (attention.original_component.qkv_proj, (attention.q, attention.k, attention.v)),
                (mlp.original_component.gate_up_proj, (mlp.gate, getattr(mlp, "in"))),
            )
            for whole, parts in fused:
                for name, value in plain(whole).named_parameters():
                    value.data.copy_(torch.cat([getattr(part, name).data for part in parts]))


_ADAPTERS: dict[str, type[BilinearAdapter]] = {
    "LlamaForCausalLM": BilinearLlamaAdapter,
    "MistralForCausalLM": BilinearMistralAdapter,
    "Qwen2ForCausalLM": BilinearQwen2Adapter,
    "Qwen3ForCausalLM": BilinearQwen3Adapter,
    "GemmaForCausalLM": BilinearGemmaAdapter,
    "Gemma2ForCausalLM": BilinearGemma2Adapter,
    "Phi3ForCausalLM": BilinearPhi3Adapter,
    "Olmo2ForCausalLM": BilinearOlmo2Adapter,
    "GraniteForCausalLM": BilinearGraniteAdapter,
}

HOOKABLE = tuple(_ADAPTERS)
"""The model classes `hook` takes; the adapter of each is registered with "Bilinear" before its name."""


@checked
def hook(model: nn.Module, tokenizer: PreTrainedTokenizerBase | None = None) -> TransformerBridge:
    """Wrap a transformers model in TransformerLens' hooked class, `TransformerBridge`.

    The model is changed in place: each of its modules is replaced by a hooked one around it. It computes the
    same as before, and its weights can be read, but saving, pickling and converting it are errors until
    `unhook(bridge)` gives it back.

    No weight is folded or centred, and the logits are exactly those of the model with eager attention; other
    attention kernels differ from it by rounding, as does Phi-3, whose fused projections are computed part by
    part. `bridge.enable_compatibility_mode()` does fold and centre the weights, in place and for good: the
    model cannot be unhooked after it. Norms behind attention and MLP are not folded, nor any norm of OLMo 2.

    In a block, `mlp.hook_pre` is the gate, `mlp.hook_pre_linear` the in projection, `mlp.hook_post` their
    product; `mlp.hook_out` is ((h @ W_gate) ∘ (h @ W_in)) @ W_out with h = `mlp.hook_in`, which is
    `ln2.hook_out` where there is a norm in front. `hook_mlp_out` and `hook_attn_out` are what is added to the
    residual stream: in Gemma 2 and OLMo 2 the output of the norms behind (`ln2_post`, `ln1_post`), in Granite
    the module's output times `residual_multiplier`. An edit at `hook_resid_mid` reaches the MLP only, not the
    residual stream around it: edit `hook_attn_out` for both.

    The bridge has a tokenizer of its own, a copy of the one given that prepends BOS. `BilinearBridge` says
    what it does with padding.

    Example:
        >>> bridge = hook(model)
        >>> logits, cache = bridge.run_with_cache(tokens)  # tokens [batch, pos] -> [batch, pos, d_vocab]
        >>> cache["blocks.0.mlp.hook_post"].shape  # [batch, pos, d_mlp]
        >>> model = unhook(bridge)
    """
    name = type(model).__name__
    if any(isinstance(module, GeneralizedComponent) for module in model.modules()):
        raise InputError(f"{name}: is hooked already; use the bridge that hooked it, or unhook that first")
    if name not in HOOKABLE:
        raise InputError(f"{name}: cannot be hooked; expected one of {', '.join(HOOKABLE)}")
    # Installed packages first: TransformerLens warns about adapters that are there before it has looked.
    ArchitectureAdapterFactory.discover_entry_points()
    ArchitectureAdapterFactory.register_adapter(f"Bilinear{name}", _ADAPTERS[name])
    bridge = build_bridge_from_module(
        model,
        f"Bilinear{name}",
        hf_config=model.config,
        tokenizer=None if tokenizer is None else _prepending_bos(tokenizer),
    )
    bridge.__class__ = BilinearBridge
    cast(BilinearAdapter, bridge.adapter).class_before = cast(type[PreTrainedModel], type(model))
    model.__class__ = changed_in_place(type(model))
    return bridge


@checked
def unhook(bridge: TransformerBridge) -> PreTrainedModel:
    """The model that `hook` was given: the same object and parameters, with its own modules back in place.

    Weights edited, moved or cast through the bridge stay so; hooks are removed and the attention
    implementation is the one from before. The bridge cannot be called afterwards.
    """
    if not isinstance(bridge.adapter, BilinearAdapter):
        raise InputError(
            f"unhook: the bridge has a {type(bridge.adapter).__name__}; expected a bridge made by "
            "bilinear_lm.hook"
        )
    model = cast(PreTrainedModel | None, bridge.__dict__["original_model"])
    if model is None:
        raise InputError("unhook: the bridge is unhooked already; hook the model again for a new one")
    if bridge._weights_processed:
        raise InputError(
            "unhook: the weights were folded in place (enable_compatibility_mode or process_weights) and the "
            "model's own are lost; load the checkpoint again"
        )
    bridge.reset_hooks(including_permanent=True)
    bridge.adapter.write_back(bridge)
    model.__class__ = bridge.adapter.class_before
    for module, children in bridge.adapter.children_before:
        module._modules.update(children)
    head = model.get_output_embeddings()
    if "bias" in head._buffers:  # the zeros that TransformerLens adds to a head without bias
        del head.bias
        head.register_parameter("bias", None)
    model.set_attn_implementation(bridge.adapter.attention_before)
    # Without a model the bridge fails when called, rather than run without its hooks.
    cast(Any, bridge).original_model = None
    return model


@checked
def load_hooked(
    path_or_repo: str | os.PathLike[str],
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> TransformerBridge:
    """Load a checkpoint as `load_pretrained` does, with its tokenizer, and hook it.

    A local checkpoint without a tokenizer is hooked without one, also where it names one on the hub, which
    need not be reachable: `hook(load_pretrained(folder), load_tokenizer(folder))` fetches that.
    """
    model = load_pretrained(path_or_repo, revision=revision, device=device, dtype=dtype)
    if local_path(path_or_repo) is not None and not has_tokenizer(path_or_repo):
        return hook(model)
    return hook(model, load_tokenizer(path_or_repo, revision=revision))


def _prepending_bos(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy that prepends BOS, so that TransformerLens takes it as it is.

    TransformerLens loads any other tokenizer again, from `name_or_path`: one made in memory has none, and the
    revision and all changes after loading would be lost.
    """
    tokenizer = copy.deepcopy(tokenizer)
    if tokenizer.bos_token is not None:
        tokenizer.add_bos_token = True
    tokenizer.init_kwargs |= {"name_or_path": tokenizer.name_or_path, "add_bos_token": True}
    return tokenizer
