"""Importing the tensor and the analyses stays light, and imports go one way."""

import ast
import graphlib
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from bilinear_lm.first_use import modules_of

ROOT = Path(__file__).parents[1]
PACKAGES = ("bilinear_lm", "analysis", "finetune")


@pytest.mark.parametrize("package", ["bilinear_lm", "analysis"])
def test_heavy_libraries_load_on_first_use_only(package):
    heavy = ("transformers", "transformer_lens", "datasets", "plotly")
    code = f"import sys, {package}; print(*(name for name in {heavy} if name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []


def test_light_names_load_no_transformers():
    code = """
import sys, bilinear_lm, finetune
from bilinear_lm.first_use import modules_of
finetune.fit_bilinear
for name, module in modules_of("bilinear_lm").items():
    if module in bilinear_lm._LIGHT:
        getattr(bilinear_lm, name)
print("transformers" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


HEAVY = ("torch", "transformers", "matplotlib", "scipy", "pandas", "datasets")
RUN = """
import contextlib, io, sys
from bilinear_lm.cli import main

with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(sys.argv[1:])
print(*sys.modules)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["finetune", "--help"], ["info", "stories"]])
def test_commands_that_compute_nothing_load_no_torch(arguments):
    run = [sys.executable, "-c", RUN, *arguments]
    loaded = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert "bilinear_lm.cli" in loaded
    assert "analysis.commands.trace" in loaded
    assert not {*loaded} & {*HEAVY}


def test_no_module_of_a_command_imports_torch():
    """Of the three packages' modules that every call of the program imports."""
    code = "import sys, bilinear_lm.cli; bilinear_lm.cli.commands(); print(*sys.modules)"
    run = [sys.executable, "-c", code]
    loaded = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    paths = {name: path for package in PACKAGES for name, path in modules(package).items()}
    for name in paths.keys() & {*loaded}:
        names = {getattr(node, "module", None) or node.names[0].name for node in top_level(paths[name])}
        assert not {each.split(".")[0] for each in names} & {*HEAVY}, name


EIGHT_THREADS = """
import sys, threading, time
from importlib import import_module

start, used = threading.Barrier(9), []

def use(number, package, name):
    start.wait()
    time.sleep(number * float(sys.argv[1]))
    used.append(getattr(import_module(package), name))

def import_transformers():
    start.wait()
    import transformers

names = [("bilinear_lm", "load_pretrained"), ("finetune", "convert"), ("bilinear_lm", "hook"),
         ("analysis", "trace"), ("finetune", "train_dictionaries"), ("bilinear_lm", "sample"),
         ("bilinear_lm", "load_dictionary"), ("finetune", "finetune")]
threads = [threading.Thread(target=use, args=(number, *name)) for number, name in enumerate(names)]
threads.append(threading.Thread(target=import_transformers))
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(used))
"""


@pytest.mark.parametrize("seconds_apart", ["0", "0.1"])
def test_eight_threads_at_once(seconds_apart):
    run = [sys.executable, "-c", EIGHT_THREADS, seconds_apart]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "8\n"), done.stderr


def top_level(path: Path) -> list[ast.stmt]:
    nodes = ast.parse(path.read_text()).body
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def test_no_module_uses_a_name_on_first_use_while_it_is_imported():
    lazy = ("bilinear_lm", "bilinear_lm.checkpoints", "analysis", "finetune")
    names = {import_module(package).__name__: modules_of(package) for package in lazy}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in top_level(path):
                if isinstance(node, ast.ImportFrom):
                    assert not {alias.name for alias in node.names} & {*names.get(node.module, ())}, path


@pytest.mark.parametrize("package", ["analysis", "finetune"])
def test_bilinear_lm_is_imported_before_its_modules(package):
    imports = [ast.unparse(node) for node in top_level(ROOT / package / "__init__.py")]
    ours = [line for line in imports if "bilinear_lm" in line or package in line]
    assert ours[0] == "import bilinear_lm"


@pytest.mark.parametrize(
    "package",
    [
        *("bilinear_lm", "bilinear_lm.checkpoints", "bilinear_lm.environments", "bilinear_lm.hooked"),
        *("analysis", "finetune"),
    ],
)
def test_type_checkers_see_the_names_that_load_on_first_use(package):
    path = ROOT.joinpath(*package.split("."), "__init__.py")
    seen = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If):
            imports = [each for each in node.body if isinstance(each, ast.ImportFrom)]
            seen |= {
                alias.name: getattr(import_module(each.module), alias.name, None)
                for each in imports
                for alias in each.names
            }
    assert seen
    for name, value in seen.items():
        assert value is None or getattr(import_module(package), name) is value, name
    assert seen.keys() == modules_of(package).keys()


def test_every_public_name_is_there():
    import analysis
    import bilinear_lm
    import finetune

    for package in (bilinear_lm, analysis, finetune):
        for name in package.__all__:
            assert getattr(package, name) is not None
            assert name in dir(package)


ROOMS = [
    "bilinear_lm",
    *("streaming", "text", "spectra", "toys", "features", "attention", "paths"),
    *("interventions", "guarantees", "polynomials", "chains", "graphs", "circuits", "colours", "plots"),
    *(
        "polynomial_plots",
        "vision",
        "convolutions",
        "policies",
        "policy_plots",
        "report",
        "explore",
        "commands",
    ),
]
"""Of `analysis`, each of which may import those before it."""


def modules(package: str) -> dict[str, Path]:
    paths = (ROOT / package).rglob("*.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("bilinear_lm", {"analysis", "finetune"}), ("analysis", {"finetune"}), ("finetune", {"analysis"})],
)
def test_packages_import_one_way(package, forbidden):
    for module, path in modules(package).items():
        if module != "bilinear_lm.cli":  # the command line knows all three
            assert not {name.split(".")[0] for name in imported(path)} & forbidden, module


def room(module: str) -> str:
    first, *rest = module.split(".")
    return rest[0] if first == "analysis" and rest else first


def test_rooms_of_analysis_import_one_way():
    for module, path in modules("analysis").items():
        if module == "analysis.__init__":
            continue
        ours = {name for name in imported(path) if name.split(".")[0] in ("analysis", "bilinear_lm")}
        assert "analysis" not in ours, f"{module}: imports the package, which imports all of its rooms"
        above = {name for name in ours if ROOMS.index(room(name)) > ROOMS.index(room(module))}
        assert not above, module


@pytest.mark.parametrize("package", ["bilinear_lm", "analysis", "finetune"])
def test_no_modules_import_each_other_in_a_circle(package):
    """Of what is imported at the top, packages that hand on names left out."""
    paths = {name: path for name, path in modules(package).items() if path.name != "__init__.py"}
    graph = {}
    for name, path in paths.items():
        at_top = {node.module for node in top_level(path) if isinstance(node, ast.ImportFrom)}
        graph[name] = at_top & paths.keys()
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError
