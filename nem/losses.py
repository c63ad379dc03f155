"""Losses with noise in the output neurons' targets: Theorems 2, 3 and Corollaries 1, 2, and those of logistic outputs.

The gradient follows the loss: noisy targets do not sum to 1, so that of the cross entropy is a·Σ(y + n) - (y + n).
The a - (y + n) that (B.21) has for Σ y = 1 is to be had as ``output_delta="literal"``.

The K output neurons lie along axis ``dim``, the last by default; torch's losses have them along axis 1, of inputs
``(B, K, …)``. One NEM test decides on the K targets of one position.
"""

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from nem.densities import source, standard
from nem.names import Head, OutputDelta
from nem.noise import Noise, OutputNoise

Reduction = Literal["mean", "sum", "none"]


class _Options(NamedTuple):
    """What torch's losses take besides."""

    weight: Tensor | None = None
    pos_weight: Tensor | None = None
    ignore_index: int = -100
    reduction: Reduction = "mean"


def _options(given: dict[str, Any], *known: str) -> _Options:
    """Return options after a check of their names."""
    if unknown := given.keys() - {*known}:
        raise TypeError(f"expected no options but {', '.join(known)}, found {', '.join(sorted(unknown))}; leave it out")
    options = _Options(**given)
    if options.reduction not in get_args(Reduction):
        raise ValueError(f"expected reduction mean, sum or none, found {options.reduction!r}")
    return options


def _noisy(
    target: Tensor, activation: Tensor, head: Head, noise: Noise | None, epoch: int, generator: torch.Generator | None
) -> Tensor:
    """Return noisy targets ``(..., K)``; ``activation`` is what multiplies them in the loss, or a for ``identity``."""
    if noise is None:
        return target
    layer, law = OutputNoise((noise.kind,), (noise.mode,)), noise.density

    def lift(values: Tensor) -> Tensor:  # (..., K) to (S, G, C, K, B) with S = G = C = 1
        return values.reshape(-1, values.shape[-1]).t()[None, None, None]

    def sample(_: str) -> Tensor:
        return lift(standard(law, tuple(target.shape), target, source(generator, target, "pass generator={}")))

    sigma = torch.tensor([noise.at(epoch)], dtype=target.dtype, device=target.device)
    with torch.no_grad():
        increment, _ = layer.increments(head, lift(target), lift(activation.detach()), layer.draws(sigma, sample))
    return target + increment[0, 0, 0].t().reshape(target.shape)


def _reduced(values: Tensor, reduction: Reduction, count: Tensor | int) -> Tensor:
    if reduction == "none":
        return values
    return values.sum() / count if reduction == "mean" else values.sum()


def _per_neuron(weight: Tensor | None, name: str, outputs: Tensor) -> Tensor | None:
    """Return weights of the output neurons ``(K,)`` in the outputs' type."""
    if weight is not None and tuple(weight.shape) != (outputs.shape[-1],):
        raise ValueError(f"expected {name} of shape ({outputs.shape[-1]},), found {tuple(weight.shape)}")
    return None if weight is None else weight.to(outputs)


def _last(outputs: Tensor, dim: int) -> Tensor:
    """Return outputs with their K neurons along the last axis."""
    if not -outputs.dim() <= dim < outputs.dim():
        raise ValueError(f"expected dim to be an axis of {tuple(outputs.shape)}, found {dim}")
    return outputs.movedim(dim, -1)


class _Codes(NamedTuple):
    target: Tensor  # (..., K) that sum to 1
    kept: Tensor | None  # (...) positions that count, of class numbers
    divisor: Tensor | int  # what a mean divides by


def _numbers(target: Tensor, logits: Tensor, weight: Tensor | None, ignored: int) -> _Codes:
    """Return class numbers ``(...)`` as 1-in-K codes."""
    K, kept = logits.shape[-1], target != ignored
    numbers = torch.where(kept, target, 0).long()
    if bool(((numbers < 0) | (numbers >= K)).any()):
        raise ValueError(
            f"expected class numbers from 0 to {K - 1}, or ignore_index {ignored}, found {int(target.min())} to "
            f"{int(target.max())}; is dim, the axis of the classes, the right one?"
        )
    counted = kept.to(logits.dtype) if weight is None else weight[numbers] * kept
    return _Codes(functional.one_hot(numbers, K).to(logits.dtype), kept, counted.sum())


def probabilities(target: Tensor) -> Tensor:
    """Return codes ``(..., K)`` of one class each; a ValueError says that they are no probabilities of K classes."""
    sums = target.sum(-1)
    error = {torch.float64: 1e-6, torch.float32: 1e-3}.get(target.dtype, 0.05)
    if bool((target < 0).any()) or bool(((sums - 1).abs() > error).any()):
        raise ValueError(
            f"expected codes that are not negative and sum to 1 over the classes, found sums from {float(sums.min()):g}"
            f" to {float(sums.max()):g}; several labels at once have a loss of their own: use "
            "nem_binary_cross_entropy, the logistic head (or is dim, the axis of the classes, another one?)"
        )
    return target


def labels(target: Tensor) -> Tensor:
    """Return labels ``(..., K)``, any number of them at once; a ValueError says that they are no probabilities."""
    if bool(((target < 0) | (target > 1)).any()):
        lowest, highest = float(target.min()), float(target.max())
        raise ValueError(f"expected labels between 0 and 1, found {lowest:g} to {highest:g}")
    return target


def nem_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    noise: Noise | None = None,
    epoch: int = 0,
    generator: torch.Generator | None = None,
    output_delta: OutputDelta = "loss",
    dim: int = -1,
    **options: Any,  # noqa: ANN401 - torch's
) -> Tensor:
    """Return the cross entropy (39) in nats, averaged over the batch, with noise in the targets (Theorem 2).

    Without noise it is torch's. Its gradient in the logits is that of the ``loss``, or the ``literal`` one of (B.21),
    a - (y + n).

    Args:
        logits: inputs of the K softmax neurons, along axis ``dim`` (torch's losses: 1), ``(..., K)`` by default.
        target: class numbers, in the shape of the logits without that axis, or probabilities, such as 1-in-K codes, in
            their shape.
        noise: what enters the targets; ``None`` is nothing.
        epoch: finished epochs, for annealing.
        generator: source of random noise.
        output_delta: see above.
        dim: axis of the classes.
        options: torch's ``weight`` ``(K,)`` of the classes, ``ignore_index`` among class numbers (-100), and
            ``reduction`` ``mean``, ``sum`` or ``none``, which mean what they do there. Noise is tested by the
            likelihood that the weighted loss has, Σ w_k n_k log a_k.

    Raises:
        TypeError: another option.
        ValueError: shapes, classes or options do not fit; codes do not sum to 1, as those of several labels at once;
            random noise without a generator; a ``literal`` gradient with weights, which (B.21) does not have.

    Example:
        >>> noise = Noise("nem", "additive", sigma=0.1)
        >>> loss = nem_cross_entropy(logits, labels, noise=noise, generator=generator)
    """
    chosen = _options(options, "weight", "ignore_index", "reduction")
    if output_delta not in get_args(OutputDelta):
        raise ValueError(f"expected output_delta loss or literal, found {output_delta!r}")
    shape, logits = logits.shape, _last(logits, dim)
    weight = _per_neuron(chosen.weight, "weight", logits)
    if weight is not None and output_delta == "literal":
        raise ValueError("expected no weight with output_delta literal, found one; (B.21) has none: use loss")
    if target.shape == logits.shape[:-1] and not target.is_floating_point():
        codes = _numbers(target, logits, weight, chosen.ignore_index)
    elif target.shape == shape:
        given = probabilities(target.movedim(dim, -1).to(logits.dtype))
        codes = _Codes(given, None, max(given[..., 0].numel(), 1))
    else:
        torchs = tuple(target.shape) == (*shape[:1], *shape[2:]) and dim in (-1, len(shape) - 1)
        raise ValueError(
            f"expected integer classes of shape {tuple(logits.shape[:-1])} or codes of shape {tuple(shape)}, "
            f"found {target.dtype} of shape {tuple(target.shape)}" + ("; torch's (B, K, …) has dim=1" if torchs else "")
        )
    log_a = functional.log_softmax(logits, -1)
    # A class that a mask of -inf rules out, and that no target has, takes no part, as in torch's loss.
    out = log_a.isneginf() & (codes.target == 0)
    log_a = log_a.masked_fill(out, 0.0)
    lever = log_a if weight is None else weight * log_a
    noisy = _noisy(codes.target, lever, "softmax", noise, epoch, generator)
    loss = -(noisy * lever).sum(-1)
    if output_delta == "literal":  # the loss's value with the gradient of log Σ exp o - Σ (y + n) o
        literal = logits.logsumexp(-1) - (noisy * logits.masked_fill(out, 0.0)).sum(-1)
        loss = loss.detach() + (literal - literal.detach())
    if codes.kept is not None:
        loss = torch.where(codes.kept, loss, 0.0)
    return _reduced(loss, chosen.reduction, codes.divisor)


def nem_binary_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    noise: Noise | None = None,
    epoch: int = 0,
    generator: torch.Generator | None = None,
    dim: int = -1,
    **options: Any,  # noqa: ANN401 - torch's
) -> Tensor:
    """Return the double cross entropy -Σ_k y_k log a_k + (1 - y_k) log(1 - a_k), averaged over all but the K labels.

    For several labels at once, each a Bernoulli variable of its own: noise in the targets passes the NEM test where
    Σ_k n_k logit a_k >= 0 (:func:`nem.theory.logistic_additive_gain`). Without noise it is K times torch's mean.

    Args:
        logits: inputs of the K logistic neurons, along axis ``dim``.
        target: labels 0 or 1, or probabilities, in the shape of the logits.
        noise: what enters the targets; ``None`` is nothing.
        epoch: finished epochs, for annealing.
        generator: source of random noise.
        dim: axis of the labels.
        options: torch's ``weight`` and ``pos_weight``, both ``(K,)``, and ``reduction``: ``mean`` and ``sum`` over
            sums over labels, ``none`` for these themselves, ``(...)``. Noise is tested by the weighted likelihood.

    Raises:
        TypeError: another option.
        ValueError: shapes or options do not fit, a target is no probability, or random noise has no generator.
    """
    chosen = _options(options, "weight", "pos_weight", "reduction")
    if target.shape != logits.shape:
        raise ValueError(f"expected labels of shape {tuple(logits.shape)}, found {tuple(target.shape)}")
    logits, target = _last(logits, dim), labels(target.movedim(dim, -1).to(logits.dtype))
    weight = _per_neuron(chosen.weight, "weight", logits)
    present = _per_neuron(chosen.pos_weight, "pos_weight", logits)
    # The loss is linear in the target: -(y·lever + absent).
    absent = -functional.softplus(logits)  # log(1 - a)
    lever = logits if present is None else present * functional.logsigmoid(logits) - absent
    lever, absent = (part if weight is None else weight * part for part in (lever, absent))
    noisy = _noisy(target, lever, "logistic", noise, epoch, generator)
    loss = -(noisy * lever + absent).sum(-1)
    return _reduced(loss, chosen.reduction, max(loss.numel(), 1))


def nem_mse_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    noise: Noise | None = None,
    epoch: int = 0,
    generator: torch.Generator | None = None,
    dim: int = -1,
    **options: Any,  # noqa: ANN401 - torch's
) -> Tensor:
    """Squared error (43) with noise in the targets (Theorem 3, Corollary 2): summed over K, averaged over the rest.

    As :func:`nem_binary_cross_entropy`, with ``prediction``, the activations of the identity neurons, and ``target`` of
    one shape; the only option is ``reduction``. The loss is in squared units of the target.
    """
    chosen = _options(options, "reduction")
    if prediction.shape != target.shape:
        raise ValueError(f"expected a target of shape {tuple(prediction.shape)}, found {tuple(target.shape)}")
    target = target.to(torch.promote_types(prediction.dtype, target.dtype))  # noise is none of whole numbers
    prediction, target = _last(prediction, dim), target.movedim(dim, -1)
    loss = (prediction - _noisy(target, prediction, "identity", noise, epoch, generator)).square().sum(-1)
    return _reduced(loss, chosen.reduction, max(loss.numel(), 1))
