"""A worker without a model: what it does with a job is said by the prompt, but for full stops at its end."""

import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from queue import Empty, Queue

jobs, cancelled = Queue(), set()


def hear():
    for line in sys.stdin:
        message = json.loads(line)
        if message["do"] == "cancel":
            cancelled.add(message["id"])
        else:
            jobs.put(message)
    os._exit(0)


def say(event, job, **more):
    print(json.dumps({"event": event, "id": job["id"], **more}), flush=True)


def wait(job, heed=True):
    """Until it is cancelled; jobs that come meanwhile are run if it is the report."""
    for step in range(10_000):
        say("progress", job, what="waiting", done=step, of=None)
        if heed and job["id"] in cancelled:
            return False
        if job["kind"] == "report":
            with contextlib.suppress(Empty):
                run(jobs.get(timeout=0.01))
        else:
            time.sleep(0.01)
    return True


def run(job):
    say("begun", job)
    does = "wait" if job["kind"] == "report" else job["arguments"]["prompt"].rstrip(".")
    if does == "die" or (does == "die once" and not Path(f"{job['result']}.died").exists()):
        Path(f"{job['result']}.died").touch()
        os.kill(os.getpid(), 9)
    if does == "fail":
        return say("failed", job, message="this cannot be done")
    if does in ("wait", "deaf") and not wait(job, heed=does == "wait"):
        return say("cancelled", job)
    print("no line of ours", flush=True)
    Path(job["result"]).write_text(json.dumps({"echo": job["arguments"]}))
    say("done", job)


threading.Thread(target=hear, daemon=True).start()
while True:
    run(jobs.get())
