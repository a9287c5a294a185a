"""Cases of the served page: what it is started with, and what happens while it is served."""

from calls import CPU, at, slug
from mutate_json import put
from sandbox import Case

ON = ("--dictionaries", "in/scope", "--contexts", "in/held-out.txt", "--features", "3")
ON += ("--prompt", "A cat", "--no-browser", *CPU)
USES = ("model", "scope", "held-out.txt", "names.json")


def _with(*options):
    """The arguments with an option set to another value."""
    kept = [part for i, part in enumerate(ON) if options[0] not in ON[max(0, i - 1) : i + 1]]
    return (*kept, *options)


def refusals():
    """What is wrong at the start: no server is begun."""
    for option, values in {
        "--port": ("-1", "65536", str(2**64), "http", ""),
        "--dictionaries": ("nowhere", "in/held-out.txt", "\udcff"),
        "--contexts": ("nowhere", "in/scope", "a\nbilinear-lm: all is well"),
        "--names": ("nowhere", "in/scope"),
        "--state": ("in/held-out.txt", "in/held-out.txt/below"),
        "--features": ("-1", "many"),
        "--seed": ("-1", "nan"),
        "--device": ("evil",),
    }.items():
        for value in values:
            arguments = ("explore", "in/model", *_with(option, value))
            yield Case(f"explore/start{option}/{slug(value)}", arguments, USES, right="refusal")
    for model in ("nowhere", "in/swiglu", "in/held-out.txt"):
        yield Case(
            f"explore/start/{slug(model)}", ("explore", model, *ON), (*USES, "swiglu"), right="refusal"
        )


def visits():
    """What is wrong while the page is served: the jobs say so, and the server goes on."""
    named, part = _with("--names", "in/names.json"), ("dictionaries", "1-mlp-out")

    def spoiled(*keys, raw):
        return at("names.json", put((*part, *keys), raw))

    for name, how, arguments, spoil, says in (
        ("valid", "visit", named, None, None),
        ("port-in-use", "visit_a_port_in_use", ON, None, "port [0-9]+ cannot be used"),
        ("no-browser", "visit_with_a_browser_that_is_not_there", ON, None, None),
        ("gone", "visit_without_the_model", ON, None, "no such"),
        ("prompt-long", "visit", _with("--prompt", "A cat ran. " * 200), None, "shorten it"),
        ("folder-of-a-model", "visit", _with("--dictionaries", "in/model"), None, "in/model"),
        ("names-no-json", "visit", named, at("names.json", _write("names")), "names.json"),
        ("names-of-others", "visit", named, spoiled("fingerprint", raw='"0"'), "names.json"),
        ("names-markup", "visit", named, spoiled("names", "1", raw='"<script>"'), None),
        ("names-far", "visit", named, spoiled("names", "999", raw='"far"'), "999"),
    ):
        ways = {"right": "success"} if says is None else {"right": "refusal", "says": says}
        yield Case(f"explore/served/{name}", ("in/model", *arguments), USES, spoil, f"explored:{how}", **ways)


def _write(text):
    return lambda path, random: path.write_text(text)


def cases(seed):
    yield from refusals()
    yield from visits()
