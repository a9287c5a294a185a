"""Cases of files and folders that may not be read, or not be written to."""

from calls import CALLS, at
from mutate_bytes import forbid
from sandbox import Case


def disk_cases():
    """A disk that is full when so many bytes of a file are written."""
    for command, call in CALLS.items():
        if command != "info":
            for size in (100, 3_000, 60_000, 1_000_000):
                yield Case(
                    f"disk/{command}/{size}", call.arguments, call.uses, outputs=call.outputs, file_bytes=size
                )


def cases(seed):
    yield from disk_cases()
    unprivileged = {"unprivileged": True, "right": "refusal"}
    for command, call in CALLS.items():
        if command in ("train", "policy train"):
            continue
        folder = call.uses[0]
        parts = ("", "/config.json", "/model.safetensors", "/tokenizer.json")
        if command == "images":
            parts = ("", "/train-images-idx3-ubyte", "/t10k-labels-idx1-ubyte")
        if folder == "policy":
            parts = ("", "/network.json", "/network.safetensors", "/environment.json")
        for what in parts:
            if what == "/tokenizer.json" and command in ("info", "interactions"):
                continue  # which read none
            yield Case(
                f"permission/{command}{what or '/folder'}",
                call.arguments,
                call.uses,
                at(f"{folder}{what}", forbid),
                outputs=call.outputs,
                **unprivileged,
            )
    for command in ("export", "eigen", "train", "convert", "finetune", "generate", "report", "trace"):
        call = CALLS[command]
        yield Case(
            f"permission/{command}/output",
            call.arguments,
            call.uses,
            lambda folder, random: (folder / "out").chmod(0o555),
            outputs=call.outputs,
            **unprivileged,
        )
    for command in ("train", "dictionaries", "convert", "finetune"):
        call = CALLS[command]
        yield Case(
            f"permission/{command}/data",
            call.arguments,
            call.uses,
            at("train.txt", forbid),
            outputs=call.outputs,
            **unprivileged,
        )
    for loader, path, inside in (
        ("loaders:dictionary", "in/saelens", "saelens/cfg.json"),
        ("loaders:dictionary", "in/sparsify", "sparsify/sae.safetensors"),
        ("loaders:dictionary", "in/published-scope", "published-scope"),
        ("loaders:decomposition", "in/eigen", "eigen/settings.json"),
        ("loaders:decomposition", "in/eigen", "eigen/part-00000.safetensors"),
        ("loaders:graph", "in/graph.json", "graph.json"),
        ("loaders:model", "in/llama2c/tiny.bin", "llama2c/tiny.bin"),
        ("loaders:tokenizer", "in/llama2c/tiny.bin", "llama2c/tok280.bin"),
    ):
        yield Case(
            f"permission/{loader.partition(':')[2]}/{inside.replace('/', '-')}",
            (path,),
            (inside.split("/")[0],),
            at(inside, forbid),
            loader,
            **unprivileged,
        )
