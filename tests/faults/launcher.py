"""A warm process that forks stage commands, so that a kill lands in a stage's work and not in its imports.

Reads one JSON request per line from standard input: ``{"run": [module, arguments], "folder": …, "environment": {…},
"fault": …}``, forks a process (the leader of its own group) that calls the module's ``main`` there, and answers
``{"pid": …}`` at once and ``{"status": …}`` when it has ended (negative: the signal that ended it).
``{"do": command}`` runs a command in this process's namespaces and answers ``{"status": …, "error": …}``.

Faults: ``die before replace N`` kills the process with SIGKILL just before its N-th file takes its final name;
``limit SIZE`` lets no file grow beyond SIZE bytes; ``clock`` makes every reading of the clock an hour earlier than the
last, and leaves in ``clock.json`` who read it, and how often.
"""

import importlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

STAGES = ("acquire", "fx_windows", "frames", "features", "train", "evaluate", "track", "study")
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
        turn_back_the_clock()
    elif fault:
        raise ValueError(f"expected a known fault, found {fault!r}")


READERS = Counter()
"""How often each module read the clock that goes back."""


def turn_back_the_clock():
    """Replace every way to ask Python for the time, also where a module holds one already.

    Out of reach: the kernel's time stamps on files, and SQLite's own. The monotonic clock never goes back.
    """
    start, ticks, real = time.time(), itertools.count(), (time.time, time.time_ns, datetime)

    def read():
        frame = sys._getframe(2)
        READERS[frame.f_globals.get("__name__", "?")] += 1
        return start - 3600.0 * next(ticks)

    def seconds():
        return read()

    def nanoseconds():
        return int(read() * 1e9)

    class Kind(type):
        def __instancecheck__(cls, value):
            return isinstance(value, real[2])

    class Backwards(real[2], metaclass=Kind):
        @classmethod
        def now(cls, tz=None):
            return real[2].fromtimestamp(read(), tz)

        @classmethod
        def today(cls):
            return real[2].fromtimestamp(read())

        @classmethod
        def utcnow(cls):
            return real[2].fromtimestamp(read(), timezone.utc).replace(tzinfo=None)

    fakes = dict(zip(map(id, real), (seconds, nanoseconds, Backwards), strict=True))
    for name, module in list(sys.modules.items()):
        if name == __name__:
            continue
        for key, value in list(getattr(module, "__dict__", {}).items()):
            if id(value) in fakes:
                setattr(module, key, fakes[id(value)])


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
    if request.get("fault") == "clock":
        Path("clock.json").write_text(json.dumps(READERS))
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
        if "do" in request:
            done = subprocess.run(request["do"], capture_output=True, text=True, check=False)
            print(json.dumps({"status": done.returncode, "error": done.stderr}), flush=True)
            continue
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
