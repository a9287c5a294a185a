"""All cases of a seed, and a sample of them that has of every kind its share."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from random import Random

import cases_explore
import cases_indexes
import cases_models
import cases_options
import cases_permissions
import cases_results
import cases_texts
import cases_tokenizers
from sandbox import Case

MODULES = (cases_models, cases_indexes, cases_tokenizers, cases_permissions, cases_options, cases_texts)
MODULES += (cases_results, cases_explore)


def catalogue(seed: int) -> list[Case]:
    """The cases, each with a name of its own; one in forty starts a real interpreter."""
    random, seen, cases = Random(f"{seed} real"), set(), []
    for case in (case for module in MODULES for case in module.cases(seed)):
        number, name = 1, case.name
        while name in seen:
            number += 1
            name = f"{case.name}-{number}"
        seen.add(name)
        startable = case.function == "main" and not case.unprivileged
        cases.append(replace(case, name=name, real=startable and random.random() < 1 / 40))
    return cases


def sample(cases: Iterable[Case], count: int, seed: int) -> Iterator[Case]:
    """So many of the cases, drawn from every kind in turn."""
    random, kinds = Random(f"{seed} sample"), defaultdict(list)
    cases = list(cases)
    for case in cases:
        kinds[case.kind].append(case)
    share = count / max(1, len(cases))
    for members in kinds.values():
        yield from random.sample(members, min(len(members), max(1, round(share * len(members)))))
