"""A warm process that forks stage commands, so that a kill lands in a stage's work and not in its imports.

Reads one JSON request per line from standard input: ``{"run": [module, arguments], "folder": …, "environment": {…},
"fault": …}``, forks a process (the leader of its own group) that calls the module's ``main`` there, and answers
``{"pid": …}`` at once and ``{"status": …}`` when it has ended (negative: the signal that ended it).
``{"do": command}`` runs a command in this process's namespaces and answers ``{"status": …, "error": …}``.

Faults: ``die before replace N`` kills the process with SIGKILL just before its N-th file takes its final name;
``limit SIZE`` lets no file grow beyond SIZE bytes; ``clock`` makes every reading of the clock an hour earlier than the
last.
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
import traceback
from pathlib import Path

MODULES = (
    *(f"stages.{stage.stem}" for stage in sorted(Path("stages").glob("[a-z]*.py"))),
    *("pipeline.tracking", "pipeline.fx.acquire", "pipeline.video.acquire", "pipeline.training.train"),
    *("nem.fast", "statsmodels.api", "sklearn.linear_model", "sklearn.neighbors"),
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


def turn_back_the_clock():
    """Replace ``time.time`` and ``time.time_ns``, also where a module holds one already."""
    moments = itertools.count(time.time(), -3600)
    real = (time.time, time.time_ns)  # held, so that no other object gets their places
    fakes = (lambda: next(moments), lambda: int(1e9 * next(moments)))
    for module in list(sys.modules.values()):
        for key, value in list(getattr(module, "__dict__", {}).items()):
            for one, fake in zip(real, fakes, strict=True):
                if value is one:
                    setattr(module, key, fake)


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
    from pipeline.video.acquire import synthetic, ucf11
    from pipeline.video.features import features

    for name in list(ucf11.CLASSES)[2:]:
        del ucf11.CLASSES[name]
    synthetic.SHORTEST = synthetic.LONGEST = 2.0
    features.CHUNK = 4


def answer(**values):
    print(json.dumps(values), flush=True)


def serve():
    """Answer requests until standard input ends."""
    for module in MODULES:
        importlib.import_module(module)
    shrink()
    answer(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "do" in request:
            done = subprocess.run(request["do"], capture_output=True, text=True, check=False)
            answer(status=done.returncode, error=done.stderr)
            continue
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(child(request))
            except BaseException:  # the stage's own traceback goes to its log; this process must not go on
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(70)
        answer(pid=pid)
        answer(status=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    serve()
