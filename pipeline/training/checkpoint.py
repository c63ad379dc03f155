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
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
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


def save(destination: Path, state: dict[str, Tensor]) -> None:
    """Write a checkpoint atomically.

    Raises:
        OSError: the disk is full or read-only.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with records.atomic_path(destination) as temporary:
        try:
            save_file(tensors, temporary)  # from where they are: bytes of them all would double the memory
        except SafetensorError as error:
            raise OSError(f"expected room for the checkpoint {destination}, found: {error}") from error


def load(source: Path, device: torch.device) -> dict[str, Tensor] | None:
    """Read a checkpoint; ``None`` if there is none or it is damaged (work starts anew, nothing is lost but time)."""
    if not source.is_file():
        return None
    try:
        return load_file(source, device=str(device))
    except (SafetensorError, OSError, ValueError):
        source.unlink(missing_ok=True)
        return None


def clear(task: str, cell: str) -> None:
    """Remove all checkpoints of one task and cell, once its results are in place."""
    shutil.rmtree(paths.CHECKPOINTS / "train" / task / cell, ignore_errors=True)
