"""Written dictionaries read back exactly, by this library and by sparsify itself."""

import dataclasses

import numpy as np
import pytest
import torch

from bilinear_lm import Dictionary, InputError, Site, load_dictionary, save_dictionary


def make(**settings):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    tensors = {"encoder": normal(6, 24), "decoder": normal(24, 6), "b_enc": normal(24), "b_dec": normal(6)}
    if settings.get("activation") == "jumprelu":
        settings["threshold"] = normal(24).abs()
    if settings.pop("with_skip", False):
        settings["skip"] = normal(6, 6)
    return Dictionary(**tensors, **{"b_dec_to_input": True, "site": Site(2, "mlp-out")} | settings)


def assert_same(got, expected):
    for field in dataclasses.fields(Dictionary):
        a, b = getattr(got, field.name), getattr(expected, field.name)
        assert torch.equal(a, b) if isinstance(b, torch.Tensor) else a == b, field.name


TRANSCODER = {"b_dec_to_input": False, "site": Site(1, "mlp-in"), "target": Site(1, "mlp-out")}


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ("sparsify", {"activation": "topk", "k": 3}),
        ("sparsify", {"activation": "topk", "k": 3, "site": None}),
        ("sparsify", {"activation": "topk", "k": 3, **TRANSCODER}),
        ("sparsify", {"activation": "topk", "k": 3, **TRANSCODER, "with_skip": True}),
        ("saelens", {}),
        ("saelens", {"b_dec_to_input": False, "site": Site(0, "resid-mid")}),
        ("saelens", {"activation": "topk", "k": 3, "site": Site(0, "mlp-in")}),
        ("saelens", {"activation": "jumprelu"}),
        ("saelens", {**TRANSCODER}),
        ("saelens", {**TRANSCODER, "activation": "jumprelu", "with_skip": True}),
    ],
)
def test_round_trips_are_exact(form, settings, tmp_path):
    dictionary = make(**settings)
    save_dictionary(dictionary, tmp_path / "saved", format=form)
    assert_same(load_dictionary(tmp_path / "saved"), dictionary)
    other = "saelens" if form == "sparsify" else "sparsify"
    if settings.get("activation") == "topk" and dictionary.target is None:
        save_dictionary(load_dictionary(tmp_path / "saved"), tmp_path / "again", format=other)
        assert_same(load_dictionary(tmp_path / "again"), dictionary)


def test_half_precision_and_absent_biases(tmp_path):
    dictionary = make(activation="topk", k=3).to(torch.float16)
    save_dictionary(dictionary, tmp_path / "half")
    assert_same(load_dictionary(tmp_path / "half", dtype=torch.float16), dictionary)
    bare = Dictionary(dictionary.encoder, dictionary.decoder, activation="topk", k=3, b_dec_to_input=True)
    save_dictionary(bare, tmp_path / "bare")
    assert not load_dictionary(tmp_path / "bare").b_enc.any()


@pytest.mark.parametrize(
    ("form", "settings", "message"),
    [
        ("sparsify", {}, "sparsify has no relu dictionaries"),
        ("sparsify", {"activation": "topk", "k": 3, "signed": True}, "sparsify has no signed topk"),
        ("sparsify", {"activation": "topk", "k": 3, "passthrough": (1,)}, "cannot pass coordinates through"),
        ("saelens", {"activation": "topk", "k": 3, "signed": True}, "no architecture for a signed topk"),
        ("saelens", {"activation": "topk", "k": 3, **TRANSCODER}, "no architecture for a topk transcoder"),
        ("saelens", {"encoder_gate": torch.zeros(6, 24)}, "saelens has no bilinear encoders"),
    ],
)
def test_what_a_format_cannot_express(form, settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        save_dictionary(make(**settings), tmp_path / "saved", format=form)
    assert not (tmp_path / "saved").exists()


def test_numbers_that_could_not_be_read_again(tmp_path):
    dictionary = make()
    dictionary.decoder[0, 0] = torch.nan
    with pytest.raises(InputError, match="NaN or infinity in W_dec"):
        save_dictionary(dictionary, tmp_path / "saved", format="saelens")
    assert not (tmp_path / "saved").exists()


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "precious").touch()
    with pytest.raises(InputError, match="exists already"):
        save_dictionary(make(), tmp_path, format="saelens")


@pytest.mark.parametrize("skip", [False, True])
def test_sparsify_reads_ours_and_we_read_its(skip, tmp_path):
    sparsify = pytest.importorskip("sparsify", reason="needs the extra sae: pip install 'bilinear-lm[sae]'")
    from finetune.dictionaries.sparsify_kernels import decoder_by_device

    torch.manual_seed(0)
    config = sparsify.SparseCoderConfig(num_latents=24, k=5, transcode=skip, skip_connection=skip)
    theirs = sparsify.SparseCoder(6, config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    theirs.save_to_disk(tmp_path / "layers.1.mlp")
    ours = load_dictionary(tmp_path / "layers.1.mlp")
    save_dictionary(ours, tmp_path / "ours")
    again = sparsify.SparseCoder.load_from_disk(tmp_path / "ours")
    x = torch.randn(30, 6)
    for coder in (theirs, again):
        acts, indices, _ = coder.encode(x)
        code = torch.zeros(30, 24).scatter(-1, indices, acts)
        torch.testing.assert_close(ours.encode(x), code)
        with decoder_by_device():
            torch.testing.assert_close(ours(x), coder(x).sae_out)
    assert np.isclose((ours.encode(x) > 0).sum(-1).max(), 5)
