"""Dictionaries that normalise what they read: analyses by directions refuse them, the others are right."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis import FeatureLayer, attribute, feature_layer, open_prompt, static_circuit, top_contexts
from analysis.circuits.targets import LogitTarget
from analysis.features.explained import explained_by_eigenvectors
from analysis.features.interactions import strongest_interactions
from analysis.interventions.interactions import ablated
from bilinear_lm import Dictionary, InputError, Site, save_dictionary
from bilinear_lm.checkpoints import save_folder
from bilinear_lm.cli import main
from bilinear_lm.sites import replaced, site_activations
from bilinear_lm.weights import mlp_tensor
from finetune.dictionaries.fidelity import measure_fidelity, spliced

IN, OUT, WIDTH, N = Site(1, "mlp-in"), Site(1, "mlp-out"), 16, 20
KINDS = ["constant_norm_rescale", "layer_norm"]


def dictionary(site, normalization="none", seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"encoder": (WIDTH, N), "decoder": (N, WIDTH), "b_enc": (N,), "b_dec": (WIDTH,)}
    parts = {name: 0.3 * torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    return Dictionary(**parts, site=site, normalization=normalization, **settings)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(300, (2, 12), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_analyses_by_directions_refuse_them(make_model, ids, kind):
    model = make_model()
    read, written = dictionary(IN), dictionary(OUT, seed=1)
    said = rf"normalises what it reads \({kind}\)"
    for inputs, outputs in (
        (replace(read, normalization=kind), written),
        (read, replace(written, normalization=kind)),
    ):
        with pytest.raises(InputError, match=said):
            feature_layer(model, 1, inputs, outputs)
        for trace in (
            lambda scope: attribute(open_prompt(model, ids[0], scope), LogitTarget(3)),
            lambda scope: static_circuit(model, LogitTarget(3), scope),
        ):
            with pytest.raises(InputError, match=said):
                trace({IN: inputs, OUT: outputs})
        pairs = strongest_interactions(FeatureLayer.between(mlp_tensor(model, 1), read, written), [0], k=2)
        with pytest.raises(InputError, match=said), ablated(model, inputs, outputs, pairs):
            model(input_ids=ids)
    with pytest.raises(InputError, match=said):
        explained_by_eigenvectors(
            mlp_tensor(model, 1), replace(written, normalization=kind), [torch.randn(5, WIDTH)]
        )


def test_commands_say_so_in_a_line(make_model, tiny_tokenizer, tmp_path, monkeypatch, capsys):
    save_folder(make_model(d_vocab=len(tiny_tokenizer)), tiny_tokenizer, tmp_path / "model")
    for site in (IN, OUT):
        save_dictionary(dictionary(site, "layer_norm"), tmp_path / "scope" / str(site), format="saelens")
    monkeypatch.chdir(tmp_path)
    for given in (
        ["eigen", "model", "--layer", "1", "--dictionary", "scope/1-mlp-out", "--features", "3", "-o", "out"],
        [
            "interactions",
            "model",
            "--layer",
            "1",
            "--inputs",
            "scope/1-mlp-in",
            "--outputs",
            "scope/1-mlp-out",
            "-o",
            "out",
        ],
        ["trace", "model", "--token", "cat", "--dictionaries", "scope", "-o", "out.json"],
    ):
        assert main(given) == 2, given
        (said,) = capsys.readouterr().err.strip().splitlines()
        assert "normalises what it reads (layer_norm)" in said
    assert {path.name for path in tmp_path.iterdir()} == {"model", "scope"}


def by_hand(dictionary, x):
    """Code and reconstruction as SAELens has them, in float64."""
    wide = {name: value.double().numpy() for name, value in dictionary.weights.items()}
    if dictionary.normalization == "layer_norm":
        mean = x.mean(-1, keepdims=True)
        factor = x.std(-1, keepdims=True, ddof=1)
        within = (x - mean) / (factor + 1e-5)
    else:
        mean, factor = 0, np.linalg.norm(x, axis=-1, keepdims=True) / WIDTH**0.5
        within = x / factor
    code = np.maximum(within @ wide["encoder"] + wide["b_enc"], 0)
    return code, (code @ wide["decoder"] + wide["b_dec"]) * factor + mean


@pytest.mark.parametrize("kind", KINDS)
def test_contexts_fidelity_and_splicing_are_right(make_model, ids, kind):
    model, given = make_model(), dictionary(OUT, kind)
    x = next(site_activations(model, [ids], [OUT]))[OUT].double().numpy()
    code, out = by_hand(given, x)
    measured = measure_fidelity(model, given, [ids])
    error, variance = ((x - out) ** 2).sum(), ((x - x.mean((0, 1))) ** 2).sum()
    assert measured.fvu == pytest.approx(error / variance, rel=1e-4)
    assert measured.active_features == pytest.approx((code > 0).sum() / ids.numel())
    with spliced(model, given):
        logits = model(input_ids=ids).logits
    with replaced(model, OUT, lambda y: torch.from_numpy(out).to(y)):
        torch.testing.assert_close(logits, model(input_ids=ids).logits, rtol=1e-3, atol=1e-3)
    contexts = top_contexts(model, given, ids.tolist(), k=1)
    assert contexts.values.max().item() == pytest.approx(code.max(), rel=1e-4)
