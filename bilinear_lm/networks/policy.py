"""Policies: convolutional networks that look at an image and choose an action.

    logits = hidden W_policy,    value = hidden · w_value,    hidden = features W_gate ∘ features W_in

with the features of the blocks in front (arXiv 2412.00944). Nothing but products is nonlinear, so an action's
logit is a quadratic form of the features, and each block's output one of every patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from bilinear_lm.checks import require_count
from bilinear_lm.errors import InputError
from bilinear_lm.networks.convolutional import ConvolutionalNetwork, ConvolutionalSettings
from bilinear_lm.tensor import BilinearTensor

FIRST_LOGITS = 0.1
"""Weights of the logits are as much smaller at first, so that a new policy tries every action."""


@dataclass(frozen=True)
class PolicySettings(ConvolutionalSettings):
    """Shape of a policy: that of its network, whose outputs are a logit an action and the value."""

    n_outputs: int = 5
    """Actions and one, for the value."""

    def __post_init__(self):
        super().__post_init__()
        require_count(
            self.n_outputs, f"n_outputs {self.n_outputs} of a policy", "at least 3: actions, value", least=3
        )

    @property
    def n_actions(self) -> int:
        """Actions to choose from."""
        return self.n_outputs - 1


class Decision(NamedTuple):
    """A policy at images: what it would do, and what it expects."""

    logits: Float[Tensor, "*batch n_actions"]
    """Before the softmax that gives the probabilities of the actions."""
    value: Float[Tensor, "*batch"]
    """Discounted reward expected from here, in the scale of training."""


class PolicyNetwork(ConvolutionalNetwork):
    """A policy: images [..., c, h, w] of numbers from 0 to 1 to logits [..., n_actions] and value [...].

    >>> policy = PolicyNetwork(PolicySettings())
    >>> x = torch.rand(5, 3, 8, 8)
    >>> decision = policy(x)
    >>> decision.logits.shape, decision.value.shape
    (torch.Size([5, 4]), torch.Size([5]))
    >>> features = policy.trunk(x).flatten(1)
    >>> torch.allclose(policy.head_tensor()(features)[:, :4], decision.logits, atol=1e-3)
    True
    """

    settings: PolicySettings

    def __init__(self, settings: PolicySettings | None = None):
        super().__init__(settings or PolicySettings())
        with torch.no_grad():
            self.W_head[:, :-1] *= FIRST_LOGITS

    def forward(self, x: Float[Tensor, "*batch c h w"]) -> Decision:  # type: ignore[override]
        """Logits and value at images x."""
        return self.decide(self.trunk(x))

    def decide(self, features: Float[Tensor, "*batch c h w"]) -> Decision:
        """Logits and value from the features that the blocks put out."""
        outputs = self.hidden(features) @ self.W_head
        outputs = outputs if self.b_head is None else outputs + self.b_head
        return Decision(outputs[..., :-1], outputs[..., -1])

    def head_tensor(self) -> BilinearTensor:
        """The last layer's tensor, [c · h · w (+ 1)] features to [n_actions + 1]: logits, then the value."""
        return self.tensor(len(self.trunk.blocks))

    def pixels(self, images: UInt8[np.ndarray, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Images of an environment, bytes, as the policy reads them: from 0 to 1, on its device."""
        if images.shape[1:] != self.settings.image_shape:
            raise InputError(
                f"images {list(images.shape)} for a policy that sees {list(self.settings.image_shape)}; "
                "expected the environment that it was trained in"
            )
        return torch.from_numpy(images).to(self.W_head.device).to(self.W_head.dtype) / 255
