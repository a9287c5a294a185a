"""What a bilinear layer can do at most, over all inputs: ranges, checked claims and certified radii."""

from analysis.guarantees.findings import Finding, NullChanges
from analysis.guarantees.forms import QuadraticForm
from analysis.guarantees.layer_difference import DirectionChange, LayerDifference, NamedInteraction
from analysis.guarantees.models_difference import Difference, diff, null_changes
from analysis.guarantees.ranges import Range, certify
from analysis.guarantees.subspaces import inputs_where
from analysis.guarantees.tensor_difference import LargestChange, difference, largest_change

__all__ = [
    "Difference",
    "DirectionChange",
    "Finding",
    "LargestChange",
    "LayerDifference",
    "NamedInteraction",
    "NullChanges",
    "QuadraticForm",
    "Range",
    "certify",
    "diff",
    "difference",
    "inputs_where",
    "largest_change",
    "null_changes",
]
