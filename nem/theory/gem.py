"""Theorem 1, exactly: backpropagation as generalised EM, by enumerating the 2^J Bernoulli latents of a layer.

The model is the paper's (57)-(62): a layer of J sigmoid neurons has latents z in {0, 1}^J with p(z_j = 1 | x) = g_j,
and the outputs see z. Then everything follows from one table, the joint log p(y, z | x, Θ) of each sample and state:

    log p(y | x, Θ) = Q(Θ | Θⁿ) + H(Θ | Θⁿ)                                                       (13)-(15)

and ∇ log p = ∇Q at Θ = Θⁿ (18)-(19). Two kinds of layer come with it: a feed-forward sigmoid layer
(:class:`SigmoidNetwork`), and the gates of an LSTM or a GRU in one time slice (:func:`gate_table`). What the theorem
speaks of is log p(y | x), *summed* over z; training climbs another function: ``docs/theory.md``, "Theorem 1".

Shapes: S = 2^J states, B samples, I inputs, J latents, K outputs; a *table* is ``(S, B)`` log p(y, z | x, Θ), and what
is computed from tables is ``(B,)``. ``joint`` is the table at Θ, ``joint_n`` that at Θⁿ, the parameters of the E-step.
All in nats.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nem.names import Head
from nem.theory.recursions import GATES, Parameters, forward, step

MAX_LATENTS = 20
"""Above this, 2^J states are too many to enumerate."""


def states(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return all states of ``count`` = J Bernoulli latents: ``(S, J)`` of 0 and 1; a ValueError for too many."""
    if not 1 <= count <= MAX_LATENTS:
        raise ValueError(
            f"expected 1 to {MAX_LATENTS} latents to enumerate, found {count}; use nem.theory.montecarlo for more"
        )
    return (torch.arange(2**count).unsqueeze(-1) >> torch.arange(count) & 1).to(dtype)


def log_prior(latent: Tensor, logit: Tensor) -> Tensor:
    """Return log p(z | x, Θ) = Σ_j z_j log g_j + (1 - z_j) log(1 - g_j) (59)-(60), (A.27).

    ``latent`` is ``(..., J)`` z, or z + n, or z∘n; ``logit`` ``(..., J)`` is logit g, the pre-activations.
    """
    return (latent * logit - torch.nn.functional.softplus(logit)).sum(-1)


def log_likelihood(target: Tensor, score: Tensor, head: Head) -> Tensor:
    """Return log p(y | z, x, Θ): one-shot multinomial, Π a_k^{y_k} (36), or normal with identity covariance (47).

    Logistic outputs are independent Bernoulli variables, Π a_k^{y_k} (1 - a_k)^{1 - y_k}.

    ``target`` is ``(..., K)`` y, and ``score`` ``(..., K)`` is o^y, what the output neurons receive.
    """
    if head == "softmax":
        return (target * torch.log_softmax(score, -1)).sum(-1)
    if head == "logistic":
        return log_prior(target, score)
    return -0.5 * (target - score).square().sum(-1) - 0.5 * target.shape[-1] * math.log(2 * math.pi)


def log_evidence(joint: Tensor) -> Tensor:
    """Return log p(y | x, Θ) = log Σ_z p(y, z | x, Θ)."""
    return torch.logsumexp(joint, 0)


def log_posterior(joint: Tensor) -> Tensor:
    """Return log p(z | y, x, Θ), ``(S, B)`` (61)-(62); the sum in (62) runs over z, not y as printed."""
    return torch.log_softmax(joint, 0)


def surrogate(joint: Tensor, joint_n: Tensor) -> Tensor:
    """Return Q(Θ | Θⁿ) = E over p(z | y, x, Θⁿ) of log p(z, y | x, Θ) (22), (56); detach Θⁿ to differentiate."""
    return (log_posterior(joint_n).exp() * joint).sum(0)


def entropy(joint: Tensor, joint_n: Tensor) -> Tensor:
    """Return H(Θ | Θⁿ) = -E over p(z | y, x, Θⁿ) of log p(z | y, x, Θ) (14): least at Θ = Θⁿ."""
    return -(log_posterior(joint_n).exp() * log_posterior(joint)).sum(0)


@dataclass(frozen=True)
class SigmoidNetwork:
    """One layer of J Bernoulli neurons between inputs and outputs."""

    W: Tensor  # (J, I): logit g = W x + b
    b: Tensor  # (J,)
    U: Tensor  # (K, J): o^y = U z + c
    c: Tensor  # (K,)
    head: Head  # output neurons

    def table(self, x: Tensor, target: Tensor) -> Tensor:
        """Return log p(y, z | x, Θ) of every state and sample, from x ``(B, I)`` and y ``(B, K)``: ``(S, B)``."""
        z = states(len(self.b), self.b.dtype)[:, None]
        likelihood = log_likelihood(target, z @ self.U.T + self.c, self.head)
        return log_prior(z, x @ self.W.T + self.b) + likelihood


def maximise(network: SigmoidNetwork, x: Tensor, target: Tensor) -> SigmoidNetwork:
    """Return the full M-step from Θⁿ: arg max Q(Θ | Θⁿ), summed over samples x ``(B, I)`` and y ``(B, K)``.

    Q is concave here: a logistic regression per latent, weighted by the posterior, and a multinomial or linear
    regression of y on z. It is climbed from Θⁿ by L-BFGS with a strong Wolfe search, so the result is never lower.
    """
    joint_n = network.table(x, target).detach()
    W, b, U, c = (t.detach().clone().requires_grad_() for t in (network.W, network.b, network.U, network.c))
    free = SigmoidNetwork(W, b, U, c, network.head)
    optimiser = torch.optim.LBFGS(
        [W, b, U, c], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def negative() -> float:
        optimiser.zero_grad()
        loss = -surrogate(free.table(x, target), joint_n).sum()
        loss.backward()
        return loss.item()

    optimiser.step(negative)
    return SigmoidNetwork(W.detach(), b.detach(), U.detach(), c.detach(), network.head)


def gate_logits(now: Mapping[str, Tensor]) -> Tensor:
    """Return logit g of a slice's gates (γ, φ, ω or z, r) side by side, ``(B, G·J)``, from :func:`forward`'s."""
    return torch.cat([now[f"o_{name}"] for name in GATES if f"o_{name}" in now], -1)


def gated_score(p: Parameters, before: Mapping[str, Tensor], x: Tensor, latent: Tensor) -> Tensor:
    """Return o^y ``(..., B, K)`` of a slice whose gates are latents ``(..., B, G·J)``, side by side.

    States of earlier slices stay as they are: ``before`` has ``a_h`` ``(B, J)`` and, for an LSTM, ``s`` of the slice
    before; ``x`` is the input ``(B, I)``.
    """
    gates = latent.mT.split(before["a_h"].shape[-1], -2)
    return step(p, x, before["a_h"], before.get("s", before["a_h"]), lambda _: gates)["o_y"]


def gate_table(p: Parameters, x: Tensor, target: Tensor, head: Head, slice_index: int) -> Tensor:
    """Return the table ``(2^{G·J}, B)`` of log p(y(t), z(t) | x, Θ) over a slice's gates (56), (75), (83).

    ``x`` is ``(T, B, I)``, ``target`` ``(T, B, K)``, and ``slice_index`` is t, 1-based.
    """
    steps, zero = forward(x[:slice_index], p), x.new_zeros(x.shape[1], len(p.V_h))
    before: Mapping[str, Tensor] = steps[-2] if slice_index > 1 else {"a_h": zero, "s": zero}
    logit = gate_logits(steps[-1])
    z = states(logit.shape[-1], logit.dtype)[:, None].expand(-1, len(logit), -1)
    score = gated_score(p, before, x[slice_index - 1], z)
    return log_prior(z, logit) + log_likelihood(target[slice_index - 1], score, head)
