"""What type a machine is: equal types give equal bytes, others may differ in the last bit (docs/reproducibility.md)."""

import os
import platform
import sys
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from threadpoolctl import threadpool_info

MIXED = "NEM_MIXED_MACHINES"  # of the environment: with 1, machines of several types may work together
LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "numba", "opencv-python", "pyarrow")


@lru_cache(1)
def fingerprint() -> dict[str, str]:
    """Return whatever of this machine may change the last bit of a result: vector units, kernels, versions."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    told = {name.strip(): value.split() for name, _, value in (line.partition(":") for line in lines)}
    vectors = (flag for flag in told.get("flags", []) if flag.startswith(("avx", "amx", "fma", "sse", "f16c")))
    # NumPy's is always loaded. OpenCV's and SciPy's, which may know a processor by another name, are there or not yet.
    pools = [(pool["architecture"], Path(pool["filepath"])) for pool in threadpool_info() if "architecture" in pool]
    blas = {kind for kind, file in pools if any("numpy" in part for part in file.parts[-3:-1])}
    found = {
        "processor": " ".join([platform.machine(), *told.get("vendor_id", [])]), "vectors": " ".join(sorted(vectors)),
        "torch uses": str(torch.backends.cpu.get_cpu_capability()), "BLAS": " ".join(sorted(blas)),
        "Python": ".".join(platform.python_version_tuple()[:2]),
    }  # fmt: skip
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def check(mine: dict[str, str], theirs: dict[str, str]) -> None:
    """Refuse a machine of another type with a ValueError; where :data:`MIXED` allows it, tell."""
    other = [f"{name} {theirs.get(name, 'none')!r} and not {mine.get(name, 'none')!r}"
             for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)]  # fmt: skip
    if other:
        told = f"expected machines of one type, since others give other bytes, found one with {', '.join(other)}"
        if os.environ.get(MIXED) != "1":
            raise ValueError(f"{told}; use nodes of one type with one environment, or allow it with {MIXED}=1")
        print(told, file=sys.stderr)
