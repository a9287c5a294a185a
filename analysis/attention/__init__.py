"""QK and OV circuits between directions of the residual stream, from weights."""

from analysis.attention.composition import Composition, composition_scores, composition_through
from analysis.attention.layer import AttentionLayer, attention_layer
from analysis.attention.ov import FeatureOutputs, feature_outputs, strongest_outputs
from analysis.attention.pairs import HeadPair, HeadPairs
from analysis.attention.pattern import MeasuredAttention
from analysis.attention.qk import FeatureScores, ScoreCurves, feature_scores, strongest_scores

__all__ = [
    "AttentionLayer",
    "Composition",
    "FeatureOutputs",
    "FeatureScores",
    "HeadPair",
    "HeadPairs",
    "MeasuredAttention",
    "ScoreCurves",
    "attention_layer",
    "composition_scores",
    "composition_through",
    "feature_outputs",
    "feature_scores",
    "strongest_outputs",
    "strongest_scores",
]
