"""Trained networks as files: a NoisyLSTM or NoisyGRU and a linear layer, under torch's names and in torch's order."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_bytes
from torch import Tensor, nn

from nem import NoisyGRU, NoisyLSTM
from nem.stack import state_dict
from pipeline.common import records

Floats = npt.NDArray[np.float32]
LAYERS: dict[str, type[NoisyLSTM] | type[NoisyGRU]] = {"lstm": NoisyLSTM, "gru": NoisyGRU}
REMEDY = "run `dvc repro train`"


@dataclass(frozen=True)
class TrainedNetwork:
    """A network that training wrote to ``data/runs/<task>/<cell>/models``.

    ``about`` says what it is: task, split, cell, condition, repetition, ``chosen_by``, sizes, ``head`` and ``classes``
    (of a logistic head the labels), scale of the target, and ``origin`` of the inputs.
    """

    layer: NoisyLSTM | NoisyGRU  # evaluating; inputs (N, T, I)
    head: nn.Linear
    about: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """What each of the K outputs is called: a class, a label, or a value in its unit."""
        unit, K = self.about["unit"] or "value", self.about["outputs"]
        return self.about["classes"] or ([unit] if K == 1 else [f"{unit} {k}" for k in range(K)])

    @property
    def one_class(self) -> bool:
        """Whether one of the outputs is the answer, and not each of them."""
        # Files of before there were labels name no head.
        return bool(self.about["classes"]) and self.about.get("head") != "logistic"

    @torch.no_grad()
    def predict(self, sequences: Floats) -> Floats:
        """Return probabilities of classes or labels, or scaled values, ``(N, K)`` after the last slice.

        Inputs are ``(N, T, I)``, scaled as in training; a ValueError says that they have another shape.
        """
        if sequences.ndim != 3 or sequences.shape[2] != self.about["inputs"]:
            raise ValueError(f"expected inputs of shape (N, T, {self.about['inputs']}), found {sequences.shape}")
        states, _ = self.layer(torch.as_tensor(np.ascontiguousarray(sequences, dtype=np.float32)))
        outputs = self.head(states[:, -1])
        if self.about["classes"]:
            outputs = torch.softmax(outputs, -1) if self.one_class else torch.sigmoid(outputs)
        predictions: Floats = outputs.numpy()
        return predictions


def save(destination: Path, parameters: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write an engine's network and what is to be known about it; equal ones give equal bytes."""
    metadata = {"model": json.dumps(about, sort_keys=True)}
    records.write_bytes(destination, as_bytes(state_dict(about["cell"], parameters), metadata))


def load(source: Path) -> TrainedNetwork:
    """Read a trained network; FileNotFoundError or ValueError says that there is none, or another file."""
    if not source.is_file():
        raise FileNotFoundError(f"expected a trained network at {source}, found none; {REMEDY}")
    try:
        with safe_open(source, framework="pt") as file:
            described = (file.metadata() or {}).get("model")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if described is None:
            raise ValueError("no metadata 'model'")
        about = json.loads(described)
        layer = LAYERS[about["cell"]](about["inputs"], about["hidden"], batch_first=True)
        head = nn.Linear(about["hidden"], about["outputs"])
        own = {name.partition(".")[2]: tensors.pop(name) for name in ("head.weight", "head.bias")}
        layer.load_state_dict(tensors)
        head.load_state_dict(own)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"expected a trained network in {source}, found otherwise ({error}); {REMEDY}") from error
    return TrainedNetwork(layer.eval(), head.eval(), about)
