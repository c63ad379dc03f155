"""A stage with a fault, in a process of its own that is forked from a warm one.

Faults: ``die before replace N`` kills the process with SIGKILL just before its N-th file takes its final name;
``limit SIZE`` lets no file grow beyond SIZE bytes.
"""

import ctypes
import itertools
import os
import resource
import signal
import subprocess
import sys
import traceback
from pathlib import Path


def arm(fault):
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
    elif fault:
        raise ValueError(f"expected a known fault, found {fault!r}")


def join(process):
    """Enter the namespaces of a process, where they are not this one's."""
    for kind in ("user", "mnt"):
        theirs = Path(f"/proc/{process}/ns/{kind}")
        if theirs.readlink() != Path(f"/proc/self/ns/{kind}").readlink():
            with theirs.open() as file:
                assert ctypes.CDLL(None).setns(file.fileno(), 0) == 0, f"cannot enter {theirs}"


def do(process, command):
    join(process)
    subprocess.run(command, check=True)


def become(process, module, arguments, folder, variables, fault):
    """Become the stage, as the leader of a group of its own."""
    os.setpgid(0, 0)
    join(process)
    os.chdir(folder)
    os.environ.update(variables)
    log = os.open("stage.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 70
    try:
        arm(fault)
        status = sys.modules[module].main(arguments)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
