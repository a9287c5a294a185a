"""Ranges of features and logits of models: what the models do, formats of dictionaries, what has no range."""

import pytest
import torch

import bilinear_lm as bl
from analysis import certify, certify_features, certify_logits
from bilinear_lm import Dictionary, InputError, Site
from bilinear_lm.sites import mlp_inputs


def dictionary(seed=0, width=16, n=9, **fields):
    generator = torch.Generator().manual_seed(seed)
    encoder, decoder = (torch.randn(*shape, generator=generator) for shape in ((width, n), (n, width)))
    b_enc, b_dec = torch.randn(n, generator=generator), torch.randn(width, generator=generator)
    return Dictionary(encoder, decoder, b_enc, b_dec, site=Site(1, "mlp-out"), **fields)


@pytest.fixture
def model(make_model):
    return make_model(seed=3, mlp_bias=True)


def test_features_stay_in_their_ranges_and_reach_them(model):
    for features in (dictionary(), dictionary(b_dec_to_input=True)):
        ranges = certify_features(model, features)
        tensor = bl.mlp_tensor(model, 1)
        z = 4 * torch.nn.functional.normalize(torch.randn(4000, 16), dim=1)
        codes = features.pre_activations(tensor(z))
        assert (codes <= ranges.high + 1e-3).all()
        assert (codes >= ranges.low - 1e-3).all()
        ends = features.pre_activations(tensor(ranges.layer.argmax)).diagonal()
        assert torch.allclose(ends, ranges.high, rtol=1e-4, atol=1e-4)
        x = mlp_inputs(model, torch.randint(0, 10, (4, 8)), [1])[0].flatten(0, 1)
        assert (features.pre_activations(tensor(x)) <= ranges.high).all()
    some = certify_features(model, features, [4, 2])
    assert torch.allclose(some.high, ranges.high[[4, 2]])
    assert some.features.tolist() == [4, 2]


def test_dead_features(model):
    plain = dictionary()
    high = certify_features(model, plain).high
    assert not certify_features(model, plain).dead.any()
    low = bl.Dictionary(plain.encoder, plain.decoder, plain.b_enc - high - 0.01, site=plain.site)
    assert certify_features(model, low).dead.all()
    threshold = torch.where(torch.arange(9) < 4, high + 0.01, high - 0.01)
    jump = dictionary(activation="jumprelu", threshold=threshold)
    assert certify_features(model, jump).dead.tolist() == [True] * 4 + [False] * 5
    signed = Dictionary(
        plain.encoder, plain.decoder, plain.b_enc - 1e4, activation="topk", k=2, signed=True, site=plain.site
    )
    assert not certify_features(model, signed).dead.any()
    reached = certify_features(model, plain).reached(high / 2)
    assert torch.allclose(reached, torch.full_like(high, 0.5))


def test_logits(model):
    reach = certify_logits(model, 0, [3, 5], against=[1, 2])
    W_U = bl.unembedding(model)
    u = (W_U[:, [3, 5]] - W_U[:, [1, 2]].mean(1, keepdim=True)).T
    assert torch.allclose(reach.high, certify(bl.mlp_tensor(model, 0), u, over="ball").high)
    assert torch.equal(certify_logits(model, 0, 3, against=[1, 2]).high, reach.high[:1])


@pytest.mark.usefixtures("without_shape_checks")
def test_what_has_no_range(model, family_model):
    olmo = family_model("Olmo2")
    with pytest.raises(InputError, match="no norm in front"):
        certify_logits(olmo, 0, 3)
    with pytest.raises(InputError, match="no norm in front"):
        certify_features(olmo, dictionary())
    with pytest.raises(InputError, match="identity"):
        certify_features(bl.load_pretrained("stories-1l"), dictionary(), layer=0)
    with pytest.raises(InputError, match="normalises or scales"):
        certify_features(family_model("Gemma2", hidden_activation="linear"), dictionary())
    with pytest.raises(InputError, match="width 8"):
        certify_features(model, dictionary(width=8))
    with pytest.raises(InputError, match="bilinear encoder"):
        certify_features(model, dictionary(encoder_gate=torch.ones(16, 9)))
    with pytest.raises(InputError, match="feature 9"):
        certify_features(model, dictionary(), [9])
    with pytest.raises(InputError, match="does not tell its site"):
        certify_features(model, Dictionary(torch.ones(16, 2), torch.ones(2, 16)))
    with pytest.raises(InputError, match="token 99"):
        certify_logits(model, 0, 99999)
