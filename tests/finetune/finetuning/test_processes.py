"""Two processes train as one does on the same windows a step."""

import dataclasses
import json
import subprocess

from finetune import finetune as run

from .launches import ENVIRONMENT, LAUNCH, arguments, require_same_logs, require_same_weights


def test_two_processes(settings):
    """Float32 sums in another order: losses differ by less than 1e-5 of themselves, weights by 1e-4."""
    settings = dataclasses.replace(settings, tokens=3_000, distillation=0.5, norms="linear")
    # --multi_gpu although there may be none: with --cpu accelerate starts one process, whatever it is told.
    command = [*LAUNCH, "--multi_gpu", "-m", "bilinear_lm", *arguments(settings)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == str(settings.output)
    one = dataclasses.replace(settings, output=settings.output.with_name("one"), batch_size=8)
    expected = run(one)["log"]
    record = json.loads((settings.output / "finetune.json").read_text())
    assert record["settings"]["processes"] == 2
    assert record["settings"]["sharded"] is False
    require_same_logs(record["log"], expected, loss=1e-5)
    require_same_weights(settings.output, one.output, share=1e-4)
