"""What is read off networks of images, from their weights."""

from analysis.vision.filters import ConvolutionalLayer, Eigenfilters, activation_maps, eigenfilters
from analysis.vision.interest import InterestVectors, SplitDirection, interest_vectors, split_direction
from analysis.vision.probes import (
    Probe,
    ProbeScores,
    TermCurve,
    area_under_curve,
    dropping,
    fit_probe,
    keeping,
    probe_scores,
)
from analysis.vision.terms import TermMoments, Terms, TermValues, decompose_terms, random_terms

__all__ = [
    "ConvolutionalLayer",
    "Eigenfilters",
    "InterestVectors",
    "Probe",
    "ProbeScores",
    "SplitDirection",
    "TermCurve",
    "TermMoments",
    "TermValues",
    "Terms",
    "activation_maps",
    "area_under_curve",
    "decompose_terms",
    "dropping",
    "eigenfilters",
    "fit_probe",
    "interest_vectors",
    "keeping",
    "probe_scores",
    "random_terms",
    "split_direction",
]
