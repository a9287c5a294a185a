"""Pure functions of weights: what bilinear layers compute, and how it is put together."""

# Before its modules: a thread that imports one of them waits for the package with the module locked.
import bilinear_lm  # noqa: F401
from analysis.attention.composition import Composition, composition_scores, composition_through
from analysis.attention.layer import AttentionLayer, attention_layer
from analysis.attention.ov import FeatureOutputs, feature_outputs, strongest_outputs
from analysis.attention.pairs import HeadPair, HeadPairs
from analysis.attention.pattern import MeasuredAttention
from analysis.attention.qk import FeatureScores, ScoreCurves, ScoreRange, feature_scores, strongest_scores
from analysis.circuits.attribution import Attribution, attribute
from analysis.circuits.causal import CausalCheck, Intervention, causal_check, patch_node
from analysis.circuits.prompt.prompt import open_prompt
from analysis.circuits.static import static_circuit
from analysis.circuits.targets import (
    DirectionTarget,
    EigenvectorTarget,
    FeatureTarget,
    LogitTarget,
    ScoreTarget,
)
from analysis.circuits.trace import trace
from analysis.distributed import process_group
from analysis.features.contexts import Context, Contexts, top_contexts
from analysis.features.explained import Explained, explained_by_eigenvectors, explained_on_text
from analysis.features.index import InteractionIndex, interaction_index
from analysis.features.interactions import (
    Interaction,
    Interactions,
    merged_interactions,
    split_strongest_interactions,
    strongest_interactions,
    strongest_of_each,
)
from analysis.features.layer import FeatureLayer, feature_layer
from analysis.features.patterns import OpposingFeatures, PairPatterns, opposing_features, strongest_patterns
from analysis.features.statistics import InteractionStatistics, interaction_statistics
from analysis.features.submatrix import Submatrix, strongest_submatrix
from analysis.graphs.effects import Completeness, completeness, effects, predict_target
from analysis.graphs.export import save_circuit_tracer, to_circuit_tracer, to_networkx
from analysis.graphs.files import load_graph, save_graph
from analysis.graphs.graph import Edge, Graph, Node, Pruned, Pruning
from analysis.graphs.summary import GraphPath, strongest_paths, summary
from analysis.interventions.interactions import (
    AblationControl,
    AblationEffect,
    ablated,
    ablation_control,
    random_interactions,
)
from analysis.interventions.mlp import (
    ReplacementCost,
    TruncationCosts,
    cost_of_replacing,
    replaced_mlp,
    truncation_costs,
)
from analysis.paths.components import Source, Sources
from analysis.paths.logits import LogitExpansion, expand_along, expand_logits
from analysis.paths.measured import Measured, MeasuredLayer, measure
from analysis.paths.mlp import PathExpansion, expand_mlp
from analysis.paths.tokens import (
    PathToken,
    TokenInteraction,
    TokenPaths,
    read_along,
    strongest_token_interactions,
    token_paths,
)
from analysis.spectra.cp import CPDecomposition, as_squares, cp_decompose
from analysis.spectra.eigen import Eigendecomposition, effective_rank, eigendecompose, fix_signs
from analysis.spectra.eigen_folder import load_decomposition, save_decomposition
from analysis.spectra.eigen_run import eigendecompose_to_folder
from analysis.spectra.gram import cross_gram, strength, unfolding_gram
from analysis.spectra.hosvd import HOSVD, hosvd, singular_eigenvectors, truncate, truncate_eigenvectors
from analysis.spectra.similarity import (
    GaussianSimilarity,
    Matching,
    best_assignment,
    direction_similarity,
    gaussian_similarity,
    match_vectors,
    pairwise_cosine,
)
from analysis.streaming import PairMoments
from analysis.text.tokens import TokenReading, direct_scores, read_tokens, token_direction, virtual_scores
from analysis.text.windows import token_windows, window_losses

__all__ = [
    "HOSVD",
    "AblationControl",
    "AblationEffect",
    "AttentionLayer",
    "Attribution",
    "CPDecomposition",
    "CausalCheck",
    "Completeness",
    "Composition",
    "Context",
    "Contexts",
    "DirectionTarget",
    "Edge",
    "Eigendecomposition",
    "EigenvectorTarget",
    "Explained",
    "FeatureLayer",
    "FeatureOutputs",
    "FeatureScores",
    "FeatureTarget",
    "GaussianSimilarity",
    "Graph",
    "GraphPath",
    "HeadPair",
    "HeadPairs",
    "Interaction",
    "InteractionIndex",
    "InteractionStatistics",
    "Interactions",
    "Intervention",
    "LogitExpansion",
    "LogitTarget",
    "Matching",
    "Measured",
    "MeasuredAttention",
    "MeasuredLayer",
    "Node",
    "OpposingFeatures",
    "PairMoments",
    "PairPatterns",
    "PathExpansion",
    "PathToken",
    "Pruned",
    "Pruning",
    "ReplacementCost",
    "ScoreCurves",
    "ScoreRange",
    "ScoreTarget",
    "Source",
    "Sources",
    "Submatrix",
    "TokenInteraction",
    "TokenPaths",
    "TokenReading",
    "TruncationCosts",
    "ablated",
    "ablation_control",
    "as_squares",
    "attention_layer",
    "attribute",
    "best_assignment",
    "causal_check",
    "completeness",
    "composition_scores",
    "composition_through",
    "cost_of_replacing",
    "cp_decompose",
    "cross_gram",
    "direct_scores",
    "direction_similarity",
    "effective_rank",
    "effects",
    "eigendecompose",
    "eigendecompose_to_folder",
    "expand_along",
    "expand_logits",
    "expand_mlp",
    "explained_by_eigenvectors",
    "explained_on_text",
    "feature_layer",
    "feature_outputs",
    "feature_scores",
    "fix_signs",
    "gaussian_similarity",
    "hosvd",
    "interaction_index",
    "interaction_statistics",
    "load_decomposition",
    "load_graph",
    "match_vectors",
    "measure",
    "merged_interactions",
    "open_prompt",
    "opposing_features",
    "pairwise_cosine",
    "patch_node",
    "predict_target",
    "process_group",
    "random_interactions",
    "read_along",
    "read_tokens",
    "replaced_mlp",
    "save_circuit_tracer",
    "save_decomposition",
    "save_graph",
    "singular_eigenvectors",
    "split_strongest_interactions",
    "static_circuit",
    "strength",
    "strongest_interactions",
    "strongest_of_each",
    "strongest_outputs",
    "strongest_paths",
    "strongest_patterns",
    "strongest_scores",
    "strongest_submatrix",
    "strongest_token_interactions",
    "summary",
    "to_circuit_tracer",
    "to_networkx",
    "token_direction",
    "token_paths",
    "token_windows",
    "top_contexts",
    "trace",
    "truncate",
    "truncate_eigenvectors",
    "truncation_costs",
    "unfolding_gram",
    "virtual_scores",
    "window_losses",
]
