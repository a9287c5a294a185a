"""Dictionaries of every format, written by hand from random numpy arrays."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

D, F = 6, 24


@pytest.fixture
def weights():
    """Encoder [D, F], decoder [F, D], biases, a positive threshold and a skip matrix [D, D], in float32."""
    rng = np.random.default_rng(0)
    made = {
        "encoder": rng.normal(size=(D, F)),
        "decoder": rng.normal(size=(F, D)),
        "b_enc": rng.normal(size=F),
        "b_dec": rng.normal(size=D),
        "threshold": rng.uniform(0.2, 2.0, size=F),
        "skip": rng.normal(size=(D, D)),
    }
    return {name: value.astype(np.float32) for name, value in made.items()}


@pytest.fixture
def points():
    return np.random.default_rng(1).normal(size=(30, D)).astype(np.float32)


@pytest.fixture
def write(tmp_path):
    """Writes tensors and a configuration as a folder; an absent configuration is not written."""

    def write(tensors, config=None, *, folder="dictionary", weights_name, config_name="cfg.json"):
        path = tmp_path / folder
        path.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        save_file(arrays, path / weights_name)
        if config is not None:
            (path / config_name).write_text(json.dumps(config))
        return path

    return write


@pytest.fixture
def write_saelens(weights, write):
    def write_it(config=None, drop=(), add=None, folder="dictionary"):
        tensors = {
            "W_enc": weights["encoder"],
            "b_enc": weights["b_enc"],
            "W_dec": weights["decoder"],
            "b_dec": weights["b_dec"],
        } | (add or {})
        config = {
            "architecture": "standard",
            "d_in": D,
            "d_sae": F,
            "apply_b_dec_to_input": True,
            "normalize_activations": "none",
            "metadata": {"sae_lens_version": "6.0.0", "hook_name": "blocks.3.hook_resid_post"},
        } | (config or {})
        kept = {name: value for name, value in tensors.items() if name not in drop}
        return write(kept, config, weights_name="sae_weights.safetensors", folder=folder)

    return write_it


@pytest.fixture
def write_sparsify(weights, write):
    def write_it(config=None, drop=(), add=None, folder="layers.2.mlp"):
        tensors = {
            "encoder.weight": weights["encoder"].T,
            "encoder.bias": weights["b_enc"],
            "W_dec": weights["decoder"],
            "b_dec": weights["b_dec"],
        } | (add or {})
        config = {"activation": "topk", "k": 5, "num_latents": F, "d_in": D} | (config or {})
        kept = {name: value for name, value in tensors.items() if name not in drop}
        return write(kept, config, weights_name="sae.safetensors", folder=folder)

    return write_it


@pytest.fixture
def write_published(weights, write):
    def write_it(config=None, drop=(), add=None):
        tensors = {
            "w_enc.weight": weights["encoder"].T,
            "w_dec.weight": weights["decoder"].T,
            "b_dec": weights["b_dec"],
        } | (add or {})
        config = {"point": ["mlp-out", 4], "target": None, "k": 5, "normalize": None} | (config or {})
        kept = {name: value for name, value in tensors.items() if name not in drop}
        return write(kept, config, weights_name="model.safetensors", config_name="config.json")

    return write_it


@pytest.fixture
def write_circuit_tracer(weights, write):
    def write_it(drop=(), add=None, name="layer_7.safetensors"):
        tensors = {
            "W_enc": weights["encoder"].T,
            "b_enc": weights["b_enc"],
            "W_dec": weights["decoder"],
            "b_dec": weights["b_dec"],
        } | (add or {})
        kept = {name: value for name, value in tensors.items() if name not in drop}
        return write(kept, weights_name=name) / name

    return write_it
