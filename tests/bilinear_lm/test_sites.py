"""Activations at the sites of a block, against the block computed by hand, and what replacing them does."""

import dataclasses

import pytest
import torch

from bilinear_lm import Dictionary, InputError, Site
from bilinear_lm.sites import POINTS, mlp_inputs, replaced, site_activations
from finetune.dictionaries.fidelity import measure_fidelity, spliced

SITES = [Site(1, point) for point in POINTS]


@pytest.fixture
def model(make_model):
    return make_model(gate="silu", n_layers=3)


@pytest.fixture
def ids():
    return torch.randint(300, (4, 12), generator=torch.Generator().manual_seed(0))


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=ids).logits


def test_the_points_of_a_block_fit_together(model, ids):
    (seen,) = site_activations(model, [ids], SITES)
    pre, attn, mid, mlp_in, mlp_out, post = (seen[site] for site in SITES)
    block = model.model.layers[1]
    torch.testing.assert_close(mid, pre + attn)
    torch.testing.assert_close(post, mid + mlp_out)
    with torch.inference_mode():
        torch.testing.assert_close(mlp_in, block.post_attention_layernorm(mid))
        torch.testing.assert_close(mlp_out, block.mlp(mlp_in))
        hidden = model.model(input_ids=ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(pre, hidden[1])
    torch.testing.assert_close(post, hidden[2])
    weight = block.post_attention_layernorm.weight
    torch.testing.assert_close(mlp_in, mlp_inputs(model, ids, [1])[0] * weight.detach())


def test_batches_are_streamed_and_hooks_taken_off(model, ids):
    batches = iter(ids.split(2))
    stream = site_activations(model, batches, SITES)
    first = next(stream)[SITES[0]]
    assert len(list(batches)) == 1
    (whole,) = site_activations(model, [ids], SITES)
    torch.testing.assert_close(first, whole[SITES[0]][:2])
    stream.close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("site", SITES, ids=str)
def test_putting_the_same_activations_back_changes_nothing(model, ids, site):
    clean = logits(model, ids)
    with replaced(model, site, lambda x: x.clone()):
        torch.testing.assert_close(logits(model, ids), clean)
    with replaced(model, site, lambda x: x * 1.5):
        assert not torch.allclose(logits(model, ids), clean, atol=1e-3)
    torch.testing.assert_close(logits(model, ids), clean)


@pytest.mark.parametrize("site", SITES, ids=str)
def test_a_replacement_goes_on_as_the_block_would(model, ids, site):
    """Activations moved at one point: the points after it in the block are recomputed by hand."""
    (clean,) = site_activations(model, [ids], SITES)
    moved = {site: clean[site].flip(-1) * 1.3}
    later = SITES[SITES.index(site) + 1 :]
    with replaced(model, site, lambda x: x.flip(-1) * 1.3):
        (seen,) = site_activations(model, [ids], later) if later else ({},)
        end = logits(model, ids)
    pre, attn, mid, mlp_in, mlp_out, post = SITES
    got = {**clean, **moved}
    block = model.model.layers[1]
    with torch.inference_mode():
        if site == pre:
            got[attn] = seen[attn]  # attention itself is transformers'
        for point, value in [
            (mid, lambda: got[pre] + got[attn]),
            (mlp_in, lambda: block.post_attention_layernorm(got[mid])),
            (mlp_out, lambda: block.mlp(got[mlp_in])),
            (post, lambda: got[mid] + got[mlp_out]),
        ]:
            if point in later:
                got[point] = value()
                torch.testing.assert_close(seen[point], got[point])
        with replaced(model, post, lambda x: got[post]):
            torch.testing.assert_close(logits(model, ids), end)


def exact(site, target=None, **tensors):
    """A dictionary of 32 features, the coordinates of 16 and their negatives, that reconstructs exactly."""
    both = torch.cat([torch.eye(16), -torch.eye(16)], dim=1)
    return Dictionary(both, both.T.contiguous(), site=site, target=target, **tensors)


@pytest.mark.parametrize("site", SITES, ids=str)
def test_an_exact_dictionary_loses_nothing(model, ids, site):
    found = measure_fidelity(model, exact(site), ids.split(2))
    assert found.fvu == pytest.approx(0, abs=1e-9)
    assert found.loss_spliced == pytest.approx(found.loss_clean, rel=1e-5)
    assert found.loss_recovered == pytest.approx(1, abs=1e-3)
    assert found.active_features == pytest.approx(16, abs=0.1)
    assert found.n_tokens == 48
    with torch.inference_mode():
        loss = model(input_ids=ids, labels=ids).loss.item()
    assert found.loss_clean == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_a_constant_dictionary_recovers_nothing(model, ids, ablation):
    site = Site(1, "resid-post")
    (seen,) = site_activations(model, [ids], [site])
    constant = seen[site].flatten(0, 1).mean(0) * (ablation == "mean")
    nothing = Dictionary(torch.zeros(16, 5), torch.zeros(5, 16), b_dec=constant.clone(), site=site)
    found = measure_fidelity(model, nothing, [ids], ablation=ablation)
    assert found.loss_recovered == pytest.approx(0, abs=1e-4)
    assert (found.dead_features, found.active_features) == (5, 0)
    if ablation == "mean":
        assert found.fvu == pytest.approx(1, rel=1e-5)
        assert found.variance_explained == pytest.approx(0, abs=1e-5)


def test_a_transcoder_reads_one_site_and_replaces_the_other(make_model, ids):
    model = make_model(n_layers=2)
    source, target = Site(0, "mlp-in"), Site(0, "mlp-out")
    skip = torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
    transcoder = dataclasses.replace(exact(source, target), skip=skip)
    (seen,) = site_activations(model, [ids], [source])
    with spliced(model, transcoder):
        got = logits(model, ids)
    with replaced(model, target, lambda _: seen[source] + seen[source] @ skip):
        torch.testing.assert_close(got, logits(model, ids))
    assert measure_fidelity(model, transcoder, [ids]).fvu > 0.1


def test_refusals(model, ids):
    with pytest.raises(InputError, match="without a site; load it with site=Site"):
        measure_fidelity(model, exact(None), [ids])
    with pytest.raises(InputError, match="without a site"), spliced(model, exact(None)):
        pass
    with pytest.raises(InputError, match="layer 7 does not exist"):
        next(site_activations(model, [ids], [Site(7, "mlp-in")]))
