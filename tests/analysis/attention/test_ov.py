"""What heads write between directions, against the model's own heads and by brute force."""

import pytest
import torch

import bilinear_lm.numerics.memory
from analysis.attention.layer import attention_layer
from analysis.attention.ov import feature_outputs, strongest_outputs
from analysis.paths.measured import measure
from bilinear_lm import InputError, hook

IDS = torch.tensor([3, 1, 4, 1, 5, 9])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "options", [{"n_kv_heads": 4}, {"n_kv_heads": 2}, {"attention_bias": True}, {"family": "Qwen3"}], ids=str
)
def test_a_head_writes_what_it_attends_to(family_model, options):
    """Features at the keys, weighted by the hooked pattern, are the hooked output along readers."""
    model = family_model(**options)
    features, codes, readers = draw(20, 16), draw(50, 20, seed=1), draw(7, 16, seed=2)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(codes @ features / 4)
    scale = measure(model, IDS).layers[0].ln1_scale
    written = feature_outputs(attention_layer(model, 0), features, readers, constant=True).matrix()
    points = torch.cat([codes[IDS] / 4 / scale[:, None], torch.ones(len(IDS), 1)], dim=1)
    bridge = hook(model)
    _, cache = bridge.run_with_cache(IDS.unsqueeze(0))
    pattern, z = cache["blocks.0.attn.hook_pattern"][0], cache["blocks.0.attn.hook_z"][0]
    z = z.unflatten(-1, (4, 6)) if z.ndim == 2 else z
    theirs = torch.einsum("qhe,hed,rd->hqr", z, attention_layer(bridge, 0).weights.W_O, readers)
    assert torch.allclose(pattern @ (points @ written), theirs, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 200, 2**28])
def test_strongest_outputs_are_those_of_brute_force(family_model, monkeypatch, chunk):
    monkeypatch.setattr(bilinear_lm.numerics.memory, "CHUNK_BYTES", chunk)
    outputs = feature_outputs(attention_layer(family_model(), 1), draw(9, 16), draw(5, 16, seed=1))
    dense = outputs.matrix()
    found = strongest_outputs(outputs, 20)
    order = dense.abs().flatten().argsort(descending=True)[:20]
    assert torch.equal((found.heads * 9 + found.left) * 5 + found.right, order)
    assert torch.allclose(found.values, dense.flatten()[order])
    assert found.offsets is None
    assert [pair.head for pair in found] == found.heads.tolist()


def test_input_that_cannot_be_used(family_model):
    layer = attention_layer(family_model(), 0)
    with pytest.raises(InputError, match=r"W_V of an attention layer: got \[2, 15\]"):
        feature_outputs(layer, draw(2, 15), draw(2, 16))
    with pytest.raises(InputError, match=r"read an attention layer: got \[2, 15\]; expected .* of 16"):
        feature_outputs(layer, draw(2, 16), draw(2, 15))
    outputs = feature_outputs(layer, draw(2, 16), draw(3, 16))
    with pytest.raises(InputError, match="needs 96 bytes, more than max_bytes=95"):
        outputs.matrix(95)
    with pytest.raises(InputError, match="k=0 pairs; expected 1 to the 24"):
        strongest_outputs(outputs, 0)
