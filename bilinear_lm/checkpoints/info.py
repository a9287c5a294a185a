"""`checkpoint_info`: what a checkpoint is, from its configuration and its tensors' shapes alone."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilinear_lm.arguments import checked
from bilinear_lm.checkpoints.folder import (
    Shape,
    detect,
    read_all_shapes,
    read_config,
    read_tensor,
)
from bilinear_lm.checkpoints.llama2c_header import read_header
from bilinear_lm.checkpoints.locate import locate
from bilinear_lm.checkpoints.published import PublishedSpec, ScaleOrigin, parse_published
from bilinear_lm.checkpoints.sizes import require_fitting
from bilinear_lm.checkpoints.stated_config import StatedConfig, read_values, stated_config
from bilinear_lm.families import FAMILIES, IDENTITY_EPS
from bilinear_lm.files import told
from bilinear_lm.shown import shown

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_EMBEDDINGS = (".embed_tokens.weight", ".wte.weight", ".embed_in.weight", ".word_embeddings.weight")
_BUFFERS = (".rotary_emb.inv_freq", ".rotary.inv_freq", ".attn.bias", ".attn.masked_bias")


@shown
@dataclass(frozen=True)
class CheckpointInfo:
    """The sizes and parts of a checkpoint; None where its family does not say."""

    name: str
    format: str
    """For example "Hugging Face llama", "published F5" or "llama2.c version 0"."""
    n_layers: int | None
    n_heads: int | None
    n_kv_heads: int | None
    d_model: int | None
    d_mlp: int | None
    d_vocab: int | None
    n_ctx: int | None
    gate: str | None
    """The activation of the MLP's gate, or of the MLP itself where it has no gate."""
    bilinear: bool
    """Whether the MLP is a GLU whose gate has no activation."""
    norm: str | None
    """"RMS", "none" or "LayerNorm"."""
    tied_embeddings: bool
    n_parameters: int
    attention_scale: float
    """The factor on the attention branch, which is folded into the weights on loading."""
    attention_scale_origin: ScaleOrigin
    """Whether the file states the factor, the format fixes it, or it was derived and may be wrong."""
    notes: tuple[str, ...]


@checked
def checkpoint_info(
    path_or_repo: str | os.PathLike[str],
    revision: str | None = None,
    attention_scale: bool | None = None,
) -> CheckpointInfo:
    """Describes a checkpoint without building its model; `attention_scale` as in `load_pretrained`."""
    path = locate(path_or_repo, revision)
    name = checkpoint_name(path_or_repo, path)
    match detect(path):
        case "llama2c":
            return _llama2c(path, name, os.fspath(path_or_repo))
        case "published":
            spec = parse_published(read_config(path), read_all_shapes(path), path)
            return _published(spec, name, os.fspath(path_or_repo), attention_scale)
        case "huggingface":
            return _huggingface(path, name, os.fspath(path_or_repo))


def checkpoint_name(path_or_repo: str | os.PathLike[str], path: Path) -> str:
    """The name to show for a checkpoint: a file's or folder's own name, a repository's owner/name."""
    own = Path(path_or_repo).expanduser()
    return told(own.resolve() if path == own else path_or_repo)


def _llama2c(path: Path, name: str, source: str) -> CheckpointInfo:
    header = read_header(path)
    return CheckpointInfo(
        name=name,
        format=f"llama2.c version {header.version}",
        n_layers=header.n_layers,
        n_heads=header.n_heads,
        n_kv_heads=header.n_kv_heads,
        d_model=header.d_model,
        d_mlp=header.d_mlp,
        d_vocab=header.d_vocab,
        n_ctx=header.n_ctx,
        gate="silu",
        bilinear=False,
        norm="RMS",
        tied_embeddings=header.tied,
        n_parameters=header.n_parameters(),
        attention_scale=1.0,
        attention_scale_origin="format",
        notes=(_how_to_convert("silu", source),),
    )


def _published(spec: PublishedSpec, name: str, source: str, scaled: bool | None) -> CheckpointInfo:
    return CheckpointInfo(
        name=name,
        format=f"published {spec.format}",
        n_layers=spec.n_layers,
        n_heads=spec.n_heads,
        n_kv_heads=spec.n_heads,
        d_model=spec.d_model,
        d_mlp=spec.d_mlp,
        d_vocab=spec.d_vocab,
        n_ctx=spec.n_ctx,
        gate=spec.activation,
        bilinear=spec.two_branches and spec.activation == "linear",
        norm="RMS" if spec.has_norms else "none",
        tied_embeddings=False,
        n_parameters=sum(math.prod(shape) for shape in spec.shapes().values()),
        attention_scale=spec.attention_scale(scaled),
        attention_scale_origin=spec.scale_origin if scaled is None else "explicit",
        notes=tuple(_published_notes(spec, source, scaled)),
    )


def _published_notes(spec: PublishedSpec, source: str, scaled: bool | None) -> list[str]:
    notes = []
    if not spec.two_branches:
        notes.append("an ordinary MLP: loaded as a GLU whose other branch is one everywhere")
    elif spec.activation != "linear":
        notes.append(_how_to_convert(spec.activation, source))
    if spec.scale_origin == "derived" and scaled is None:
        notes.append(
            f"config.json has no scale_attn: {'scaled' if spec.scaled else 'not scaled'} because it names "
            f"{'a' if spec.scaled else 'no'} tokenizer, which is ambiguous for files of the time between; "
            f"override with attention_scale={not spec.scaled}"
        )
    if spec.format == "F3" and spec.activation == "relu":
        notes.append("the authors' code of one day ignored `gate`; nothing in the file tells if it was used")
    if strays := [key for key in spec.ignored if not key.endswith(_BUFFERS)]:
        notes.append(f"{len(strays)} stray tensors that the forward does not use, such as {strays[0]}")
    return notes


def _huggingface(path: Path, name: str, source: str) -> CheckpointInfo:
    shapes = read_all_shapes(path)
    config = _config(path, len(shapes))
    text = config.get_text_config()
    family = FAMILIES.get(text.model_type)
    if family:
        require_fitting(text, shapes, path)
    tied = bool(getattr(config, "tie_word_embeddings", False)) and not _has_a_head_of_its_own(path, shapes)
    names = ("hidden_act", "hidden_activation", "activation_function")
    gate = _first(text, *((family.activation_name,) if family else names))
    is_glu = any(".gate_proj." in key or ".gate_up_proj" in key for key in shapes)
    notes = [] if is_glu else ["no gated linear unit (GLU) in its MLPs"]
    if is_glu and gate not in (None, "linear"):
        notes.append(_how_to_convert(gate, source))
    counted = {key: math.prod(shape) for key, shape in shapes.items() if not key.endswith(_BUFFERS)}
    if tied and len(_shared(shapes)) > 1:
        counted.pop("lm_head.weight")
    n_heads = _first(text, "num_attention_heads")
    return CheckpointInfo(
        name=name,
        format=f"Hugging Face {config.model_type}",
        n_layers=_first(text, "num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=_first(text, "num_key_value_heads") or n_heads,
        d_model=_first(text, "hidden_size"),
        d_mlp=_first(text, "intermediate_size", "n_inner", "ffn_dim"),
        d_vocab=_first(text, "vocab_size"),
        n_ctx=_first(text, "max_position_embeddings"),
        gate=gate,
        bilinear=is_glu and gate == "linear",
        norm=_norm(text),
        tied_embeddings=tied,
        n_parameters=sum(counted.values()),
        attention_scale=1.0,
        attention_scale_origin="format",
        notes=tuple(notes),
    )


def _config(folder: Path, n_tensors: int) -> PretrainedConfig | StatedConfig:
    """The configuration of a folder, by transformers where it does not state everything itself."""
    stated = stated_config(read_values(folder, n_tensors))
    if stated is not None:
        return stated
    from bilinear_lm.checkpoints.huggingface import read_huggingface_config

    return read_huggingface_config(folder, n_tensors)


def _shared(shapes: dict[str, Shape]) -> list[str]:
    """The embedding and the unembedding, as far as a folder holds them; they are one tensor where tied."""
    return [key for key in shapes if key == "lm_head.weight" or key.endswith(_EMBEDDINGS)]


def _has_a_head_of_its_own(path: Path, shapes: dict[str, Shape]) -> bool:
    """Whether embedding and unembedding are both there and differ, so that transformers does not tie them."""
    keys = _shared(shapes)
    if len(keys) < 2:
        return False
    first, second = (read_tensor(path, key) for key in keys[:2])
    return not first.equal(second)


def _norm(config: PretrainedConfig | StatedConfig) -> str | None:
    if hasattr(config, "rms_norm_eps"):
        return "none" if config.rms_norm_eps >= IDENTITY_EPS else "RMS"
    has_layer_norm = hasattr(config, "layer_norm_epsilon") or hasattr(config, "layer_norm_eps")
    return "LayerNorm" if has_layer_norm else None


def _first(config: PretrainedConfig | StatedConfig, *names: str) -> Any:
    """The first of these attributes that a configuration has; families differ in their names."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)


def _how_to_convert(gate: str, source: str) -> str:
    return f"the gate is {gate}, so no tensor; make it bilinear with: bilinear-lm convert {source} -o DIR"
