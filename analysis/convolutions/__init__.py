"""Bilinear convolutions, read from the weights: eigenfilters, terms of a direction, probes of concepts."""

from analysis.convolutions.filters import ConvolutionalLayer, Eigenfilters, activation_maps, eigenfilters
from analysis.convolutions.interest import InterestVectors, SplitDirection, interest_vectors, split_direction
from analysis.convolutions.probes import (
    Probe,
    ProbeScores,
    TermCurve,
    area_under_curve,
    dropping,
    fit_probe,
    keeping,
    probe_scores,
)
from analysis.convolutions.terms import TermMoments, Terms, TermValues, decompose_terms, random_terms

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
