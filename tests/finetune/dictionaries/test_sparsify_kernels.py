"""sparsify decodes on the device of its tensors, whatever it chose when it was imported."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

sparsify = pytest.importorskip("sparsify", reason="needs the extra sae: pip install 'bilinear-lm[sae]'")

from sparsify import sparse_coder  # noqa: E402

from finetune.dictionaries.sparsify_kernels import decoder_by_device  # noqa: E402


@pytest.fixture
def kernel(monkeypatch):
    """A stand-in for sparsify's Triton kernel, on a machine without a GPU; and what it was called with."""
    calls = []

    def decode(indices, activations, W_dec):
        calls.append(W_dec.shape)
        if not W_dec.is_cuda:
            raise RuntimeError("0 active drivers ([]). There should only be one.")
        return W_dec.new_empty(len(indices), len(W_dec))

    monkeypatch.setattr(sparse_coder, "decoder_impl", decode)
    return decode, calls


def coder(n_feat=24, **settings):
    torch.manual_seed(0)
    made = sparsify.SparseCoder(6, sparsify.SparseCoderConfig(num_latents=n_feat, k=5, **settings))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def test_both_decodings_on_a_cpu(kernel):
    made = coder(multi_topk=True)
    x, dead = torch.randn(7, 6), torch.arange(24) < 9
    with pytest.raises(RuntimeError, match="0 active drivers"):
        made(x, dead_mask=dead)
    with decoder_by_device():
        out = made(x, dead_mask=dead)
        (out.fvu + out.auxk_loss + out.multi_topk_fvu).backward()
    assert sparse_coder.decoder_impl is kernel[0]
    pre = ((x - made.b_dec) @ made.encoder.weight.mT + made.encoder.bias).relu()

    def decoded(k, n_feat=24):
        strongest = [pre[row, :n_feat].topk(k).indices for row in range(7)]
        return torch.stack([sum(pre[row, i] * made.W_dec[i] for i in strongest[row]) for row in range(7)])

    left = x - decoded(5) - made.b_dec
    variance = (x - x.mean(0)).square().sum()
    torch.testing.assert_close(out.fvu, left.square().sum() / variance)
    torch.testing.assert_close(out.auxk_loss, (decoded(3, n_feat=9) - left).square().sum() / variance)
    torch.testing.assert_close(out.sae_out, decoded(20) + made.b_dec)  # of four times as many features
    assert all(bool(parameter.grad.any()) for parameter in made.parameters())


@pytest.mark.parametrize(
    ("n_feat", "device", "by_kernel"),
    [(24, "cuda", True), (20, "cuda", False), (24, "cpu", False), (24, "meta", False)],
)
def test_the_kernel_decodes_where_it_can_run(kernel, n_feat, device, by_kernel):
    with FakeTensorMode(), decoder_by_device():
        W_dec = torch.empty(6, n_feat, device=device)
        indices = torch.zeros(3, 5, dtype=torch.long, device=device)
        decoded = sparse_coder.decoder_impl(indices, torch.empty(3, 5, device=device), W_dec)
    assert (tuple(decoded.shape), decoded.device) == ((3, 6), W_dec.device)
    assert bool(kernel[1]) == by_kernel


def test_the_choice_is_put_back_after_an_error(kernel):
    with pytest.raises(KeyError), decoder_by_device():
        raise KeyError
    assert sparse_coder.decoder_impl is kernel[0]
