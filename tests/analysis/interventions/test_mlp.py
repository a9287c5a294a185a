"""A replaced MLP: its own tensor changes nothing, another one changes what it should, and leaves no trace."""

import pytest
import torch

from analysis import replaced_mlp
from bilinear_lm import BilinearTensor, InputError, hook, mlp_tensor

IDS = torch.randint(0, 300, (2, 12), generator=torch.Generator().manual_seed(0))
TEXT = "Once upon a time a cat and a dog ran to the park. They saw a big red ball and were happy. " * 3


@pytest.fixture(params=["norms", "no norms", "biases"])
def model(request, make_model):
    return make_model(norms=request.param != "no norms", mlp_bias=request.param == "biases").double()


@pytest.mark.parametrize("fold_norm", [True, False])
@pytest.mark.parametrize("layer", [0, 1, -1])
def test_its_own_tensor_changes_nothing(model, layer, fold_norm):
    before = model(IDS).logits
    with replaced_mlp(model, layer, mlp_tensor(model, layer, fold_norm), fold_norm):
        within = model(IDS).logits
    # The norm itself computes in float32.
    assert torch.allclose(within, before, atol=2e-5 * before.abs().max().item())


def test_its_own_tensor_changes_nothing_in_a_bridge(make_model):
    model = make_model()
    tensor, before = mlp_tensor(model, 1), model(IDS).logits
    bridge = hook(model)
    with replaced_mlp(bridge, 1, tensor):
        within, cache = bridge.run_with_cache(IDS)
        assert torch.allclose(within, before, atol=1e-4)
    with replaced_mlp(bridge, 1, lambda x: torch.ones_like(x)):
        _, cache = bridge.run_with_cache(IDS)
        assert (cache["blocks.1.hook_mlp_out"] == 1).all()


def test_another_map_takes_its_place_and_leaves_no_trace(make_model):
    model = make_model(gate="silu")
    before = model(IDS).logits
    with replaced_mlp(model, 0, torch.zeros_like), replaced_mlp(model, 1, torch.zeros_like):
        without = model(IDS).logits
    assert not torch.allclose(without, before, atol=1e-2)
    with pytest.raises(RuntimeError, match="stop"), replaced_mlp(model, 0, torch.zeros_like):
        raise RuntimeError("stop")
    assert torch.equal(model(IDS).logits, before)
    down = model.model.layers[0].mlp.down_proj.weight, model.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        for weight in down:
            weight.zero_()
    assert torch.allclose(model(IDS).logits, without, atol=1e-6)


def test_the_precision_is_the_tensors_inside_and_the_models_outside(make_model):
    model = make_model().to(torch.bfloat16)
    tensor = mlp_tensor(model, 0).to(torch.float64)
    with replaced_mlp(model, 0, tensor):
        assert model(IDS).logits.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("replacement", "message"),
    [
        (BilinearTensor(torch.ones(8, 4), torch.ones(8, 4), torch.ones(4, 16)), "from width 8 to 16 cannot"),
        (
            BilinearTensor(torch.ones(16, 4), torch.ones(16, 4), torch.ones(4, 8)),
            "expected one layer of width 16",
        ),
        (BilinearTensor(torch.ones(2, 16, 4), torch.ones(2, 16, 4), torch.ones(2, 4, 16)), r"batch \[2\]"),
    ],
)
def test_tensors_that_do_not_fit(make_model, replacement, message):
    with pytest.raises(InputError, match=message), replaced_mlp(make_model(), 0, replacement):
        pass


def test_a_layer_that_does_not_exist(make_model):
    with (
        pytest.raises(InputError, match="layer 7 does not exist"),
        replaced_mlp(make_model(), 7, torch.zeros_like),
    ):
        pass
