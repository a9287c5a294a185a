"""The most that a bilinear layer can do over all inputs: ranges, checked claims and certified radii."""

from analysis.guarantees.claims import Verdict, eigenvectors_needed, pairs_matrix, verify
from analysis.guarantees.forms import QuadraticForm
from analysis.guarantees.model_ranges import FeatureRanges, certify_features, certify_logits
from analysis.guarantees.ranges import Range, certify
from analysis.guarantees.robustness import Robustness, certified_margins, certified_radius
from analysis.guarantees.subspaces import inputs_where

__all__ = [
    "FeatureRanges",
    "QuadraticForm",
    "Range",
    "Robustness",
    "Verdict",
    "certified_margins",
    "certified_radius",
    "certify",
    "certify_features",
    "certify_logits",
    "eigenvectors_needed",
    "inputs_where",
    "pairs_matrix",
    "verify",
]
