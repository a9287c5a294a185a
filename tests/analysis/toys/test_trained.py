"""Toy models that were trained, read from their weights."""

import pytest
import torch

from analysis.toys import canonical_encoder, find_hops, geometry, solo_reconstruction
from finetune.networks.tasks import Gates, Superposition, composed_table
from finetune.networks.toy import ToyTraining, new_models, train_toy

pytestmark = pytest.mark.usefixtures("without_shape_checks")


def test_the_hops_of_trained_models_are_found_in_every_seed():
    task = Gates(composed_table(4, ((0, 2), (1, 3)), ("XOR", "AND"), "OR")[None])
    models = new_models(task.settings(8, n_layers=2), (4, 1), dtype=torch.float64)
    train_toy(models, task, ToyTraining(steps=500, lr=3e-2))
    for layers in zip(*(tensor.layers() for tensor in models.folded()), strict=True):
        found = find_hops(*layers)
        assert [(hop.inputs, hop.gate) for hop in found.hops] == [((0, 2), "XOR"), ((1, 3), "AND")]
        assert found.output.name == "OR"


def test_bilinear_models_pair_sparse_features():
    """Four features in two dimensions: antipodal pairs ("bipolar features" of Pearce and Dooms)."""
    task = Superposition(4, (0.7,), batch_size=256)
    models = new_models(task.settings(2), (4, 1))
    run = train_toy(models, task, ToyTraining(steps=500, lr=2e-2))
    best = run.last[:, 0].argmin()
    found = geometry(canonical_encoder(models.W_encoder.detach())[best, 0], tolerance=0.25)
    assert found.count("digon") == 2
    assert solo_reconstruction(models.folded()[0])[best, 0].min() > 0.3
