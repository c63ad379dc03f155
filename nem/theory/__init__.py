"""The paper's theorems and appendices as functions: no randomness, no training, nothing but mathematics.

Notation of the paper: ``y`` target, ``a`` output activation, ``n`` noise, ``g`` gate activation in (0, 1), ``z`` the
gate's Bernoulli latent. Every noise condition is one idea: noise helps on average when it makes the current signal
more probable (26)-(27), that is, when its *log-likelihood gain* is not negative.
"""

from nem.theory.expected import ball_acceptance, expected_ball_noise, expected_halfspace_noise
from nem.theory.gains import (
    classifier_additive_gain,
    classifier_multiplicative_gain,
    gate_additive_gain,
    gate_additive_gain_from_logit,
    gate_multiplicative_gain,
    gate_multiplicative_gain_from_logit,
    regressor_additive_gain,
    regressor_multiplicative_gain,
)

__all__ = [
    "ball_acceptance",
    "classifier_additive_gain",
    "classifier_multiplicative_gain",
    "expected_ball_noise",
    "expected_halfspace_noise",
    "gate_additive_gain",
    "gate_additive_gain_from_logit",
    "gate_multiplicative_gain",
    "gate_multiplicative_gain_from_logit",
    "regressor_additive_gain",
    "regressor_multiplicative_gain",
]
