"""A layer between two dictionaries: interactions of features, their passages, and what explains them."""

from analysis.features.contexts import activity_on_text, feature_names, top_contexts
from analysis.features.dictionaries import (
    LayerDictionaries,
    around_mlps,
    dictionaries_by_site,
    dictionaries_in,
)
from analysis.features.explained import Explained, explained_by_eigenvectors, explained_on_text
from analysis.features.index import InteractionIndex, interaction_index
from analysis.features.interactions import (
    Interaction,
    Interactions,
    merged_interactions,
    split_strongest_interactions,
    strongest_interactions,
)
from analysis.features.layer import FeatureLayer, feature_layer
from analysis.features.patterns import OpposingFeatures, PairPatterns, opposing_features, strongest_patterns
from analysis.features.peaks import Context, Contexts
from analysis.features.statistics import InteractionStatistics, interaction_statistics
from analysis.features.submatrix import Submatrix, strongest_submatrix

__all__ = [
    "Context",
    "Contexts",
    "Explained",
    "FeatureLayer",
    "Interaction",
    "InteractionIndex",
    "InteractionStatistics",
    "Interactions",
    "LayerDictionaries",
    "OpposingFeatures",
    "PairPatterns",
    "Submatrix",
    "activity_on_text",
    "around_mlps",
    "dictionaries_by_site",
    "dictionaries_in",
    "explained_by_eigenvectors",
    "explained_on_text",
    "feature_layer",
    "feature_names",
    "interaction_index",
    "interaction_statistics",
    "merged_interactions",
    "opposing_features",
    "split_strongest_interactions",
    "strongest_interactions",
    "strongest_patterns",
    "strongest_submatrix",
    "top_contexts",
]
