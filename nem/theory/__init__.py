"""The paper's theorems and appendices as functions: no randomness, no training, nothing but mathematics.

Notation of the paper: ``y`` target, ``a`` output activation, ``n`` noise, ``g`` gate activation in (0, 1), ``z`` the
gate's Bernoulli latent. Every noise condition is one idea: noise helps on average when it makes the current signal
more probable (26)-(27), that is, when its *log-likelihood gain* is not negative.
"""

from nem.theory.expected import expected_ball_noise as expected_ball_noise
from nem.theory.expected import expected_halfspace_noise as expected_halfspace_noise
from nem.theory.gains import classifier_additive_gain as classifier_additive_gain
from nem.theory.gains import classifier_multiplicative_gain as classifier_multiplicative_gain
from nem.theory.gains import gate_additive_gain as gate_additive_gain
from nem.theory.gains import gate_additive_gain_from_logit as gate_additive_gain_from_logit
from nem.theory.gains import gate_multiplicative_gain as gate_multiplicative_gain
from nem.theory.gains import logistic_additive_gain as logistic_additive_gain
from nem.theory.gains import logistic_multiplicative_gain as logistic_multiplicative_gain
from nem.theory.gains import regressor_additive_gain as regressor_additive_gain
from nem.theory.gains import regressor_multiplicative_gain as regressor_multiplicative_gain
