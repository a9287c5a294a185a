"""A process of `accelerate launch` that imports everything once and forks a child for each run.

Runs are told by files `0.json`, `1.json`, ... in the folder given: the arguments of `bilinear-lm`, the port
where the processes of the run meet, and whether the model is sharded, as the launch says, or whole in each.
Of run N this process leaves what was printed in `N.RANK.txt`, and the status in `N.RANK.ended`. A run without
arguments ends it.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path

import torch.distributed.checkpoint
import torch.distributed.fsdp  # noqa: F401
import transformers.models.llama.modeling_llama
import transformers.trainer  # noqa: F401
from accelerate import DistributedType, PartialState

import finetune.finetuning.finetune  # noqa: F401
from bilinear_lm.cli import commands, main

PATIENCE = 300
make = PartialState.__init__


def counted_as_devices(state, *args, **kwargs):
    """Accelerate shards over devices, and here takes CPUs for such."""
    make(state, *args, **kwargs)
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU


def run(arguments, port, sharded):
    # Addresses of an earlier run stay in the launch's store: each meets in one of its own.
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": port}
    if sharded:
        PartialState.__init__ = counted_as_devices
    else:  # as a launch without a configuration has it
        for name in [name for name in os.environ if name.startswith("FSDP_")] + ["ACCELERATE_USE_FSDP"]:
            del os.environ[name]
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    return main(arguments)


def be_the_child(asked, printed):
    """Does the run, and never returns."""
    status = 1
    try:
        for stream in (1, 2):
            os.dup2(printed, stream)
        status = run(**asked)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def written(path):
    """What is asked, as soon as it is there."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            sys.exit(f"{path} is still not there")
        time.sleep(0.005)
    return json.loads(path.read_text())


def serve(folder):
    commands()
    rank, number = os.environ["RANK"], 0
    while (asked := written(folder / f"{number}.json"))["arguments"]:
        printed = os.open(folder / f"{number}.{rank}.txt", os.O_WRONLY | os.O_CREAT)
        child = os.fork()
        if not child:
            be_the_child(asked, printed)
        os.close(printed)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        draft = folder / f".{number}.{rank}"
        draft.write_text(str(status))
        draft.replace(folder / f"{number}.{rank}.ended")
        number += 1


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
    os._exit(0)  # nothing is left to be put in order, which takes longer than a run
