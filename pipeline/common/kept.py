"""Finished work that outlives its process: the one module that keeps it.

The folder's name is a digest of an exact key (settings, data) and of exact code, so a changed parameter or line never
meets an old result, and a reworded docstring meets them all. A damaged entry, by its digest, is not there.
"""

import ast
import hashlib
import importlib.util
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.common import paths, records


class Kept:
    """A folder of entries, ``.checkpoints/<kind>/<digest of key and code>``. Can be sent to a worker.

    The kind may have parts, as in ``train/<task>/<cell>``. The key is all that decides the entries but code: plain JSON
    values (others count as their text). ``code`` names the modules whose source does (:func:`code_digest`).
    """

    def __init__(self, kind: str, key: object, code: Sequence[str] = ()) -> None:
        text = json.dumps([key, code_digest(code)], sort_keys=True, default=str)
        self.folder = paths.CHECKPOINTS / kind / hashlib.sha256(text.encode()).hexdigest()[:32]

    def _file(self, name: str) -> Path:
        return self.folder / hashlib.sha256(name.encode()).hexdigest()[:32]

    def get(self, name: str) -> bytes | None:
        """Return an entry's content; ``None`` if there is none or it is damaged."""
        try:
            content = self._file(name).read_bytes()
        except OSError:
            return None
        stated, content = content[:32], content[32:]
        return content if stated == _digest(name, content) else None

    def put(self, name: str, content: bytes) -> None:
        """Keep an entry, whole or not at all, in place of an older one of this name."""
        records.write_bytes(self._file(name), _digest(name, content) + content)

    def has(self, name: str) -> bool:
        """Return whether :meth:`get` would find the entry."""
        return self.get(name) is not None

    def remove(self, name: str) -> None:
        """Forget one entry, if it is there."""
        self._file(name).unlink(missing_ok=True)


def forget(kind: str) -> None:
    """Forget all that was kept of a kind, under whatever key and code."""
    shutil.rmtree(paths.CHECKPOINTS / kind, ignore_errors=True)


def _digest(name: str, content: bytes) -> bytes:
    """Return the 32 bytes that stand before an entry's content."""
    return hashlib.sha256(name.encode() + b"\0" + content).digest()


def code_digest(modules: Sequence[str]) -> str:
    """Return a SHA-256 over what the sources of modules say to do, without docstrings and comments.

    A package comprises all modules below it; nothing is imported but parent packages. ModuleNotFoundError says that
    there is no such module, or that it has no source.
    """
    digest = hashlib.sha256()
    for name, source in sorted(_sources(modules).items()):
        tree = ast.parse(source.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(lines := getattr(node, "body", None), list):
                # Any bare constant is documentation: a docstring, or the lines under a constant.
                texts = [x for x in lines if isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant)]
                node.body = [line for line in lines if line not in texts]  # type: ignore[attr-defined]
        digest.update(f"{name}\0{ast.dump(tree)}\0".encode())
    return digest.hexdigest()


def _sources(modules: Sequence[str]) -> dict[str, Path]:
    """Return the source file of every module, by dotted name."""
    files: dict[str, Path] = {}
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"expected a module {name} with a source file, found none; correct the name")
        files[name] = Path(spec.origin)
        for folder in map(Path, spec.submodule_search_locations or ()):
            for source in folder.rglob("*.py"):
                files[".".join((name, *source.relative_to(folder).with_suffix("").parts))] = source
    return files


def pack(value: object) -> bytes:
    """Return tensors in plain containers as one entry's content."""
    import torch

    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def unpack(content: bytes) -> Any:  # noqa: ANN401 - whatever was packed
    """Return, with its tensors on the CPU, what :func:`pack` packed."""
    import torch

    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
