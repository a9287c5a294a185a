"""Image classifiers of one bilinear layer, read from the weights: classes, predictions, masks, distances."""

from analysis.vision.classifiers import Classifier, Space
from analysis.vision.directions import ImageDirections, image_directions
from analysis.vision.eigenvectors import ClassEigenvectors, class_eigenvectors
from analysis.vision.explained import Explanation, explain_prediction
from analysis.vision.filters import ConvolutionalLayer, Eigenfilters, activation_maps, eigenfilters
from analysis.vision.interest import InterestVectors, SplitDirection, interest_vectors, split_direction
from analysis.vision.masks import (
    AdversarialMasks,
    EdgeEnergy,
    adversarial_mask,
    adversarial_masks,
    edge_energy,
    edge_pixels,
)
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
from analysis.vision.radii import Attacked, Radii, compare_radii, gradient_attack
from analysis.vision.ranks import RankAccuracy, accuracy_by_rank
from analysis.vision.similarity import EigenvectorSimilarity, eigenvector_similarity
from analysis.vision.strengths import MaskEffect, MaskStudy, mask_study
from analysis.vision.terms import TermMoments, Terms, TermValues, decompose_terms, random_terms

__all__ = [
    "AdversarialMasks",
    "Attacked",
    "ClassEigenvectors",
    "Classifier",
    "ConvolutionalLayer",
    "EdgeEnergy",
    "Eigenfilters",
    "EigenvectorSimilarity",
    "Explanation",
    "ImageDirections",
    "InterestVectors",
    "MaskEffect",
    "MaskStudy",
    "Probe",
    "ProbeScores",
    "Radii",
    "RankAccuracy",
    "Space",
    "SplitDirection",
    "TermCurve",
    "TermMoments",
    "TermValues",
    "Terms",
    "accuracy_by_rank",
    "activation_maps",
    "adversarial_mask",
    "adversarial_masks",
    "area_under_curve",
    "class_eigenvectors",
    "compare_radii",
    "decompose_terms",
    "dropping",
    "edge_energy",
    "edge_pixels",
    "eigenfilters",
    "eigenvector_similarity",
    "explain_prediction",
    "fit_probe",
    "gradient_attack",
    "image_directions",
    "interest_vectors",
    "keeping",
    "mask_study",
    "probe_scores",
    "random_terms",
    "split_direction",
]
