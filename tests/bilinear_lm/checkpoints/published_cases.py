"""Every published format and option: a config and, in words, the forward that it means."""

from .published_forward import NORMS, Case

F1 = {"bilinear": True, "rms": True, "norm_bias": False, "mlp_bias": False, "attn_dropout": 0.1}
F2 = {"mlp": "blp", "normalization": "rms", "norm_bias": False, "mlp_bias": False}
F3 = {"bilinear": True, "gate": False, "normalization": True, "noise": 0.3}
F4 = {"bilinear": True, "gate": None, "normalization": True, "bias": False, "modifier": "i"}
F5 = {"bilinear": True, "gate": None, "normalization": True, "bias": False, "tokenizer": "mistral"}
W, N, P = (".weight",), (".norm.weight",), (".norm.weight", ".norm.bias")
SCALARS = (".norm.a", ".norm.b")

CASES = {
    "f1": Case(F1, "o", norm_keys=W),
    "f1-mlp-bias": Case(F1 | {"mlp_bias": True}, "o", norm_keys=W, biases=("mlp.w",)),
    "f1-norm-bias": Case(F1 | {"norm_bias": True}, "o", norm_keys=(".weight", ".bias")),
    "f1-not-bilinear": Case(F1 | {"bilinear": False}, "o", "gelu", 1, norm_keys=W, biases=("mlp.w", "mlp.o")),
    "f2-rms": Case(F2, "o", norm_keys=W),
    "f2-rms-noise": Case(F2 | {"noise": 0.3}, "o", norm_keys=N),
    "f2-null": Case(F2 | {"normalization": None}, "o", norms=False),
    "f2-biases": Case(
        F2 | {"noise": None, "norm_bias": True, "mlp_bias": True}, "o", norm_keys=P, biases=("mlp.w",)
    ),
    "f2-glp": Case(F2 | {"mlp": "glp"}, "o", "gelu", norm_keys=W),
    "f2-glp-bias": Case(F2 | {"mlp": "glp", "mlp_bias": True}, "o", "gelu", norm_keys=W, biases=("mlp.w",)),
    "f2-mlp": Case(F2 | {"mlp": "mlp"}, "o", "gelu", 1, norm_keys=W, biases=("mlp.w",)),
    "f3": Case(F3, "o", norm_keys=N),
    "f3-gate": Case(F3 | {"gate": True}, "o", "relu", norm_keys=N),
    "f3-relu-mlp": Case(F3 | {"bilinear": False, "gate": True}, "o", "relu", 1, norm_keys=N),
    "f3-linear-mlp": Case(F3 | {"bilinear": False}, "o", None, 1, norm_keys=N),
    "f3-no-norms": Case(F3 | {"normalization": False}, "o", norms=False),
    "f3-zero-norm-bias": Case(F3, "o", norm_keys=P, norm_bias="nowhere"),
    "f3-norm-bias": Case(F3, "o", norm_keys=P),
    "f4": Case(F4),
    "f4-no-gate-key": Case({key: value for key, value in F4.items() if key != "gate"}),
    "f4-scaled": Case(F4 | {"scale_attn": True}, scaled=True),
    "f4-no-vocabulary": Case(F4, n_vocab=False),
    "f4-silu-bias": Case(F4 | {"gate": "silu", "bias": True}, "p", "silu", biases=("mlp.w", "mlp.p")),
    "f4-norm-list": Case(F4 | {"normalization": [True, True, True]}),
    "f4-norm-weight": Case(F4, norm_keys=N),
    "f4-scalars": Case(F4 | {"norm_bias": True}, norm_keys=SCALARS),
    "f4-strays": Case(F4, strays=tuple(f"{norm}.norm.linear.weight" for norm in NORMS)),
    "f5": Case(F5, scaled=True, n_vocab=False),
    "f5-explicitly-scaled": Case(F5 | {"scale_attn": True, "attention2": False}, scaled=True),
    "f5-explicitly-unscaled": Case(F5 | {"scale_attn": False}),
    "f5-relu": Case(F5 | {"gate": "relu"}, "p", "relu", scaled=True),
    "f5-silu": Case(F5 | {"gate": "silu"}, "p", "silu", scaled=True),
    "f5-gelu": Case(F5 | {"gate": "gelu"}, "p", "gelu", scaled=True),
    "f5-bias": Case(F5 | {"bias": True}, scaled=True, biases=("mlp.w", "mlp.p")),
    "f5-late-bias": Case(
        F5 | {"bias": True, "gate": "silu"}, "p", "silu", scaled=True, biases=("mlp.w", "mlp.p", "attn.qkv")
    ),
    "f5-no-norms": Case(F5 | {"normalization": False}, scaled=True, norms=False),
    "f5-no-norms-list": Case(F5 | {"normalization": [False, False, False]}, scaled=True, norms=False),
    "f5-scalars": Case(F5 | {"norm_bias": True}, scaled=True, norm_keys=SCALARS),
    "f5-gelu-mlp": Case(F5 | {"bilinear": False, "gate": "gelu"}, "p", "gelu", 1, scaled=True),
    "f5-linear-mlp": Case(F5 | {"bilinear": False}, "p", None, 1, scaled=True),
    "f5-relu-mlp-bias": Case(
        F5 | {"bilinear": False, "gate": "relu", "bias": True},
        *("p", "relu", 1),
        scaled=True,
        biases=("mlp.w", "mlp.p"),
    ),
}
