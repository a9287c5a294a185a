"""What a bilinear layer can do at most, over all inputs: ranges, checked claims and certified radii."""

from analysis.guarantees.forms import QuadraticForm
from analysis.guarantees.ranges import Range, certify
from analysis.guarantees.subspaces import inputs_where

__all__ = ["QuadraticForm", "Range", "certify", "inputs_where"]
