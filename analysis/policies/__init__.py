"""Reasons for which a policy acts: probes with their terms, edits of states, and terms scaled in play."""

from __future__ import annotations

from analysis.policies.concept import ConceptReport, ConceptTerms, concept_report, concept_terms, probe_depths
from analysis.policies.control import (
    Behaviour,
    ChosenTerms,
    Control,
    action_terms,
    control,
    random_action_terms,
    scaled_logits,
)
from analysis.policies.edits import EditEffect, edit_effect
from analysis.policies.pixels import pixel_filters
from analysis.policies.states import (
    balanced_states,
    holds,
    moved_cheese,
    opened_walls,
    state_images,
    visited_states,
)
from analysis.policies.truncation import TruncationCurve, action_vectors, truncated_logits, truncation_curve

__all__ = [
    "Behaviour",
    "ChosenTerms",
    "ConceptReport",
    "ConceptTerms",
    "Control",
    "EditEffect",
    "TruncationCurve",
    "action_terms",
    "action_vectors",
    "balanced_states",
    "concept_report",
    "concept_terms",
    "control",
    "edit_effect",
    "holds",
    "moved_cheese",
    "opened_walls",
    "pixel_filters",
    "probe_depths",
    "random_action_terms",
    "scaled_logits",
    "state_images",
    "truncated_logits",
    "truncation_curve",
    "visited_states",
]
