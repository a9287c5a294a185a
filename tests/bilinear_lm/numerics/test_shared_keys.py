"""Shared keys and values: the same numbers, and in float32 none that are shared reach torch."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from analysis.circuits.prompt.gradients import _on_copy, target_gradients
from analysis.circuits.prompt.prompt import open_prompt
from analysis.circuits.targets import LogitTarget
from bilinear_lm.numerics import shared_keys
from bilinear_lm.numerics.shared_keys import KeysOfEachHead


class Heads(TorchFunctionMode):
    """While open, the heads of queries and of keys that attention is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is scaled_dot_product_attention:
            self.seen.append((args[0].shape[1], args[1].shape[1]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("dtype", "n_keys"), [(torch.float32, 4), (torch.float64, 4), (torch.bfloat16, 2)], ids=str
)
def test_the_same_numbers(dtype, n_keys):
    torch.manual_seed(5)
    query, *shared = (torch.randn(3, heads, 7, 8, dtype=dtype, requires_grad=True) for heads in (4, 2, 2))

    def both():
        result = scaled_dot_product_attention(query, *shared, is_causal=True, enable_gqa=True)
        return result, *torch.autograd.grad(result.square().sum(), (query, *shared))

    expected = both()
    with Heads() as heads, KeysOfEachHead():
        torch.testing.assert_close(both(), expected)
    assert heads.seen == [(4, n_keys)]


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(shared_keys, "SHARED_ON", ())


def test_measuring_and_derivatives(make_model, as_on_a_gpu):
    model, ids, n_layers = make_model(), torch.tensor([3, 1, 4, 1, 5]), 2
    model.set_attn_implementation("sdpa")
    with Heads() as heads:
        prompt = open_prompt(model, ids)
        assert heads.seen == n_layers * [(4, 4)]
        target_gradients(prompt, LogitTarget(7))
        assert heads.seen == 2 * n_layers * [(4, 4)]
    with Heads() as heads:
        model(input_ids=ids.unsqueeze(0))
    assert heads.seen == n_layers * [(4, 2)]


def test_what_a_backward_pass_computes_anew_in_its_own_thread(as_on_a_gpu):
    def attention(x):
        return scaled_dot_product_attention(x, x[:, :2], x[:, :2], enable_gqa=True)

    def anew():
        with Heads() as heads:
            _on_copy(attention)(torch.ones(1, 4, 3, 8))
        return heads.seen

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(anew).result() == [(4, 4)]
