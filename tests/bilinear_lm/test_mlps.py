"""MLPs without gates are found by what they compute; what needs a gate or a norm refuses their models."""

import pytest
import torch
import transformers
from torch import nn

import bilinear_lm as bl
from analysis import replaced_mlp
from bilinear_lm.cli import main
from bilinear_lm.mlps import mlp_module, n_layers, ungated_mlp

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300}


def gpt_neox(**settings):
    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(**SHAPE, intermediate_size=36, max_position_embeddings=32, **settings)
    return transformers.GPTNeoXForCausalLM(config)


def gpt2(**settings):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=4, n_positions=32, vocab_size=300, n_inner=36, **settings
    )
    return transformers.GPT2LMHeadModel(config)


MODELS = {
    "ReLU": lambda: gpt_neox(hidden_act="relu"),
    "exact GELU": lambda: gpt_neox(hidden_act="gelu"),
    "parallel": lambda: gpt_neox(hidden_act="gelu_new", use_parallel_residual=True),
    "GPT-2, in training with dropout": gpt2,
}


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_those_of_the_module(name):
    model = MODELS[name]().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    was_training = model.training
    assert n_layers(model) == 2
    for layer in (0, 1, -1):
        weights, activation = bl.mlp_weights(model, layer, fold_norm=False)
        assert (weights.W_in, weights.W_gate.shape, weights.W_out.shape) == (None, (16, 36), (36, 16))
        module = mlp_module(model, layer)
        assert module is dict(model.named_modules())[f"{prefix(model)}.{layer % 2}.mlp"]
        x = torch.randn(3, 5, 16, dtype=torch.float64)
        found = weights.output(x, activation)
        module.eval()
        torch.testing.assert_close(found, module(x), rtol=1e-12, atol=1e-12)
    assert model.training == was_training


def prefix(model):
    return "transformer.h" if isinstance(model, transformers.GPT2LMHeadModel) else "gpt_neox.layers"


def test_a_square_mlp_and_half_precision():
    """Shapes alone do not tell which projection is first."""
    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(
        **SHAPE, intermediate_size=16, max_position_embeddings=32, hidden_act="relu"
    )
    for dtype in (torch.float32, torch.bfloat16):
        model = transformers.GPTNeoXForCausalLM(config).to(dtype)
        up = model.gpt_neox.layers[1].mlp.dense_h_to_4h.weight
        assert torch.equal(ungated_mlp(model, 1).weights.W_gate, up.T)


class DownFirst(nn.Module):
    """An MLP whose projections are made in the other order."""

    def __init__(self):
        super().__init__()
        self.down, self.up, self.act = nn.Linear(36, 16), nn.Linear(16, 36), nn.ReLU()

    def forward(self, x):
        return self.down(self.act(self.up(x)))


class AddsInput(DownFirst):
    """An MLP that adds its input to its output, as no formula of ours says."""

    def forward(self, x):
        return x + super().forward(x)


class AddsOther(DownFirst):
    """An MLP that is called with the residual stream too, as BLOOM's."""

    def forward(self, x, residual):
        return residual + super().forward(x)


def test_the_order_of_projections_is_told_by_the_width():
    model = gpt_neox()
    model.gpt_neox.layers[1].mlp = mlp = DownFirst()
    assert torch.equal(ungated_mlp(model, 1).weights.W_gate, mlp.up.weight.T)


def test_what_is_no_such_mlp():
    model = gpt_neox()
    with pytest.raises(bl.InputError, match="layer 2 does not exist; GPTNeoXForCausalLM has 2 blocks"):
        bl.mlp_weights(model, 2, fold_norm=False)
    for other in (AddsInput(), AddsOther(), nn.Linear(16, 16)):
        model.gpt_neox.layers[0].mlp = other
        with pytest.raises(bl.InputError, match=r"0 MLPs without a gate found in layer 0 of GPTNeoX.*; expe"):
            bl.mlp_weights(model, 0, fold_norm=False)
    model.gpt_neox.layers[1].second = gpt_neox().gpt_neox.layers[0].mlp
    with pytest.raises(bl.InputError, match="2 MLPs without a gate found in layer 1"):
        bl.mlp_weights(model, 1, fold_norm=False)
    with pytest.raises(bl.InputError, match="weights of a Linear model; expected one of llama"):
        n_layers(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "call",
    [
        lambda model: bl.mlp_tensor(model, 0),
        lambda model: bl.mlp_tensor(model, 0, fold_norm=False),
        lambda model: bl.mlp_weights(model, 0),
        lambda model: bl.mlp_weights(model, 0, fold_norm=False, fold_norm_after=True),
        lambda model: bl.attention_weights(model, 0),
        lambda model: bl.unembedding(model),
        lambda model: replaced_mlp(model, 0, torch.zeros_like).__enter__(),
    ],
)
def test_what_needs_a_family_refuses(call):
    with pytest.raises(bl.InputError, match="weights of a gpt_neox model; expected one of llama, mistral"):
        call(gpt_neox())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("hosvd", "--layer", "0"), "weights of a gpt_neox model"),
        (("eigen", "--layer", "0", "--all-tokens"), "weights of a gpt_neox model"),
        (("trace", "--prompt", "a cat", "--eigenvectors"), "weights of a gpt_neox model"),
        (("convert", "--calibration", "{}/text.txt"), "no gated MLP found in GPTNeoXForCausalLM"),
    ],
)
def test_commands_that_need_a_gate_refuse(command, said, tmp_path, tiny_tokenizer, capsys):
    from bilinear_lm.checkpoints import save_folder

    save_folder(gpt_neox(), tiny_tokenizer, tmp_path / "model")
    (tmp_path / "text.txt").write_text("a cat and a dog. " * 200)
    name, *rest = (part.format(tmp_path) for part in command)
    assert main([name, str(tmp_path / "model"), *rest, "-o", str(tmp_path / "out"), "--device", "cpu"]) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()
