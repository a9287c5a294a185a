"""Policies of bilinear convolutions beside ReLU ones of as many weights, and what makes them act.

Trains both kinds from several seeds (about 90 CPU seconds each), one JSON line a policy in --results, and
measures: return on unseen levels; logits from few eigenvectors; probes for a neighbouring cheese by depth,
and the terms that carry it; states edited; and control of moves by terms. Prints Markdown tables, mean and
range over seeds, and draws policy.png.

    OMP_NUM_THREADS=1 python benchmarks/policy.py --work runs/policy
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analysis.colours import NEGATIVE, POSITIVE
from analysis.plots import INK, Drawing, save_figure, styled
from analysis.policies.concept import concept_report
from analysis.policies.control import control
from analysis.policies.edits import edit_effect
from analysis.policies.states import moved_cheese, opened_walls, visited_states
from analysis.policies.truncation import truncation_curve
from bilinear_lm.environments import ACTIONS, load_policy, play_episodes
from finetune.networks.policy import train_policy
from finetune.networks.policy_config import PolicyConfig

LEVELS = 512
KINDS = ("bilinear", "relu")
COUNTS = (1, 2, 4, 8, 16, 32, 128)
SCALES = (0.0, 4.0)
CONCEPTS = ("cheese-right", "cheese-up")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/policy"), help="folder of the policies")
    parser.add_argument("--results", type=Path, help="JSON lines; by default in the folder of the policies")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=PolicyConfig.steps)
    parser.add_argument("--figure", type=Path, default=Path(__file__).with_name("policy.png"))
    options = parser.parse_args()
    results = options.results or options.work / "results.jsonl"
    done = read(results)
    for seed in options.seeds:
        for kind in KINDS:
            if (kind, seed) not in done:
                done[kind, seed] = {"kind": kind, "seed": seed} | one(kind, seed, options)
                with results.open("a") as file:
                    file.write(json.dumps(done[kind, seed]) + "\n")
    found = {kind: [done[kind, seed] for seed in options.seeds] for kind in KINDS}
    print_tables(found)
    save_figure(figure(found), options.figure)


def read(results):
    if not results.exists():
        return {}
    lines = map(json.loads, results.read_text().splitlines())
    return {(line["kind"], line["seed"]): line for line in lines}


def one(kind, seed, options):
    """Everything about one policy, which is trained where it is not there yet."""
    folder = options.work / f"{kind}-{seed}"
    if not folder.exists():
        run = folder.with_name(f"{folder.name}.run")
        train_policy(
            PolicyConfig(folder, kind=kind, seed=seed, steps=options.steps, device="cpu", resume=run.exists())
        )
    record = json.loads((folder / "train.json").read_text())
    curve = json.loads((folder / "curve.json").read_text())["curve"]
    policy = load_policy(folder)
    mazes = policy.mazes(LEVELS, seed=1)
    played = {
        "sampled": play_episodes(mazes, policy.network),
        "greedy": play_episodes(mazes, policy.network, greedy=True),
        "random": play_episodes(mazes),
    }
    about = {
        "parameters": record["parameters"],
        "steps": record["steps"],
        "seconds": record["seconds"],
        "curve": [[entry["steps"], entry["return"]] for entry in curve],
        "returns": {name: each.mean_return for name, each in played.items()},
        "lengths": {name: each.mean_length for name, each in played.items()},
        "edits": edits(policy, seed),
    }
    return about | (readings(policy, seed) if kind == "bilinear" else {})


def edits(policy, seed):
    met = visited_states(policy, 2000, seed)
    made = {"moved": moved_cheese(met), "removed": met.without_cheese(), "wall": opened_walls(met)}
    return {name: asdict(edit_effect(policy, met, edited)) for name, edited in made.items()}


def readings(policy, seed):
    truncated = truncation_curve(policy, COUNTS, LEVELS, seed=1)
    concepts = {}
    for concept in CONCEPTS:
        report = concept_report(policy, concept, seed=seed)
        terms = report.terms
        concepts[concept] = {
            "depths": {name: asdict(scores) for name, scores in report.depths.items()},
            "met": asdict(report.met),
            "counts": terms.dropped.counts.tolist(),
            "dropped": terms.dropped.auc.tolist(),
            "others": terms.dropped.control.mean(0).tolist(),
            "turned": terms.turned.control.mean(0).tolist(),
            "varied": terms.varied.control.mean(0).tolist(),
            "noise": terms.noise.control.mean(0).tolist(),
            "removed": terms.removed.tolist(),
            "direct": terms.dropped.direct,
            "kept_counts": terms.kept.counts.tolist(),
            "kept": terms.kept.auc.tolist(),
            "kept_others": terms.kept.control.mean(0).tolist(),
        }
    met = visited_states(policy, 2000, seed)
    controls = [
        control(policy, met, action, scale=scale, n=128, n_random=3, seed=seed)
        for action in ACTIONS
        for scale in SCALES
    ]
    return {
        "truncated": dict(zip(map(str, COUNTS), truncated.returns, strict=True)),
        "effective_ranks": truncated.effective_ranks.tolist(),
        "concepts": concepts,
        "controls": [
            {
                "action": each.action,
                "scale": each.scale,
                "energy": each.energy_share,
                "before": each.before.probability,
                "chosen": each.chosen.probability,
                "random": [one.probability for one in each.random],
                "share_before": each.before.share,
                "share_chosen": each.chosen.share,
                "share_random": [one.share for one in each.random],
                "return_before": each.before.episodes.mean_return,
                "return_chosen": each.chosen.episodes.mean_return,
                "return_random": [one.episodes.mean_return for one in each.random],
                "times": each.times_random,
            }
            for each in controls
        ],
    }


def over(values, digits=2):
    """Mean and range."""
    values = list(values)
    mean = sum(values) / len(values)
    return f"{mean:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def row(*cells):
    print("| " + " | ".join(map(str, cells)) + " |")


def head(*cells):
    print()
    row(*cells)
    row(*["---"] * len(cells))


def print_tables(found):
    bilinear = found["bilinear"]
    head("policy", "weights", "CPU s", "return, sampled", "greedy", "steps an episode", "chance")
    for kind, runs in found.items():
        row(
            kind,
            runs[0]["parameters"],
            over((run["seconds"] for run in runs), 0),
            over(run["returns"]["sampled"] for run in runs),
            over(run["returns"]["greedy"] for run in runs),
            over((run["lengths"]["sampled"] for run in runs), 1),
            over(run["returns"]["random"] for run in runs),
        )
    head("eigenvectors an action", *COUNTS, "all")
    curves = [over(run["truncated"][str(count)] for run in bilinear) for count in COUNTS]
    row("return", *curves, over(run["returns"]["sampled"] for run in bilinear))
    print_concepts(bilinear)
    print_edits(found)
    head("terms of an action", "P before", "chosen", "random", "times random, least", "return", "random")
    for scale in SCALES:
        made = [each for run in bilinear for each in run["controls"] if each["scale"] == scale]
        row(
            f"{scale:g} times",
            over((each["before"] for each in made), 3),
            over((each["chosen"] for each in made), 3),
            over((one for each in made for one in each["random"]), 3),
            f"{min(each['times'] for each in made):.1f}",
            over(each["return_chosen"] for each in made),
            over(one for each in made for one in each["return_random"]),
        )


def print_concepts(runs):
    every = [run["concepts"][concept] for run in runs for concept in CONCEPTS]
    layers = list(every[0]["depths"])
    head("probe for a cheese beside the mouse", *layers)
    for measure in ("accuracy", "auc"):
        row(measure, *(over((each["depths"][name][measure] for each in every), 3) for name in layers))
    head("in states that are met", "base rate", "precision", "recall", "F1", "accuracy")
    measures = ("base_rate", "precision", "recall", "f1", "accuracy")
    row("behind block1", *(over((each["met"][name] for each in every), 3) for name in measures))
    counts = every[0]["counts"]
    head("terms dropped, AUC", *counts)
    names = {
        "dropped": "by weight",
        "others": "other terms",
        "turned": "turned",
        "varied": "turned, variance",
        "noise": "noise of the variance of what is dropped",
    }
    for name, told in names.items():
        row(told, *(over((each[name][i] for each in every), 3) for i in range(len(counts))))
    row(
        "deviation dropped, of the whole's",
        *(over(each["removed"][i] for each in every) for i in range(len(counts))),
    )
    kept = every[0]["kept_counts"]
    head("terms kept, AUC", *kept)
    for name, told in {"kept": "by variance", "kept_others": "other terms"}.items():
        row(told, *(over((each[name][i] for each in every), 3) for i in range(len(kept))))


def print_edits(found):
    head("edit", "kind", "total variation", "other action", "nearer before", "nearer after")
    for name in ("moved", "removed", "wall"):
        for kind, runs in found.items():
            measured = [run["edits"][name] for run in runs]
            toward = (
                "" if name == "removed" else over(each[side] for each in measured)
                for side in ("toward_before", "toward_after")
            )
            changed = (
                over((each[of] for each in measured), 3) for of in ("total_variation", "argmax_changed")
            )
            row(name, kind, *changed, *toward)


@styled
def figure(found):
    """Four panels: training, eigenvectors, dropped terms, control."""
    drawing = Drawing(figsize=(8.2, 5.4), layout="constrained")
    FigureCanvasAgg(drawing)
    (train, few), (drop, steer) = drawing.subplots(2, 2)
    for kind, color in zip(KINDS, (POSITIVE, NEGATIVE), strict=True):
        for run in found[kind]:
            steps, returns = zip(*[entry for entry in run["curve"] if entry[1] is not None], strict=True)
            smooth = torch.tensor(returns).unfold(0, 5, 1).mean(1).tolist()
            label = kind if run is found[kind][0] else None
            train.plot([step / 1e3 for step in steps[4:]], smooth, color=color, linewidth=1, label=label)
    chance = [run["returns"]["random"] for run in found["bilinear"]]
    train.axhline(sum(chance) / len(chance), color=INK, linewidth=0.8, linestyle=":", label="chance")
    train.set(
        xlabel="thousand steps", ylabel="return in training", title="bilinear and ReLU, as many weights"
    )
    train.legend()
    for run in found["bilinear"]:
        few.plot(range(len(COUNTS)), [run["truncated"][str(k)] for k in COUNTS], color=POSITIVE, marker=".")
        few.axhline(run["returns"]["sampled"], color=INK, linewidth=0.6)
    few.set_xticks(range(len(COUNTS)), [str(count) for count in COUNTS])
    few.set(
        xlabel="eigenvectors an action", ylabel="return, unseen levels", title="logits of few eigenvectors"
    )
    every = [run["concepts"][concept] for run in found["bilinear"] for concept in CONCEPTS]
    counts = every[0]["counts"]
    styles = {
        "dropped": ("strongest terms", POSITIVE, "-"),
        "others": ("other terms of the sum", INK, "-"),
        "turned": ("turned filters, same spectrum", NEGATIVE, "-"),
        "varied": ("turned filters, same variance", NEGATIVE, ":"),
        "noise": ("noise, same variance", INK, ":"),
    }
    for name, (label, color, style) in styles.items():
        curves = torch.tensor([each[name] for each in every])
        middle = curves.mean(0).tolist()
        drop.plot(range(len(counts)), middle, color=color, linestyle=style, marker=".", label=label)
        low, high = curves.min(0).values.tolist(), curves.max(0).values.tolist()
        drop.fill_between(range(len(counts)), low, high, color=color, alpha=0.1, linewidth=0)
    drop.set_xticks(range(len(counts)), counts)
    drop.set(xlabel="terms dropped", ylabel="AUC", title="a probe for a neighbouring cheese")
    drop.legend(fontsize=7)
    for column, scale in enumerate(SCALES):
        made = [each for run in found["bilinear"] for each in run["controls"] if each["scale"] == scale]
        chosen = [each["chosen"] - each["before"] for each in made]
        random = [one - each["before"] for each in made for one in each["random"]]
        for shift, values, color, label in (
            (-0.15, chosen, POSITIVE, "chosen"),
            (0.15, random, INK, "random"),
        ):
            places = [column + shift] * len(values)
            steer.scatter(places, values, color=color, s=12, alpha=0.6, label=None if column else label)
    steer.axhline(0, color=INK, linewidth=0.6)
    steer.set_xticks(range(len(SCALES)), [f"{scale:g} times" for scale in SCALES])
    steer.set(ylabel="change of an action's probability", title="terms of an action scaled")
    steer.legend()
    return drawing


if __name__ == "__main__":
    main()
