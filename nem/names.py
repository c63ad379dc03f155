"""What cells, noise and its options are called, for those who only ask for names: PyTorch takes a second to import."""

from typing import Literal

CellName = Literal["lstm", "gru"]
DensityName = Literal["gaussian", "uniform", "laplace", "student-t", "cauchy"]
Granularity = Literal["slice", "neuron", "time"]
Head = Literal["softmax", "identity", "logistic"]
Injection = Literal["forward", "backward", "pre-activation"]
Latent = Literal["mean-field", "sampled"]
OutputDelta = Literal["loss", "literal"]
OutputTest = Literal["likelihood", "printed", "printed-centred"]
