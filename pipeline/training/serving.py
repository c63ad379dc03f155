"""A trained network as a plain function, from a safetensors file: for MLflow, ``stages.classify`` and notebooks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open

from pipeline.recurrent.kernels import gru_forward, lstm_forward

Floats = npt.NDArray[np.float32]


class TrainedNetwork:
    """A network that training wrote to ``data/runs/<task>/<cell>/models``.

    Args:
        weights: the safetensors file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or has no description of its network.
    """

    def __init__(self, weights: Path) -> None:
        if not weights.is_file():
            raise FileNotFoundError(f"expected a trained network at {weights}, found none; run `dvc repro train`")
        try:
            with safe_open(weights, framework="pt") as file:
                described = (file.metadata() or {}).get("model")
                if described is None:
                    raise ValueError(f"expected a network with metadata 'model' in {weights}, found none")
                self.about: dict[str, Any] = json.loads(described)
                self.tensors = {name: file.get_tensor(name) for name in ("W", "V", "U", "b")}
        except (SafetensorError, json.JSONDecodeError) as error:
            raise ValueError(
                f"expected a trained network in {weights}, found damage ({error}); delete it and run `dvc repro train`"
            ) from error

    @torch.no_grad()
    def predict(self, sequences: Floats) -> Floats:
        """Return class probabilities, or scaled values, after the last slice.

        Args:
            sequences: ``(N, T, I)`` inputs, scaled as in training.

        Returns:
            ``(N, K)``.

        Raises:
            ValueError: another shape.
        """
        if sequences.ndim != 3 or sequences.shape[2] != self.about["inputs"]:
            raise ValueError(f"expected inputs of shape (N, T, {self.about['inputs']}), found {sequences.shape}")
        x = torch.as_tensor(np.ascontiguousarray(sequences)).permute(1, 2, 0)
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1).unsqueeze(1)
        W, V = self.tensors["W"][None, :, None], self.tensors["V"][None, None]
        run = (lstm_forward if self.about["cell"] == "lstm" else gru_forward)(x, W, V)
        outputs = (self.tensors["U"] @ run.h[-1, 0, 0] + self.tensors["b"]).t()
        found: Floats = (torch.softmax(outputs, -1) if self.about["classes"] else outputs).numpy()
        return found


def _as_mlflow_model() -> None:
    """Register with MLflow when this file is loaded as a model's code."""
    from mlflow.models import set_model
    from mlflow.pyfunc.model import PythonModel

    class Served(PythonModel):
        """MLflow's wrapper around :class:`TrainedNetwork`."""

        def load_context(self, context: Any) -> None:  # noqa: ANN401 - MLflow's context
            """Read the weights."""
            self.network = TrainedNetwork(Path(context.artifacts["weights"]))

        # MLflow reads type hints here as a schema, and the schema is logged explicitly.
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            """Return predictions for ``(N, T, I)`` inputs."""
            return self.network.predict(np.asarray(model_input, dtype=np.float32))

    set_model(Served())


if __name__ not in ("__main__", "pipeline.training.serving"):
    _as_mlflow_model()
