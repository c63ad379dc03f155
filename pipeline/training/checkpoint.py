"""Checkpoints: everything that an interrupted repetition needs to go on to the same bytes.

A checkpoint belongs to the exact settings, data and code that wrote it: its folder's name is a digest of all three,
so a changed parameter or a changed line never resumes an old state. Draws are keyed by epoch, so no generator's
state has to be kept.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline import paths, records


def code_digest() -> str:
    """Return a SHA-256 over the library's own source files."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for source in sorted(root.rglob("*.py")):
        digest.update(str(source.relative_to(root)).encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


def folder(task: str, cell: str, settings: dict[str, object]) -> Path:
    """Return the folder for checkpoints of exactly these settings under exactly this code."""
    text = json.dumps([task, cell, settings, code_digest(), torch.__version__], sort_keys=True, default=str)
    return paths.CHECKPOINTS / "train" / task / cell / hashlib.sha256(text.encode()).hexdigest()[:24]


def _digest(tensors: dict[str, Tensor]) -> str:
    """Return a SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save(destination: Path, state: dict[str, Tensor]) -> None:
    """Write tensors atomically, with a digest of their values: safetensors itself would not notice a flipped bit.

    Raises:
        OSError: the disk is full or read-only.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with records.atomic_path(destination) as temporary:
        try:  # from where they are: bytes of them all would double the memory
            save_file(tensors, temporary, {"sha256": _digest(tensors)})
        except SafetensorError as error:
            raise OSError(f"expected room for the checkpoint {destination}, found: {error}") from error


def load(source: Path, device: torch.device | str = "cpu") -> dict[str, Tensor] | None:
    """Read what :func:`save` wrote; ``None`` if there is no such file or it is damaged (nothing is lost but time)."""
    try:
        with safe_open(source, framework="pt") as file:
            # Copies: the file's own pages would change under a reader if the file did.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
            stated = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError, ValueError):
        stated = None
    if stated is None or stated != _digest(tensors):
        source.unlink(missing_ok=True)
        return None
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def clear(task: str, cell: str) -> None:
    """Remove all checkpoints of one task and cell, once its results are in place."""
    shutil.rmtree(paths.CHECKPOINTS / "train" / task / cell, ignore_errors=True)
