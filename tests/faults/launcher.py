"""A warm process that forks stage commands, so that a kill lands in a stage's work and not in its imports.

Reads one JSON request per line from standard input: ``{"run": [module, arguments], "folder": …, "environment": {…},
"fault": …}``, forks a process (the leader of its own group) that calls the module's ``main`` there, and answers
``{"pid": …}`` at once and ``{"status": …}`` when it has ended (negative: the signal that ended it).

Faults: ``die before replace N`` kills the process with SIGKILL just before its N-th file takes its final name;
``limit SIZE`` lets no file grow beyond SIZE bytes; ``clock`` makes every reading of the clock earlier than the last.
"""

import importlib
import itertools
import json
import os
import resource
import signal
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

STAGES = ("acquire", "fx_windows", "frames", "features", "train", "evaluate", "track")
MODULES = (
    *(f"stages.{name}" for name in STAGES),
    "pipeline.tracking",
    "pipeline.fx.acquire",
    "pipeline.video.acquire",
    "pipeline.evaluation.evaluate",
)


def arm(fault):
    """Arrange for the fault in this process."""
    kind, _, value = fault.rpartition(" ")
    if kind == "die before replace":
        count, replace = itertools.count(1), Path.replace

        def deadly(self, target):
            if next(count) == int(value):
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(self, target)

        Path.replace = deadly
    elif kind == "limit":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(value), resource.RLIM_INFINITY))
    elif fault == "clock":
        start, ticks = time.time(), itertools.count()
        time.time = lambda: start - 3600.0 * next(ticks)
        time.time_ns = lambda: int(time.time() * 1e9)
        read = time.monotonic

        class Backwards(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.fromtimestamp(time.time(), tz or timezone.utc)

        sys.modules["datetime"].datetime = Backwards
        assert read() <= read(), "waiting relies on the monotonic clock, which never goes back"
    elif fault:
        raise ValueError(f"expected a known fault, found {fault!r}")


def child(request):
    """Become the stage."""
    os.setpgid(0, 0)
    os.chdir(request["folder"])
    os.environ.update(request.get("environment", {}))
    log = os.open("stage.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    arm(request.get("fault", ""))
    module, arguments = request["run"]
    status = sys.modules[module].main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def shrink():
    """Make drawn videos few and short, and chunks of features small, so that a stage is many small steps."""
    from pipeline.video import features, synthetic

    synthetic.UCF11 = dict(list(synthetic.UCF11.items())[:2])
    synthetic.SHORTEST = synthetic.LONGEST = 2.0
    features.CHUNK = 4


def serve():
    """Answer requests until standard input ends."""
    for module in MODULES:
        importlib.import_module(module)
    shrink()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                status = child(request)
            except BaseException:  # the stage's own traceback goes to its log; this process must not go on
                import traceback

                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        print(json.dumps({"pid": pid}), flush=True)
        _, wait = os.waitpid(pid, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(wait)}), flush=True)


if __name__ == "__main__":
    serve()
