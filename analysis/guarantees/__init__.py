"""The most that a bilinear layer can do over all inputs: ranges, checked claims and certified radii."""

from analysis.guarantees.claims import Verdict, eigenvectors_needed, pairs_matrix, verify
from analysis.guarantees.findings import Finding, NullChanges
from analysis.guarantees.forms import QuadraticForm
from analysis.guarantees.layer_difference import DirectionChange, LayerDifference, NamedInteraction
from analysis.guarantees.model_ranges import FeatureRanges, certify_features, certify_logits
from analysis.guarantees.models_difference import Difference, diff, null_changes
from analysis.guarantees.ranges import Range, certify
from analysis.guarantees.robustness import Robustness, certified_margins, certified_radius
from analysis.guarantees.subspaces import inputs_where
from analysis.guarantees.tensor_difference import LargestChange, difference, largest_change

__all__ = [
    "Difference",
    "DirectionChange",
    "FeatureRanges",
    "Finding",
    "LargestChange",
    "LayerDifference",
    "NamedInteraction",
    "NullChanges",
    "QuadraticForm",
    "Range",
    "Robustness",
    "Verdict",
    "certified_margins",
    "certified_radius",
    "certify",
    "certify_features",
    "certify_logits",
    "diff",
    "difference",
    "eigenvectors_needed",
    "inputs_where",
    "largest_change",
    "null_changes",
    "pairs_matrix",
    "verify",
]
