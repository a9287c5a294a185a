"""Image classifiers of one bilinear layer, read from the weights: classes, predictions, masks, distances."""

from analysis.vision.classifiers import Classifier, Space
from analysis.vision.directions import ImageDirections, image_directions
from analysis.vision.eigenvectors import ClassEigenvectors, class_eigenvectors
from analysis.vision.explained import Explanation, explain_prediction
from analysis.vision.masks import (
    AdversarialMasks,
    EdgeEnergy,
    adversarial_mask,
    adversarial_masks,
    edge_energy,
    edge_pixels,
)
from analysis.vision.radii import Attacked, Radii, compare_radii, gradient_attack
from analysis.vision.ranks import RankAccuracy, accuracy_by_rank
from analysis.vision.similarity import EigenvectorSimilarity, eigenvector_similarity
from analysis.vision.strengths import MaskEffect, MaskStudy, mask_study

__all__ = [
    "AdversarialMasks",
    "Attacked",
    "ClassEigenvectors",
    "Classifier",
    "EdgeEnergy",
    "EigenvectorSimilarity",
    "Explanation",
    "ImageDirections",
    "MaskEffect",
    "MaskStudy",
    "Radii",
    "RankAccuracy",
    "Space",
    "accuracy_by_rank",
    "adversarial_mask",
    "adversarial_masks",
    "class_eigenvectors",
    "compare_radii",
    "edge_energy",
    "edge_pixels",
    "eigenvector_similarity",
    "explain_prediction",
    "gradient_attack",
    "image_directions",
    "mask_study",
]
