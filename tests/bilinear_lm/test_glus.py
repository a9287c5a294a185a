"""Gated MLPs are found in every family by what they compute, and written back."""

import dataclasses

import pytest
import torch
import transformers
from torch import nn
from torch.nn.functional import silu

from bilinear_lm import InputError
from bilinear_lm.glu_weights import GLUWeights
from bilinear_lm.glus import bilinear_glus, find_glus

from .tiny_families import ACTIVATION, TOKENS, gated, tiny_family

in_each = pytest.mark.parametrize("family", ACTIVATION)


def points(*shape, width=32):
    return torch.randn(*shape, width, generator=torch.Generator().manual_seed(3))


@in_each
def test_found_in_every_family(family):
    model = gated(family, num_hidden_layers=3, dtype=torch.float64)
    glus = find_glus(model)
    assert [glu.name for glu in glus] == [f"model.layers.{layer}.mlp" for layer in range(3)]
    assert bilinear_glus(glus) == ()
    x = points(2, 5).double()
    for glu, block in zip(glus, model.model.layers, strict=True):
        assert glu.module is block.mlp
        assert glu.fused == (family == "Phi3")
        assert glu.down == "down_proj"
        factors = glu.factors()
        assert factors.W_gate.shape == (32, 48)
        assert (factors.b_out is not None) == (family == "Granite")
        torch.testing.assert_close(factors.output(x, glu.activation), block.mlp(x), rtol=1e-12, atol=1e-12)
        if family != "Phi3":
            torch.testing.assert_close(factors.W_gate, block.mlp.gate_proj.weight.T)


@in_each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_found_in_half_precision(family, dtype):
    gates = [glu.gate for glu in find_glus(gated(family, dtype=dtype))]
    assert gates == ["gate_up_proj" if family == "Phi3" else "gate_proj"] * 2


def test_found_on_the_meta_device():
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(gated("Llama").config)
    assert len(find_glus(model)) == 2


def test_bilinear_ones():
    glus = find_glus(tiny_family("Mistral", activation="linear"))
    assert bilinear_glus(glus) == glus


class Fused(nn.Module):
    """One projection for both, the gate in its first or second half; `scale` shrinks the weights."""

    def __init__(self, gate_first, scale):
        super().__init__()
        self.out, self.both = nn.Linear(48, 32), nn.Linear(32, 96)
        self.function = silu
        self.gate_first = gate_first
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(scale)

    def forward(self, x):
        gate, up = self.both(x).chunk(2, dim=-1)
        if not self.gate_first:
            gate, up = up, gate
        return self.out(self.function(gate) * up)


class Blocks(nn.Module):
    def __init__(self, *mlps):
        super().__init__()
        self.layers = nn.ModuleList(mlps)


@pytest.mark.parametrize("gate_first", [True, False])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gate_of_fused_halves_is_found_by_the_function(gate_first, scale, dtype):
    torch.manual_seed(0)
    mlp = Fused(gate_first, scale).to(dtype)
    (glu,) = find_glus(Blocks(mlp))
    assert (glu.gate, glu.up, glu.down) == ("both", "both", "out")
    assert glu.gate_first == gate_first
    assert glu.activation_name == "function"
    gate = mlp.both.weight.chunk(2)[0 if gate_first else 1]
    assert torch.equal(glu.factors().W_gate, gate.T)


def test_weights_of_zero():
    mlp = Fused(True, 0.0)
    assert len(find_glus(Blocks(mlp))) == 1


def test_modules_of_other_shapes_are_named():
    model = gated("Llama", num_hidden_layers=3)
    model.model.layers[1].mlp = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32))
    with pytest.raises(
        InputError, match=r"2 gated MLPs found in LlamaForCausalLM, but model\.layers\.1\.mlp"
    ):
        find_glus(model)


def test_an_mlp_of_another_function_is_named():
    class Added(nn.Module):
        def __init__(self, mlp):
            super().__init__()
            self.gate, self.up, self.down, self.act = mlp.gate_proj, mlp.up_proj, mlp.down_proj, nn.SiLU()

        def forward(self, x):
            return self.down(self.act(self.gate(x)) + self.up(x))

    model = gated("Llama")
    model.model.layers[0].mlp = Added(model.model.layers[0].mlp)
    with pytest.raises(InputError, match=r"1 gated MLPs found .* model\.layers\.0\.mlp\.gate \(Linear\)"):
        find_glus(model)


SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def mixtral():
    config = transformers.MixtralConfig(
        **SIZES, intermediate_size=48, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2
    )
    return transformers.MixtralForCausalLM(config)


def t5():
    config = transformers.T5Config(vocab_size=64, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4)
    return transformers.T5ForConditionalGeneration(config)


def gpt2():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4)
    )


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (mixtral, r"MixtralForCausalLM; its blocks hold model\.layers\.0\.mlp"),
        (
            t5,
            r"T5ForConditionalGeneration; its blocks hold encoder\.block\.0\..*DenseReluDense\.wi \(Linear\)",
        ),
        (gpt2, r"GPT2LMHeadModel; its blocks hold transformer\.h\.0\.mlp\.c_fc \(Conv1D\)"),
        (lambda: nn.Linear(3, 3), "no gated MLP found in Linear; it has no list of blocks"),
    ],
)
def test_models_without_gated_mlps(make, named):
    with pytest.raises(InputError, match=named):
        find_glus(make())


@in_each
def test_written_weights_are_read_back_and_computed_with(family):
    model = gated(family)
    glu = find_glus(model)[0]
    torch.manual_seed(1)
    new = {name: torch.randn_like(value) for name, value in vars(glu.factors()).items() if value is not None}
    glu.write(GLUWeights(**new))
    for name, value in new.items():
        assert torch.equal(getattr(glu.factors(), name), value)
    x = points(4)
    torch.testing.assert_close(
        glu.module(x), GLUWeights(**new).output(x, glu.activation), rtol=1e-5, atol=1e-5
    )
    with torch.inference_mode():
        assert model(input_ids=TOKENS).logits.isfinite().all()


@pytest.mark.parametrize("family", ["Llama", "Phi3"])
def test_biases_are_added(family):
    model = gated(family, dtype=torch.bfloat16)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    glu = find_glus(model)[1]
    before = set(dict(model.named_parameters()))
    biases = {"b_gate": points(width=48), "b_in": -points(width=48), "b_out": points(width=32)}
    glu.write(dataclasses.replace(glu.factors().to(torch.float32), **biases))
    added = {name: value for name, value in model.named_parameters() if name not in before}
    assert len(added) == (2 if family == "Phi3" else 3)
    assert all(name.startswith("model.layers.1.mlp") for name in added)
    assert all(value.dtype == torch.bfloat16 and not value.requires_grad for value in added.values())
    for name, value in biases.items():
        assert torch.equal(getattr(glu.factors(), name), value.bfloat16())
    glu.write(dataclasses.replace(glu.factors(), b_gate=None, b_in=None, b_out=None))
    assert all(not value.any() for value in added.values())


def test_weights_that_do_not_fit_are_refused():
    glu = find_glus(gated("Llama"))[0]
    own = glu.factors()
    with pytest.raises(InputError, match=r"model\.layers\.0\.mlp: W_out is \[48, 31\]; expected \[48, 32\]"):
        glu.write(GLUWeights(own.W_gate, own.W_in, own.W_out[:, :-1]))
    with pytest.raises(InputError, match=r"model\.layers\.0\.mlp: biases of some projections only"):
        glu.write(dataclasses.replace(own, b_out=torch.zeros(32)))
    assert torch.equal(glu.factors().W_out, own.W_out)
