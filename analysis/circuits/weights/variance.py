"""The share of an MLP output's variance that the products in a static circuit can carry.

An output along u is zᵀQz, z the normalised residual stream. Under z ~ N(0, I) the covariance of two
quadratic forms is 2 tr QR (Isserlis), so that of all Σ_k a_k (r_k · z)(s_k · z) of the circuit's products,
r_k and s_k the directions that their inputs read, the best has the share

    bᵀ G⁺ b / ‖Q‖²,    b_k = r_kᵀ Q s_k,    G_kl = ½ [(r_k · r_l)(s_k · s_l) + (r_k · s_l)(s_k · r_l)],

of the variance: 1 where the products span Q. Codes count as the linear maps that they are where they are
active. Where there are biases, the constant coordinate counts like the others. For eigenvectors it is
Σ λ² of those that are shown over Σ λ² of all.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.circuits.growth import Grown
from analysis.circuits.readers import Linear, Quadratic
from analysis.circuits.weights.model import StaticLayer, StaticModel
from bilinear_lm.tensor import BilinearTensor


def product_shares(model: StaticModel, grown: Grown) -> dict[str, float]:
    """The share of each MLP output of a circuit that was split, 0 to 1."""
    ids, is_product = grown.columns.ids, grown.columns.is_interaction
    inputs: dict[str, list[str]] = defaultdict(list)
    products: dict[str, list[str]] = defaultdict(list)
    edges = grown.columns.edges
    for source, target in zip(edges.sources.tolist(), edges.targets.tolist(), strict=True):
        if is_product[target]:
            inputs[ids[target]].append(ids[source])
        if is_product[source]:
            products[ids[target]].append(ids[source])
    shares = {}
    for name, reader in grown.readers.items():
        if not isinstance(reader, Quadratic):
            continue
        layer = model.layers[reader.layer]
        pairs = [inputs[product] for product in products[name]]
        reads = [[_read(layer, grown, ends[at]) for ends in pairs] for at in (0, -1)]
        shares[name] = _share(layer, reader.u, *(torch.stack(side) for side in reads)) if pairs else 0.0
    return shares


def _read(layer: StaticLayer, grown: Grown, node: str) -> Float[Tensor, " d_in"]:
    """The direction of the folded input that an input of a product reads."""
    reader = grown.readers[node]
    assert isinstance(reader, Linear)  # inputs of an MLP read the stream
    constant = [reader.constant] if layer.block.folded.constant else []
    return torch.cat([reader.w, reader.w.new_tensor(constant)]).double()


def _share(
    layer: StaticLayer,
    u: Float[Tensor, " d_model"],
    left: Float[Tensor, "n d_in"],
    right: Float[Tensor, "n d_in"],
) -> float:
    total = layer.strength(u) ** 2
    if not total:
        return 1.0
    # Scales of the readings do not matter, but sizes that differ much would.
    left, right = (torch.nn.functional.normalize(side, dim=1) for side in (left, right))
    tensor: BilinearTensor = layer.block.folded
    of_products = (tensor(left.to(tensor.dtype), right.to(tensor.dtype)) @ u).double()
    across = left @ right.T
    gram = ((left @ left.T) * (right @ right.T) + across * across.T) / 2
    carried = float(of_products @ torch.linalg.pinv(gram, hermitian=True) @ of_products)
    return min(1.0, carried / total)
