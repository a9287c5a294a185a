"""Folders of networks: what was saved is what is loaded, and refusals of everything else."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from bilinear_lm.errors import InputError
from bilinear_lm.networks import (
    ConvolutionalNetwork,
    ConvolutionalSettings,
    ImageClassifier,
    ImageSettings,
    load_network,
    save_network,
)

SETTINGS = ImageSettings(image_shape=(3, 4), n_classes=5, d_model=6, d_mlp=7, n_layers=2, residual=True)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    save_network(ImageClassifier(SETTINGS), tmp_path / "network")
    return tmp_path / "network"


@pytest.mark.parametrize("kind", ["bilinear", "relu", "square"])
@pytest.mark.parametrize("bias", [False, True])
def test_what_is_saved_is_loaded(tmp_path, kind, bias):
    made = ImageClassifier(ImageSettings((3, 4), 5, 6, 8, 2, kind, bias=bias)).double()
    save_network(made, tmp_path / "network")
    loaded = load_network(tmp_path / "network")
    x = torch.rand(9, 3, 4, dtype=torch.float64)
    assert loaded.settings == made.settings
    assert torch.equal(loaded(x), made(x))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert load_network(tmp_path / "network", dtype=torch.float32).W_embed.dtype == torch.float32


def test_a_convolutional_network(tmp_path):
    made = ConvolutionalNetwork(ConvolutionalSettings.small((1, 8, 8), n_outputs=3, kind="relu"))
    save_network(made, tmp_path / "network")
    loaded = load_network(tmp_path / "network")
    assert loaded.settings == made.settings
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in made.state_dict().items())


def test_loading_draws_no_random_numbers(folder):
    torch.manual_seed(1)
    load_network(folder)
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after)


def test_an_existing_folder_is_kept(folder):
    with pytest.raises(InputError, match="exists already"):
        save_network(ImageClassifier(SETTINGS), folder)


def test_other_networks_and_weights_that_are_not_finite_are_not_saved(tmp_path):
    with pytest.raises(InputError, match="class Linear; expected one of ImageClassifier"):
        save_network(torch.nn.Linear(2, 2), tmp_path / "network")
    broken = ImageClassifier(SETTINGS)
    broken.W_head.data[0, 0] = torch.nan
    with pytest.raises(InputError, match="NaN or infinity in W_head"):
        save_network(broken, tmp_path / "network")
    assert not list(tmp_path.iterdir())


def spoil(path, **settings):
    about = json.loads(path.read_text())
    about["settings"] |= settings
    path.write_text(json.dumps(about))


@pytest.mark.usefixtures("without_shape_checks")  # which look at one entry of a tuple, drawn at random
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"more": 1}, "more is left over"),
        ({"d_mlp": "7"}, "d_mlp is '7'; expected a value of type int"),
        ({"d_mlp": True}, "d_mlp is True"),
        ({"residual": 1}, "residual is 1; expected a value of type bool"),
        ({"image_shape": 12}, "image_shape is 12"),
        ({"image_shape": [3.0, 4]}, r"image_shape\[0\] 3.0; expected a whole number"),
        ({"d_mlp": 8}, r"layers.0.W_gate has shape \[6, 7\], expected \[6, 8\]"),
        ({"n_layers": 3}, "layers.2.W_gate is missing"),
        ({"n_layers": 1}, "layers.1.W_gate is left over"),
        ({"d_model": 10**6, "d_mlp": 10**6}, "has shape"),
        ({"d_model": 10**12, "d_mlp": 10**12}, "too large to be made"),
    ],
)
def test_settings_of_no_or_another_network_are_refused(folder, settings, message):
    spoil(folder / "network.json", **settings)
    with pytest.raises(InputError, match=message):
        load_network(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about: about.pop("settings"), "holds network, versions; expected"),
        (lambda about: about.update(network="Linear"), "network 'Linear'; expected one of"),
        (lambda about: about.update(network=["ImageClassifier"]), "expected one of"),
        (lambda about: about["settings"].pop("bias"), "bias is missing"),
        (lambda about: about.update(settings=[]), "the settings are not those of one network"),
    ],
)
def test_what_is_missing_is_refused(folder, change, message):
    about = json.loads((folder / "network.json").read_text())
    change(about)
    (folder / "network.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=message):
        load_network(folder)


def test_weights_that_are_no_weights_are_refused(folder):
    path = folder / "network.safetensors"
    weights = load_file(path)
    for changed, message in (
        ({"W_head": torch.full_like(weights["W_head"], torch.inf)}, "NaN or infinity in W_head"),
        ({"W_head": weights["W_head"].long()}, "int64 numbers in W_head"),
        ({"W_head": weights["W_head"].double()}, "weights in torch.float32, torch.float64"),
    ):
        save_file(weights | changed, path)
        with pytest.raises(InputError, match=message):
            load_network(folder)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="not a complete safetensors file"):
        load_network(folder)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        load_network(folder)
