"""A trained network as MLflow serves it, which runs this file: code and safetensors, so that no pickle is read."""

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from pipeline.training import models


class ServedNetwork(PythonModel):
    """A trained network behind MLflow's interface."""

    def load_context(self, context: Any) -> None:  # noqa: ANN401 - MLflow's context
        """Read the weights."""
        self.network = models.load(Path(context.artifacts["weights"]))

    # MLflow would read type hints here as a schema; tracking logs the schema explicitly.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """Return class probabilities, or scaled values, ``(N, K)`` of ``(N, T, I)`` inputs."""
        return self.network.predict(np.asarray(model_input, dtype=np.float32))


set_model(ServedNetwork())
