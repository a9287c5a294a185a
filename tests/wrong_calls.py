"""Wrong calls of public functions."""

import torch

import analysis as A
import bilinear_lm as bl
import finetune
from bilinear_lm.shipped import SHIPPED


class Things:
    """What the calls are given where they are right."""

    def __init__(self, folder):
        self.tmp = folder
        self.model, self.tok = bl.load_pretrained("stories"), bl.load_tokenizer("stories")
        self.t, self.W_U = bl.mlp_tensor(self.model, 3), bl.unembedding(self.model)
        self.W_E = bl.embedding(self.model)
        scope = A.dictionaries_in(SHIPPED / "stories-scope", self.model)
        self.ins, self.outs = scope[bl.Site(3, "mlp-in")], scope[bl.Site(3, "mlp-out")]
        self.layer = A.feature_layer(self.model, 3, self.ins, self.outs)
        self.u = A.token_direction(self.W_U, 5)
        self.prompt = A.open_prompt(self.model, [1, 2, 3], scope)
        self.att = A.attribute(self.prompt, A.LogitTarget(5), max_nodes=20)
        self.graph, self.attn = self.att.graph, A.attention_layer(self.model, 0, 8)


WRONG = {
    "merged_interactions([])": lambda x: A.features.merged_interactions([], 3),
    "merged_interactions of numbers": lambda x: A.features.merged_interactions([1, 2], 3),
    "strongest_interactions(layer, 'x')": lambda x: A.strongest_interactions(x.layer, "540"),
    "strongest_interactions(layer, 9999)": lambda x: A.strongest_interactions(x.layer, 9999),
    "strongest_interactions(tensor)": lambda x: A.strongest_interactions(x.t, [540]),
    "strongest_interactions k=0": lambda x: A.strongest_interactions(x.layer, [540], k=0),
    "strongest_interactions outputs [0.5]": lambda x: A.strongest_interactions(x.layer, [0.5]),
    "certify(model)": lambda x: A.certify(x.model, x.u),
    "certify(tensor, 3)": lambda x: A.certify(x.t, 3),
    "certify subspace of one": lambda x: A.certify(x.t, x.u, subspace=x.u),
    "certify_features(tensor)": lambda x: A.certify_features(x.t, x.outs),
    "certify_features 'x'": lambda x: A.certify_features(x.model, x.outs, "540"),
    "verify eigenvectors as text": lambda x: A.verify(x.t, x.u, "these eight"),
    "eigenvectors_needed '10%'": lambda x: A.eigenvectors_needed(x.t, x.u, "10%"),
    "certified_radius labels list": lambda x: A.certified_radius(x.t, x.W_E[:3], [0, 1, 2]),
    "token_direction text": lambda x: A.token_direction(x.W_U, " sad"),
    "token_direction W_U transposed": lambda x: A.token_direction(x.W_U.T, 2000),
    "token_direction against text": lambda x: A.token_direction(x.W_U, 3, [" a"]),
    "token_direction list as W_U": lambda x: A.token_direction([[1.0]], 0),
    "LogitTarget(' hug')": lambda x: A.LogitTarget(" hug"),
    "LogitTarget(1.5)": lambda x: A.LogitTarget(1.5),
    "LogitTarget against int": lambda x: A.LogitTarget(1, 2),
    "FeatureTarget('3-mlp-out', 1)": lambda x: A.FeatureTarget("3-mlp-out", 1),
    "DirectionTarget list": lambda x: A.DirectionTarget(bl.Site(0, "mlp-out"), [1.0]),
    "EigenvectorTarget layer text": lambda x: A.EigenvectorTarget("0", x.u),
    "ScoreTarget(0.5,0,0)": lambda x: A.ScoreTarget(0.5, 0, 0),
    "attribute(model, 'text')": lambda x: A.attribute(x.model, "text"),
    "attribute(model, ids, target)": lambda x: A.attribute(x.model, [1, 2], A.LogitTarget(3)),
    "attribute target int": lambda x: A.attribute(x.prompt, 3),
    "attribute text no tokenizer": lambda x: A.attribute(x.prompt, " hug"),
    "attribute share 2": lambda x: A.attribute(x.prompt, A.LogitTarget(3), share=2),
    "attribute max_nodes '5'": lambda x: A.attribute(x.prompt, A.LogitTarget(3), max_nodes="5"),
    "attribute heads all": lambda x: A.attribute(x.prompt, A.LogitTarget(3), heads="all"),
    "open_prompt text no tokenizer": lambda x: A.open_prompt(x.model, "text"),
    "open_prompt []": lambda x: A.open_prompt(x.model, []),
    "open_prompt ids text list": lambda x: A.open_prompt(x.model, ["a"]),
    "open_prompt path model": lambda x: A.open_prompt("stories", [1, 2]),
    "open_prompt dicts path": lambda x: A.open_prompt(x.model, [1, 2], "stories-scope"),
    "open_prompt None": lambda x: A.open_prompt(x.model, None),
    "static_circuit(model, ScoreTarget)": lambda x: A.static_circuit(x.model, A.ScoreTarget(0, 0, 0)),
    "static_circuit('stories')": lambda x: A.static_circuit("stories", A.LogitTarget(3)),
    "trace(model, None, 'a')": lambda x: A.trace(x.model, None, "a"),
    "trace feature int": lambda x: A.trace(x.model, x.tok, feature=540),
    "trace prompt list": lambda x: A.trace(x.model, x.tok, [1, 2]),
    "causal_check(model, graph)": lambda x: A.causal_check(x.model, x.graph),
    "causal_check of too many": lambda x: A.causal_check(x.model, x.att, n=10**6),
    "causal_check of too many of a kind": lambda x: A.causal_check(x.model, x.att, n=10**6, each_kind=True),
    "trace check of too many": lambda x: A.trace(x.model, x.tok, "Once upon", check=10**6),
    "trace check of none": lambda x: A.trace(x.model, x.tok, "Once upon", check=0),
    "trace check by weights alone": lambda x: A.trace(x.model, x.tok, token=" sad", check=3),
    "attribute by size": lambda x: A.attribute(x.prompt, A.LogitTarget(3), by="size"),
    "attribute interactions all": lambda x: A.attribute(x.prompt, A.LogitTarget(3), interactions="all"),
    "open_interactions target": lambda x: A.open_interactions(x.att, x.att.graph.target),
    "open_interactions k 0": lambda x: A.open_interactions(x.att, x.att.graph.target, k=0),
    "attribute attention free": lambda x: A.attribute(x.prompt, A.LogitTarget(3), attention="free"),
    "attribute norms free": lambda x: A.attribute(x.prompt, A.LogitTarget(3), norms="free"),
    "effects by size": lambda x: A.effects(x.graph, "size"),
    "carried of attribution": lambda x: A.carried(x.att),
    "steer_node unknown": lambda x: A.steer_node(x.graph, "x", 1.0),
    "patch_node a text": lambda x: A.patch_node(x.graph, x.graph.target, "1"),
    "scale_nodes a text": lambda x: A.scale_nodes(x.graph, "token 1"),
    "causal_check trials text": lambda x: A.causal_check(x.model, x.att, "token 1"),
    "eigendecompose text": lambda x: A.eigendecompose(x.t, " sad"),
    "eigendecompose list u": lambda x: A.eigendecompose(x.t, [1.0] * 192),
    "eigendecompose(model, u)": lambda x: A.eigendecompose(x.model, x.u),
    "eigendecompose k text": lambda x: A.eigendecompose(x.t, x.u, "4"),
    "approximate_layers text": lambda x: A.approximate_layers(x.model, "a cat", "a dog"),
    "approximate_training models": lambda x: A.approximate_training([x.model], [0], [[1, 2]], [[1, 2]]),
    "approximate_training steps": lambda x: A.approximate_training(x.model, "all", [[1, 2]], [[1, 2]]),
    "hosvd(model)": lambda x: A.hosvd(x.model),
    "hosvd leg": lambda x: A.hosvd(x.t, leg="both"),
    "cp_decompose(model, 3)": lambda x: A.cp_decompose(x.model, 3),
    "pairwise_cosine([])": lambda x: A.pairwise_cosine([], []),
    "pairwise_cosine tensor": lambda x: A.pairwise_cosine(x.t, x.t),
    "gaussian_similarity model": lambda x: A.gaussian_similarity(x.model, x.t),
    "match_vectors lists": lambda x: A.match_vectors([1.0], [2.0]),
    "effective_rank list": lambda x: A.effective_rank([1.0, 2.0]),
    "feature_layer(model,'3')": lambda x: A.feature_layer(x.model, "3", x.ins, x.outs),
    "feature_layer folder names": lambda x: A.feature_layer(x.model, 3, "a", "b"),
    "feature_layer swapped": lambda x: A.feature_layer(x.model, 3, x.outs, x.ins),
    "interaction_index(tensor)": lambda x: A.interaction_index(x.t),
    "interaction_statistics outputs text": lambda x: A.interaction_statistics(x.layer, "540"),
    "strongest_submatrix output list": lambda x: A.strongest_submatrix(x.layer, [540]),
    "strongest_patterns unknown": lambda x: A.strongest_patterns(x.layer, "nand"),
    "opposing_features no decoder": lambda x: A.opposing_features(x.layer, None),
    "top_contexts text": lambda x: A.top_contexts(x.model, x.outs, "Once upon a time"),
    "top_contexts dictionary name": lambda x: A.top_contexts(x.model, "stories-scope/3-mlp-out", [[1, 2]]),
    "top_contexts windows []": lambda x: A.top_contexts(x.model, x.outs, []),
    "explained_on_text text": lambda x: A.explained_on_text(x.model, 3, x.outs, "Once upon"),
    "dictionaries_in missing": lambda x: A.dictionaries_in(x.tmp / "no", x.model),
    "dictionaries_in str": lambda x: A.dictionaries_in(str(x.tmp / "no"), x.model),
    "Vocabulary.find int": lambda x: A.Vocabulary.of(x.tok, 2048).find(3),
    "token_windows no tokenizer": lambda x: A.token_windows(None, "a", 8),
    "token_windows length 0": lambda x: A.token_windows(x.tok, "a b", 0),
    "prompt_ids empty": lambda x: A.prompt_ids(x.model, x.tok, ""),
    "direct_scores shapes": lambda x: A.direct_scores(torch.ones(3), x.W_E),
    "virtual_scores shapes": lambda x: A.virtual_scores(
        torch.ones(3), x.W_E, x.attn.weights.W_V, x.attn.weights.W_O
    ),
    "read_tokens list": lambda x: A.read_tokens([1.0, 2.0]),
    "attention_layer layer 9": lambda x: A.attention_layer(x.model, 9, 8),
    "feature_scores list": lambda x: A.feature_scores(x.attn, [1.0]),
    "feature_outputs wrong width": lambda x: A.feature_outputs(x.attn, torch.ones(2, 3), torch.ones(2, 3)),
    "strongest_scores(attn)": lambda x: A.strongest_scores(x.attn),
    "composition_scores one": lambda x: A.composition_scores(x.attn, None),
    "measure text": lambda x: A.measure(x.model, "Once"),
    "measure []": lambda x: A.measure(x.model, []),
    "measure floats": lambda x: A.measure(x.model, torch.ones(4)),
    "expand_mlp shapes": lambda x: A.expand_mlp(x.t, torch.ones(3, 2, 5), torch.ones(2), x.u),
    "expand_logits of 4 layers": lambda x: A.expand_logits(x.model, [1, 2], [3]),
    "token_paths of layer": lambda x: A.token_paths(x.layer),
    "replaced_mlp number": lambda x: A.replaced_mlp(x.model, 0, 3).__enter__(),
    "replaced_mlp layer 9": lambda x: A.replaced_mlp(x.model, 9, x.t).__enter__(),
    "truncation_costs text": lambda x: A.truncation_costs(x.model, 0, [1], "Once"),
    "ablation_control list": lambda x: A.ablation_control(x.model, 3, x.ins, x.outs, [1], [[1, 2, 3]]),
    "effects(attribution)": lambda x: A.effects(x.att),
    "summary('graph.json')": lambda x: A.summary("graph.json"),
    "load_graph missing": lambda x: A.load_graph(x.tmp / "none.json"),
    "save_graph None": lambda x: A.save_graph(None, x.tmp / "g.json"),
    "Graph nodes of text": lambda x: A.Graph(("a",), (), "a"),
    "predict_target unknown": lambda x: A.predict_target(x.graph, {"x": 0.0}),
    "describe id": lambda x: A.describe(x.graph, "token 1"),
    "save_circuit_tracer name": lambda x: A.save_circuit_tracer(x.graph, x.tmp / "a b.json"),
    "strongest_paths k": lambda x: A.strongest_paths(x.graph, 0),
    "labelled list": lambda x: A.labelled(x.graph, ["a"]),
    "diff(model, 'stories')": lambda x: A.diff(x.model, "stories"),
    "diff k=0": lambda x: A.diff(x.model, x.model, k=0),
    "diff seed text": lambda x: A.diff(x.model, x.model, seed="0"),
    "diff null of texts": lambda x: A.diff(x.model, x.model, null=["stories"]),
    "null_changes none": lambda x: A.null_changes(x.model, []),
    "difference(model, model)": lambda x: A.difference(x.model, x.model),
    "difference of shapes": lambda x: A.difference(x.t, x.t.change_basis(outputs=x.W_U.T[:3])),
    "largest_change(model)": lambda x: A.largest_change(x.model),
    "largest_change steps": lambda x: A.largest_change(x.t, steps=0),
    "largest_change radius text": lambda x: A.largest_change(x.t, "1"),
    "bl.load_pretrained(3)": lambda x: bl.load_pretrained(3),
    "bl.mlp_tensor(model,'0')": lambda x: bl.mlp_tensor(x.model, "0"),
    "bl.load_dictionary(None)": lambda x: bl.load_dictionary(None),
    "bl.Site('3','mlp-in')": lambda x: bl.Site("3", "mlp-in"),
    "bl.BilinearTensor lists": lambda x: bl.BilinearTensor([1], [2], [3]),
    "bl.sample text model": lambda x: bl.sample("stories", x.tok),
    "bl.text_loss(model,tok,3)": lambda x: bl.text_loss(x.model, x.tok, 3),
    "bl.hook(3)": lambda x: bl.hook(3),
    "F.convert('stories')": lambda x: finetune.convert("stories"),
    "F.convert(model,'best')": lambda x: finetune.convert(x.model, "best"),
    "F.edit('stories')": lambda x: finetune.edit("stories", []),
    "F.edit of nothing": lambda x: finetune.edit(x.model, []),
    "F.edit of a text": lambda x: finetune.edit(x.model, ["540:12,33"]),
    "F.edit of one direction": lambda x: finetune.edit(x.model, [finetune.Edit(3, x.u, (x.u,), 1.0)]),
    "F.edit inputs a tensor": lambda x: finetune.edit(x.model, [finetune.Edit(3, x.u, x.u, 1.0)]),
    "F.edit layer text": lambda x: finetune.edit(x.model, [finetune.Edit("3", x.u, (x.u, x.u), 1.0)]),
    "F.edit change text": lambda x: finetune.edit(x.model, [finetune.Edit(3, x.u, (x.u, x.u), "all")]),
    "F.edit numbers": lambda x: finetune.edit(x.model, [finetune.Edit(3, 540, (12, 33), 1.0)]),
    "F.interaction layer 9": lambda x: finetune.interaction(x.model, 9, x.u, (x.u, x.u)),
    "F.interaction of numbers": lambda x: finetune.interaction(x.model, 3, 540, (12, 33)),
}


def raised(call, things):
    try:
        call(things)
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["", "accepted"]
