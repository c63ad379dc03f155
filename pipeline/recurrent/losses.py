"""Losses with noise in the output neurons' targets: Theorems 2, 3 and Corollaries 1, 2.

The gradient follows the loss: noisy targets do not sum to 1, so that of the cross entropy is a·Σ(y + n) - (y + n)
and not the a - (y + n) that (B.21) has for Σ y = 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.noise.inject import Head, OutputStack, output_increment
from pipeline.noise.schedule import Noise


def _noisy_target(
    target: Tensor, activation: Tensor, head: Head, noise: Noise, epoch: int, generator: torch.Generator | None
) -> Tensor:
    """Return noisy targets ``(..., K)``; ``activation`` is log a for ``softmax``, a for ``identity``."""
    if generator is None and noise.needs_draws:
        raise ValueError("expected a torch.Generator for random noise, found None; pass generator=torch.Generator()")
    stack = OutputStack((noise.kind,), (noise.mode,))
    sigma = torch.tensor([noise.at(epoch)], dtype=target.dtype, device=target.device)

    def draw() -> Tensor:
        if not noise.needs_draws:
            return torch.zeros_like(target)
        return torch.randn(target.shape, generator=generator, dtype=target.dtype, device=target.device)

    def lift(each: Tensor) -> Tensor:  # (..., K) to (S, G, C, K, B) with S = G = C = 1
        return each.reshape(-1, each.shape[-1]).t()[None, None, None]

    normal = draw()
    test = draw() if stack.needs_test_draw else None
    with torch.no_grad():
        increment, _ = output_increment(
            stack, head, lift(target), lift(activation), sigma, lift(normal), None if test is None else lift(test)
        )
    return target + increment[0, 0, 0].t().reshape(target.shape)


def nem_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    noise: Noise | None = None,
    epoch: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Cross entropy (39) with noise in the one-hot targets (Theorem 2, Corollary 1), averaged over the batch.

    Args:
        logits: ``(..., K)`` inputs of the softmax neurons.
        target: ``(...)`` class indices, or ``(..., K)`` 1-in-K codes.
        noise: what to inject; ``None`` is ordinary cross entropy.
        epoch: epochs finished, for annealing.
        generator: source of the draws; required for random noise.

    Returns:
        The scalar mean loss in nats.

    Raises:
        ValueError: shapes do not fit, or random noise without a generator.

    Example:
        >>> noise = Noise("nem", "additive", sigma=0.1)
        >>> loss = nem_cross_entropy(logits, labels, noise=noise, generator=generator)
    """
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
    return -(target * log_a).sum(-1).mean()


def nem_mse_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    noise: Noise | None = None,
    epoch: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Squared error (43) with noise in the targets (Theorem 3, Corollary 2): summed over K, averaged over the rest.

    Args:
        prediction: ``(..., K)`` activations of the identity neurons.
        target: ``(..., K)``.
        noise: what to inject; ``None`` is the ordinary squared error.
        epoch: epochs finished, for annealing.
        generator: source of the draws; required for random noise.

    Returns:
        The scalar mean loss in squared units of the target.

    Raises:
        ValueError: shapes do not fit, or random noise without a generator.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"expected a target of shape {tuple(prediction.shape)}, found {tuple(target.shape)}")
    if noise is not None:
        target = _noisy_target(target, prediction.detach(), "identity", noise, epoch, generator)
    return (prediction - target).square().sum(-1).mean()
