"""Losses with noise in the output neurons' targets: Theorems 2, 3 and Corollaries 1, 2.

The gradient follows the loss: noisy targets do not sum to 1, so that of the cross entropy is a·Σ(y + n) - (y + n).
The a - (y + n) that (B.21) has for Σ y = 1 is to be had as ``output_delta="literal"``.
"""

from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional

from nem.densities import standard
from nem.noise import Head, Noise, OutputDelta, OutputNoise


def _noisy_target(
    target: Tensor, activation: Tensor, head: Head, noise: Noise, epoch: int, generator: torch.Generator | None
) -> Tensor:
    """Return noisy targets ``(..., K)``; ``activation`` is log a for ``softmax``, a for ``identity``."""
    layer = OutputNoise((noise.kind,), (noise.mode,))
    if generator is None and layer.random:
        raise ValueError("expected a torch.Generator for random noise, found None; pass generator=torch.Generator()")

    def lift(values: Tensor) -> Tensor:  # (..., K) to (S, G, C, K, B) with S = G = C = 1
        return values.reshape(-1, values.shape[-1]).t()[None, None, None]

    def sample(_: str) -> Tensor:
        return lift(standard(noise.density, tuple(target.shape), target, generator))

    sigma = torch.tensor([noise.at(epoch)], dtype=target.dtype, device=target.device)
    with torch.no_grad():
        increment, _ = layer.increments(head, lift(target), lift(activation), layer.draws(sigma, sample))
    return target + increment[0, 0, 0].t().reshape(target.shape)


def nem_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    noise: Noise | None = None,
    epoch: int = 0,
    generator: torch.Generator | None = None,
    output_delta: OutputDelta = "loss",
) -> Tensor:
    """Return the cross entropy (39) in nats, averaged over the batch, with noise in the targets (Theorem 2).

    ``logits`` ``(..., K)`` are the inputs of the softmax neurons, ``target`` class indices ``(...)`` or 1-in-K codes
    ``(..., K)``; ``epoch`` counts the finished ones, for annealing. Without noise it is ordinary cross entropy. Its
    gradient in the logits is that of the ``loss``, or the ``literal`` one of (B.21), a - (y + n). Shapes that do not
    fit, an unknown ``output_delta``, and random noise without a generator, its source, are a ValueError.

    Example:
        >>> noise = Noise("nem", "additive", sigma=0.1)
        >>> loss = nem_cross_entropy(logits, labels, noise=noise, generator=generator)
    """
    if output_delta not in get_args(OutputDelta):
        raise ValueError(f"expected output_delta loss or literal, found {output_delta!r}")
    log_a = functional.log_softmax(logits, -1)
    if target.shape == logits.shape[:-1] and not target.is_floating_point():
        target = functional.one_hot(target, logits.shape[-1])
    if target.shape != logits.shape:
        raise ValueError(
            f"expected integer classes of shape {tuple(logits.shape[:-1])} or codes of shape {tuple(logits.shape)}, "
            f"found {target.dtype} of shape {tuple(target.shape)}"
        )
    target = target.to(logits.dtype)
    if noise is not None:
        target = _noisy_target(target, log_a.detach(), "softmax", noise, epoch, generator)
    loss = -(target * log_a).sum(-1).mean()
    if output_delta == "literal":  # the loss's value with the gradient of log Σ exp o - Σ (y + n) o
        literal = (logits.logsumexp(-1) - (target * logits).sum(-1)).mean()
        loss = loss.detach() + (literal - literal.detach())
    return loss


def nem_mse_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    noise: Noise | None = None,
    epoch: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Squared error (43) with noise in the targets (Theorem 3, Corollary 2): summed over K, averaged over the rest.

    As :func:`nem_cross_entropy`, with ``prediction`` ``(..., K)``, the activations of the identity neurons, and
    ``target`` ``(..., K)``; the loss is in squared units of the target.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"expected a target of shape {tuple(prediction.shape)}, found {tuple(target.shape)}")
    if noise is not None:
        target = _noisy_target(target, prediction.detach(), "identity", noise, epoch, generator)
    return (prediction - target).square().sum(-1).mean()
