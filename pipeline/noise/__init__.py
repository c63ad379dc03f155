"""Noise as an object: its conditions, annealing, and the one place where it meets a signal.

Notation of Section 5 of the paper: ``n`` is noise, ``y`` a target, ``a`` an output activation, ``g`` a gate's
activation and ``z`` its Bernoulli latent. Additive noise is N(0, σ²I), multiplicative noise N(1, σ²I).
"""

from pipeline.conditions import BEYOND, CONDITIONS, Condition
from pipeline.noise.inject import (
    GateStack,
    OutputStack,
    gate_increment,
    inject,
    inject_gate,
    inject_output,
    output_increment,
)
from pipeline.noise.schedule import Noise, annealed

__all__ = [
    "BEYOND",
    "CONDITIONS",
    "Condition",
    "GateStack",
    "Noise",
    "OutputStack",
    "annealed",
    "gate_increment",
    "inject",
    "inject_gate",
    "inject_output",
    "output_increment",
]
