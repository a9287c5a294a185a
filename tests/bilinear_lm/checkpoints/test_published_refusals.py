"""What a Llama cannot express, and files that do not fit their config, are refused by name."""

import json

import numpy as np
import pytest
import torch

from bilinear_lm.checkpoints import checkpoint_info, load_pretrained
from bilinear_lm.errors import InputError

from .published_cases import F1, F2, F3, F4, F5
from .published_forward import D_MODEL, LAYERS, NORMS, Case, make, write

SQUARE = np.eye(D_MODEL)
LAYER_NORM = (".norm.weight", ".norm.bias")

INEXPRESSIBLE = {
    "learned positions": Case(F1, "o", norm_keys=(".weight",), tensors={"transformer.wpe.weight": SQUARE}),
    "LayerNorm": Case(F2 | {"normalization": "ln", "noise": None}, "o", norm_keys=LAYER_NORM),
    "attention2": Case(F5 | {"attention2": True}),
    r"h\.0\.n2\.linear\.weight": Case(F5, tensors={f"{layer}.n2.linear.weight": SQUARE for layer in LAYERS}),
    r"n_f\.linear\.weight": Case(F5, tensors={"transformer.n_f.linear.weight": SQUARE}),
    "norms before attention only": Case(F4 | {"normalization": [False, True, False]}),
    "norms before head and mlp only": Case(F4 | {"normalization": [True, False, True]}),
    r"n_f\.norm\.bias is not zero": Case(
        F3, "o", norm_keys=LAYER_NORM, tensors={"transformer.n_f.norm.bias": np.ones(D_MODEL)}
    ),
    "epsilons differ": Case(
        F4 | {"norm_bias": True},
        norm_keys=(".norm.a", ".norm.b"),
        tensors={f"{NORMS[1]}.norm.b": np.full(1, 0.1)},
    ),
}


@pytest.mark.parametrize("found", INEXPRESSIBLE)
def test_what_a_llama_cannot_express(found, tmp_path):
    make(INEXPRESSIBLE[found], tmp_path)
    with pytest.raises(InputError, match=found) as error:
        load_pretrained(tmp_path)
    assert "cannot express" in str(error.value)
    assert "\n" not in str(error.value)


def test_old_layer_norm_and_the_wide_qkv_of_attention2(tmp_path):
    make(Case(F1 | {"rms": False}, "o", norm_keys=(".weight",)), tmp_path / "layer-norm")
    with pytest.raises(InputError, match="LayerNorm"):
        load_pretrained(tmp_path / "layer-norm")
    wide = {f"{layer}.attn.qkv.weight": np.zeros((5 * D_MODEL, D_MODEL)) for layer in LAYERS}
    make(Case(F5, tensors=wide), tmp_path / "wide")
    with pytest.raises(InputError, match="attention2"):
        load_pretrained(tmp_path / "wide")


CONFIGS = {
    "n_layer is '3'": {"n_layer": "3"},
    "d_model is 0": {"d_model": 0},
    "n_ctx is None": {"n_ctx": None},
    "n_vocab is 4.5": {"n_vocab": 4.5},
    "n_head 5": {"n_head": 5},
    "scale_attn is 1, expected true or false": {"scale_attn": 1},
    "bilinear is 'yes'": {"bilinear": "yes"},
    "gate is 'tanh'": {"gate": "tanh"},
    r"gate is \[\]": {"gate": []},
    "normalization is 'batch'": {"normalization": "batch"},
    r"normalization is \[True, True\]": {"normalization": [True, True]},
    "tokenizer is 7": {"tokenizer": 7},
    "sliding_window=8": {"sliding_window": 8},
}


@pytest.mark.parametrize("message", CONFIGS)
def test_a_config_that_makes_no_sense(message, tmp_path):
    make(Case(F5 | CONFIGS[message], scaled=True), tmp_path)
    with pytest.raises(InputError, match=message) as error:
        load_pretrained(tmp_path)
    assert "config.json" in str(error.value)


def test_an_unknown_mlp_and_a_missing_normalization(tmp_path):
    make(Case(F2 | {"mlp": "moe"}, "o", norm_keys=(".weight",)), tmp_path / "mlp")
    with pytest.raises(InputError, match="mlp is 'moe'; expected one of blp, glp, mlp"):
        load_pretrained(tmp_path / "mlp")
    make(Case({key: F5[key] for key in F5 if key != "normalization"}), tmp_path / "norm")
    with pytest.raises(InputError, match="normalization is 'absent'"):
        load_pretrained(tmp_path / "norm")


def test_an_unknown_key_that_is_off_changes_nothing(tmp_path):
    make(Case(F5 | {"sliding_window": None, "qk_norm": False}, scaled=True), tmp_path)
    load_pretrained(tmp_path)


def test_missing_left_over_and_misshapen_tensors_are_all_listed(tmp_path):
    tensors = make(Case(F5), tmp_path)
    del tensors["lm_head.weight"], tensors["transformer.h.1.attn.o.weight"]
    tensors["transformer.h.2.mlp.p.weight"] = np.zeros((D_MODEL, 7))
    tensors["transformer.h.3.mlp.p.weight"] = np.zeros(2)
    write(tmp_path, json.loads((tmp_path / "config.json").read_text()), tensors)
    for reader in (load_pretrained, checkpoint_info):
        with pytest.raises(InputError) as error:
            reader(tmp_path)
        for problem in (
            "lm_head.weight [40, 16] is missing",
            "transformer.h.1.attn.o.weight [16, 16] is missing",
            "transformer.h.2.mlp.p.weight is [16, 7], expected [16, 20]",
            "transformer.h.3.mlp.p.weight [2] is left over",
        ):
            assert problem in str(error.value)


BIASES = {
    "mlp.w.bias .* is missing": Case(F5 | {"bias": True}, biases=("mlp.p",)),
    "mlp.w.bias .* is left over": Case(F5, biases=("mlp.w", "mlp.p")),
    "mlp.o.bias .* is left over": Case(
        F2 | {"mlp_bias": True}, "o", norm_keys=(".weight",), biases=("mlp.w", "mlp.o")
    ),
    "h.2.attn.qkv.bias .* is missing": Case(
        F5 | {"bias": True},
        biases=("mlp.w", "mlp.p"),
        tensors={f"{layer}.attn.qkv.bias": np.zeros(3 * D_MODEL) for layer in LAYERS[:2]},
    ),
    "n1.weight .* is missing": Case(F2, "o"),
    "n1.bias .* is left over": Case(F2, "o", norm_keys=(".weight", ".bias")),
    "n1.a .* is missing": Case(F4 | {"norm_bias": True}),
    "mlp.w.weight is .20, 16., expected .40, 16.": Case(F5, branches=1),
    "wte.weight is .40, 16., expected .41, 16.": Case(F4 | {"n_vocab": 41}),
}


@pytest.mark.parametrize("message", BIASES)
def test_tensors_that_contradict_the_config(message, tmp_path):
    make(BIASES[message], tmp_path)
    with pytest.raises(InputError, match=message):
        load_pretrained(tmp_path)


def test_nan_and_float16_without_norms(tmp_path):
    make(
        Case(F5, tensors={"transformer.h.1.attn.o.weight": np.full((D_MODEL, D_MODEL), np.nan)}),
        tmp_path / "nan",
    )
    with pytest.raises(InputError, match=r"NaN or infinity in transformer\.h\.1\.attn\.o\.weight"):
        load_pretrained(tmp_path / "nan")
    make(Case(F5 | {"normalization": False}, norms=False), tmp_path / "half")
    with pytest.raises(InputError, match="float16"):
        load_pretrained(tmp_path / "half", dtype=torch.float16)
