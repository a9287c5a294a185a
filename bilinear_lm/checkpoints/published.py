"""The published bilinear checkpoints: what a config.json and the tensors beside it mean.

The authors' code changed five times with the same `transformer.h.{i}` names. The keys and shapes of a file
tell its period; a repository's name never does.
    F1  `mlp.o`, norm weights, configs with `rms`          (F0 has learned positions besides)
    F2  `mlp.o`, configs with `mlp`: "blp", "glp" or "mlp"
    F3  `mlp.o`, configs with `bilinear` and `gate` as booleans
    F4  `mlp.p`, no norm weights, the gate a name
    F5  as F4, the attention branch scaled by 1/sqrt(2 n_layers)
The forward of all: `x += s * attn(norm(x)); x += mlp(norm(x)); logits = lm_head(norm(x))`, where
`mlp(x) = out(gate(left(x)) * right(x))`, or `out(gate(left(x)))` where there is one branch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bilinear_lm.checkpoints.folder import Shape
from bilinear_lm.checkpoints.sizes import require_counts
from bilinear_lm.errors import InputError
from bilinear_lm.shown import shown

ScaleOrigin = Literal["explicit", "derived", "format"]
NORM_PLACES = ("head", "attention", "mlp")

_SIZES = ("n_layer", "n_head", "n_ctx", "d_model", "d_hidden")
_ALWAYS = {*_SIZES, "n_vocab", "scale_attn", "normalization", "norm_bias", "tokenizer"}
_KEYS = {
    "F1": {"bilinear", "rms", "mlp_bias"},
    "F2": {"mlp", "mlp_bias"},
    "F3": {"bilinear", "gate", "bias"},
    "F4": {"bilinear", "gate", "bias"},
    "F5": {"bilinear", "gate", "bias"},
}
# Names, training-time noise and dropout, and what transformers itself writes: no part of the forward.
_NO_PART_OF_THE_FORWARD = {
    *("repo", "dataset", "modifier", "noise", "attn_dropout", "embed_dropout", "mlp_dropout"),
    *("resid_dropout", "architectures", "model_type", "torch_dtype", "dtype", "transformers_version"),
    *("_name_or_path", "auto_map", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("id2label", "label2id", "return_dict", "is_decoder"),
}
_ACTIVATIONS = {
    None: "linear",
    False: "linear",
    True: "relu",
    "relu": "relu",
    "silu": "silu",
    "gelu": "gelu",
}
_RECOMPUTED = re.compile(r".*\.attn\.rotary\.inv_freq")
# Stray linear maps inside a norm, which no published configuration refers to.
_STRAY = re.compile(r".*norm\.linear\.(weight|bias)")
_NORM_PARAMETER = re.compile(r"transformer\.(?:h\.\d+\.n[12]|n_f)(\.norm)?\.(weight|bias|a|b)")
_STAND_IN = re.compile(r"transformer\.(?:h\.\d+\.n[12]|n_f)\.linear\.(weight|bias)")


@shown
@dataclass(frozen=True)
class PublishedSpec:
    """One published checkpoint: its sizes and which of the formats' options it uses."""

    format: str
    n_layers: int
    n_heads: int
    n_ctx: int
    d_model: int
    d_mlp: int
    d_vocab: int
    activation: str
    """The activation of the left branch, in transformers' words: "linear" where there is none."""
    two_branches: bool
    has_norms: bool
    norm_prefix: str
    """The part of a name between a norm and its parameter: "" or ".norm"."""
    norm_parameters: tuple[str, ...]
    """Some of "weight", "bias" (vectors), "a", "b" (scalars): x → a·x / sqrt(mean(x²) + b + 1e-8)."""
    scaled: bool
    scale_origin: ScaleOrigin
    out_name: str
    w_bias: bool
    out_bias: bool
    qkv_bias: bool
    tokenizer: str | None
    ignored: tuple[str, ...] = field(repr=False)
    """The tensors of the file that have no part in the forward."""

    def attention_scale(self, scaled: bool | None = None) -> float:
        """The factor s of the attention branch; `scaled` overrides what the file says."""
        return (2 * self.n_layers) ** -0.5 if (self.scaled if scaled is None else scaled) else 1.0

    def norms(self) -> list[str]:
        """The names of all norms, without those of their parameters."""
        layers = [f"transformer.h.{i}.{norm}" for i in range(self.n_layers) for norm in ("n1", "n2")]
        return [name + self.norm_prefix for name in [*layers, "transformer.n_f"]]

    def shapes(self) -> dict[str, Shape]:
        """Name → shape of every tensor that the forward uses."""
        d, hidden, rows = self.d_model, self.d_mlp, self.d_mlp * (1 + self.two_branches)
        shapes: dict[str, Shape] = {"transformer.wte.weight": (self.d_vocab, d)}
        for i in range(self.n_layers):
            attn, mlp = f"transformer.h.{i}.attn", f"transformer.h.{i}.mlp"
            shapes |= {f"{attn}.qkv.weight": (3 * d, d), f"{attn}.o.weight": (d, d)}
            shapes |= {f"{mlp}.w.weight": (rows, d), f"{mlp}.{self.out_name}.weight": (d, hidden)}
            shapes |= {f"{attn}.qkv.bias": (3 * d,)} if self.qkv_bias else {}
            shapes |= {f"{mlp}.w.bias": (rows,)} if self.w_bias else {}
            shapes |= {f"{mlp}.{self.out_name}.bias": (d,)} if self.out_bias else {}
        for norm in self.norms():
            for name in self.norm_parameters:
                shapes[f"{norm}.{name}"] = (1,) if name in ("a", "b") else (d,)
        return shapes | {"lm_head.weight": (self.d_vocab, d)}


def parse_published(config: dict[str, Any], shapes: dict[str, Shape], where: Path) -> PublishedSpec:
    """The checkpoint that a config and its tensors' shapes describe.

    Raises InputError for what a Llama cannot express, and for every tensor that is missing, left over
    or of another shape than the configuration makes it.
    """
    config = _without_nothing(config)
    _require_types(config, where)
    require_counts(config, where, len(shapes))
    _refuse_inexpressible(config, shapes, where)
    form = _format(config, shapes)
    _refuse_unknown_keys(config, form, where)
    activation, two_branches = _mlp_kind(config, form, shapes, where)
    has_norms = _has_norms(config, form, where)
    prefix, parameters = _norm_parameters(config, form, shapes) if has_norms else ("", ())
    scaled, origin = _scale(config, form)
    w_bias, out_bias = _mlp_biases(config, form, two_branches)
    spec = PublishedSpec(
        format=form,
        n_layers=config["n_layer"],
        n_heads=config["n_head"],
        n_ctx=config["n_ctx"],
        d_model=config["d_model"],
        d_mlp=config["d_hidden"],
        d_vocab=config.get("n_vocab", _rows(shapes, "transformer.wte.weight")),
        activation=activation,
        two_branches=two_branches,
        has_norms=has_norms,
        norm_prefix=prefix,
        norm_parameters=parameters,
        scaled=scaled,
        scale_origin=origin,
        out_name="p" if form in ("F4", "F5") else "o",
        w_bias=w_bias,
        out_bias=out_bias,
        qkv_bias=bool(config.get("bias")) and any(key.endswith(".attn.qkv.bias") for key in shapes),
        tokenizer=config.get("tokenizer"),
        ignored=tuple(key for key in shapes if _RECOMPUTED.fullmatch(key) or _STRAY.fullmatch(key)),
    )
    _require_shapes(spec, shapes, where)
    return spec


def _without_nothing(config: dict[str, Any]) -> dict[str, Any]:
    """A config without its null entries, except where null is a meaningful value."""
    answers = ("gate", "normalization", "tokenizer")
    return {key: value for key, value in config.items() if value is not None or key in answers}


def _require_types(config: dict[str, Any], where: Path) -> None:
    sizes = [*_SIZES, "n_vocab"] if "n_vocab" in config else list(_SIZES)
    wrong = [
        f"{key} is {config.get(key)!r}, expected a positive whole number"
        for key in sizes
        if type(config.get(key)) is not int or config[key] < 1
    ]
    wrong += [
        f"{key} is {config[key]!r}, expected true or false"
        for key in ("bilinear", "scale_attn", "attention2", "rms", "bias", "mlp_bias", "norm_bias")
        if not isinstance(config.get(key, False), bool)
    ]
    if not isinstance(config.get("tokenizer", ""), str | None):
        wrong.append(f"tokenizer is {config['tokenizer']!r}, expected a name")
    if wrong:
        raise InputError(f"{where / 'config.json'}: {'; '.join(wrong)}")
    if config["d_model"] % (2 * config["n_head"]):
        raise InputError(
            f"{where / 'config.json'}: d_model {config['d_model']} over n_head {config['n_head']}; "
            "expected heads of an even width, which rotary positions need"
        )


def _refuse_inexpressible(config: dict[str, Any], shapes: dict[str, Shape], where: Path) -> None:
    d = config["d_model"]
    obstacles = []
    if "transformer.wpe.weight" in shapes:
        obstacles.append("learned positions (transformer.wpe.weight)")
    if config.get("attention2") or shapes.get("transformer.h.0.attn.qkv.weight") == (5 * d, d):
        obstacles.append("attention2, a product of two scores without softmax")
    if config.get("rms") is False or config.get("normalization") == "ln":
        obstacles.append("LayerNorm")
    if stand_ins := [key for key in shapes if _STAND_IN.fullmatch(key)]:
        obstacles.append(f"linear maps in place of norms ({', '.join(stand_ins)})")
    if obstacles:
        raise InputError(f"{where}: {', '.join(obstacles)}: a transformers Llama cannot express this model")


def _format(config: dict[str, Any], shapes: dict[str, Shape]) -> str:
    if not any(key.endswith(".mlp.o.weight") for key in shapes):
        return "F5" if config.get("scale_attn", "tokenizer" in config) else "F4"
    if "mlp" in config:
        return "F2"
    return "F3" if "gate" in config or "normalization" in config else "F1"


def _refuse_unknown_keys(config: dict[str, Any], form: str, where: Path) -> None:
    known = _ALWAYS | _KEYS[form] | _NO_PART_OF_THE_FORWARD
    unknown = [f"{key}={value!r}" for key, value in config.items() if key not in known and value]
    if unknown:
        raise InputError(
            f"{where / 'config.json'}: {', '.join(unknown)}: unknown in the published format {form}, so its "
            "part in the forward is unknown; delete what has none"
        )


def _mlp_kind(config: dict[str, Any], form: str, shapes: dict[str, Shape], where: Path) -> tuple[str, bool]:
    """The left branch's activation and whether there is a right branch."""
    if form == "F2":
        kinds = {"blp": ("linear", True), "glp": ("gelu", True), "mlp": ("gelu", False)}
        if config["mlp"] not in list(kinds):
            raise InputError(
                f"{where / 'config.json'}: mlp is {config['mlp']!r}; expected one of {', '.join(kinds)}"
            )
        return kinds[config["mlp"]]
    rows = _rows(shapes, "transformer.h.0.mlp.w.weight")
    bilinear = bool(config.get("bilinear", rows != config["d_hidden"]))
    if form == "F1":
        return "linear" if bilinear else "gelu", bilinear
    gate = config.get("gate")
    if gate not in list(_ACTIVATIONS):
        raise InputError(
            f"{where / 'config.json'}: gate is {gate!r}; expected null, a boolean, relu, silu or gelu"
        )
    return _ACTIVATIONS[gate], bilinear


def _has_norms(config: dict[str, Any], form: str, where: Path) -> bool:
    """Whether there is an RMS norm in every place; False where there is none in any."""
    kinds = {True: True, "rms": True, False: False, None: False}
    setting = config.get("normalization", True if form == "F1" else "absent")
    places = setting if isinstance(setting, list) else [setting] * len(NORM_PLACES)
    if len(places) != len(NORM_PLACES) or any(kind not in list(kinds) for kind in places):
        raise InputError(
            f"{where / 'config.json'}: normalization is {setting!r}; expected true or false, rms or null, "
            "or a list of one boolean each for head, attention and mlp"
        )
    present = [place for place, kind in zip(NORM_PLACES, places, strict=True) if kinds[kind]]
    if 0 < len(present) < len(NORM_PLACES):
        raise InputError(
            f"{where}: norms before {' and '.join(present)} only: a transformers Llama has them in all "
            "places or none and cannot express this model"
        )
    return bool(present)


def _norm_parameters(
    config: dict[str, Any], form: str, shapes: dict[str, Shape]
) -> tuple[str, tuple[str, ...]]:
    matches = [match for key in shapes if (match := _NORM_PARAMETER.fullmatch(key))]
    prefix = ".norm" if any(match[1] for match in matches) else ""
    names = {match[2] for match in matches}
    if form in ("F4", "F5"):
        names |= {"a", "b"} if config.get("norm_bias") or names & {"a", "b"} else set()
    else:
        names |= {"weight", "bias"} if config.get("norm_bias") else {"weight"}
    if config.get("norm_bias") is False and form != "F3":
        names -= {"bias", "a", "b"}  # contradicts the configuration, hence reported as left over
    return prefix, tuple(sorted(names))


def _mlp_biases(config: dict[str, Any], form: str, two_branches: bool) -> tuple[bool, bool]:
    """Whether the MLP's first and last maps have biases; ordinary MLPs had them by default."""
    if form == "F1":
        return (bool(config.get("mlp_bias")), False) if two_branches else (True, True)
    if form == "F2":
        return bool(config.get("mlp_bias")) or not two_branches, False
    return bool(config.get("bias")), bool(config.get("bias"))


def _scale(config: dict[str, Any], form: str) -> tuple[bool, ScaleOrigin]:
    """Whether the attention branch is scaled: F4 and F5 differ in nothing else."""
    if "scale_attn" in config:
        return config["scale_attn"], "explicit"
    return form == "F5", "derived" if form in ("F4", "F5") else "format"


def _rows(shapes: dict[str, Shape], key: str) -> int:
    """Rows of a tensor; 0 where it is missing or a single number, which `_require_shapes` names."""
    return next(iter(shapes.get(key, ())), 0)


def _require_shapes(spec: PublishedSpec, shapes: dict[str, Shape], where: Path) -> None:
    expected = spec.shapes()
    missing = [f"{key} {list(shape)} is missing" for key, shape in expected.items() if key not in shapes]
    left_over = [
        f"{key} {list(shape)} is left over"
        for key, shape in shapes.items()
        if key not in expected and key not in spec.ignored
    ]
    wrong = [
        f"{key} is {list(shapes[key])}, expected {list(shape)}"
        for key, shape in expected.items()
        # A scalar was saved with or without its one axis.
        if key in shapes and shapes[key] != shape and (shape, shapes[key]) != ((1,), ())
    ]
    if problems := missing + left_over + wrong:
        raise InputError(
            f"{where}: the tensors do not fit the published format {spec.format} with this config.json: "
            f"{'; '.join(problems)}"
        )
