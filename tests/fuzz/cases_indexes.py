"""Cases of an index of shards that names what it should not."""

import json
import shutil
from random import Random

from calls import CALLS, LOADERS, READ_MODEL, at
from mutate_json import DOCUMENTS, put
from sandbox import Case


def _first_shard_as(name, move=None):
    """The index names the first shard by another name; the file goes where `move` says, beside `in`."""

    def spoil(folder, random):
        sharded = folder / "in" / "sharded"
        index = sharded / "model.safetensors.index.json"
        value = json.loads(index.read_text())
        shard = sorted(set(value["weight_map"].values()))[0]
        given = name.replace("FOLDER", str(folder))
        for tensor, file in value["weight_map"].items():
            if file == shard:
                value["weight_map"][tensor] = given
        index.write_text(json.dumps(value))
        if move is not None:
            target = folder / move
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(sharded / shard, target)

    return spoil


def _link(target):
    """The first shard, or the folder's only file, is a link to a copy elsewhere."""

    def spoil(folder, random):
        sharded = folder / "in" / "sharded"
        shard = sorted(sharded.glob("*.safetensors"))[0]
        elsewhere = folder / "elsewhere" / "a.safetensors"
        elsewhere.parent.mkdir()
        shard.rename(elsewhere)
        shard.symlink_to(target.replace("FOLDER", str(folder)))

    return spoil


INDEXES = {
    "parent": _first_shard_as("../elsewhere.safetensors", "in/elsewhere.safetensors"),
    "parent-of-a-folder": _first_shard_as("a/../../elsewhere.safetensors", "in/elsewhere.safetensors"),
    "absolute": _first_shard_as("FOLDER/in/elsewhere.safetensors", "in/elsewhere.safetensors"),
    "passwd": _first_shard_as("/etc/passwd"),
    "device": _first_shard_as("/dev/zero"),
    "missing": _first_shard_as("model-00009-of-00003.safetensors"),
    "empty-name": _first_shard_as(""),
    "dot": _first_shard_as("."),
    "null-byte": _first_shard_as("a\0b.safetensors"),
    "very-long": _first_shard_as("a" * 5000 + ".safetensors"),
    "newline": _first_shard_as("a\nbilinear-lm: all is well.safetensors"),
    "link-out": _link("FOLDER/elsewhere/a.safetensors"),
    "link-out-relative": _link("../../elsewhere/a.safetensors"),
}


def cases(seed):
    random = Random(f"{seed} indexes")
    for name, spoil in INDEXES.items():
        for loader in ("info", "model"):
            yield Case(
                f"index/{name}/{loader}",
                ("in/sharded",),
                ("sharded",),
                spoil,
                LOADERS[loader],
                right="refusal",
            )
        command = random.choice([command for command in READ_MODEL if command not in ("convert", "finetune")])
        call = CALLS[command].on("sharded")
        yield Case(
            f"index/{name}/command-{command}",
            call.arguments,
            call.uses,
            spoil,
            outputs=call.outputs,
            right="refusal",
        )
    for name, raw in {
        "list": "[]",
        "text": '"a"',
        "numbers": '{"a": 1}',
        "null": "null",
        "nested": '{"a": {}}',
    }.items():
        mutate = at("sharded/model.safetensors.index.json", put(("weight_map",), raw))
        yield Case(
            f"index/weight-map-{name}",
            ("in/sharded",),
            ("sharded",),
            mutate,
            LOADERS["model"],
            right="refusal",
        )
    for name, mutate in DOCUMENTS.items():
        spoil = at("sharded/model.safetensors.index.json", mutate)
        yield Case(
            f"index/{name}",
            ("in/sharded",),
            ("sharded",),
            spoil,
            random.choice([LOADERS["model"], LOADERS["info"]]),
        )
