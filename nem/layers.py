"""Drop-in LSTM and GRU layers with noise in their gates: Theorems 4, 5, Corollaries 3, 4 and Algorithm 1.

They are one-layer ``nn.LSTM`` and ``nn.GRU``: same parameters, same ``state_dict``, same outputs, and without noise or
in evaluation mode torch's own kernels. The paper's update gate is z = 1 - z_torch (h = z∘c + (1 - z)∘h_prev against
torch's h = (1 - z)∘c + z∘h_prev), so its rows change sign on the way to :mod:`nem.cells`, and gate noise acts on the
paper's z.
"""

import math
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nem import cells, fast
from nem.cells import GATES, CellName, Start
from nem.densities import standard
from nem.noise import Draws, GateNoise, Granularity, Injection, Latent, Noise

threadpoolctl: Any = None  # of the same optional extra as numba
with suppress(ImportError):
    import threadpoolctl  # type: ignore[no-redef]


class NoisyRecurrent(nn.RNNBase):
    """What :class:`NoisyLSTM` and :class:`NoisyGRU` share: I = ``input_size`` features, J = ``hidden_size`` units.

    ``noise`` enters the gates in training mode; ``injection``, ``latent``, ``granularity`` and ``clamp`` are those of
    :class:`nem.noise.GateNoise`. Other options, as ``nn.LSTM`` takes them: ``bias``, ``batch_first``, ``device``,
    ``dtype``. A size below 1 is a ValueError.
    """

    cell: CellName
    weight_hh_l0: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        noise: Noise | None = None,
        injection: Injection = "forward",
        latent: Latent = "mean-field",
        granularity: Granularity = "slice",
        clamp: bool = False,
        **options: Any,  # noqa: ANN401 - torch's
    ) -> None:
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if size < 1:
                raise ValueError(f"expected {name} of at least 1, found {size}")
        if unknown := set(options) - {"bias", "batch_first", "device", "dtype"}:
            raise TypeError(
                f"expected bias, batch_first, device or dtype, found {', '.join(sorted(unknown))}; leave it out"
            )
        super().__init__(input_size, hidden_size, **options)  # type: ignore[arg-type]
        self.noise, self.epoch = noise, 0  # epochs finished, for annealing
        self._choices = (granularity, latent, injection, clamp)
        self.acceptance: Tensor | None = None  # share of gate draws that the last noisy pass injected, a scalar

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all parameters from U(-1/√J, 1/√J), as torch does; from ``generator`` if given."""
        bound = 1 / math.sqrt(self.hidden_size)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-bound, bound, generator=generator)

    def set_epoch(self, epoch: int) -> None:
        """Tell the annealing schedule how many epochs are finished."""
        self.epoch = epoch

    def extra_repr(self) -> str:
        """Describe the layer in one line."""
        return f"{super().extra_repr()}, noise={self.noise}"

    def _check(self, x: Tensor, *states: Tensor) -> None:
        if x.dim() not in (2, 3) or x.shape[-1] != self.input_size or 0 in x.shape:
            raise ValueError(
                f"expected input of shape (T, {self.input_size}) or 3-D with last size {self.input_size}, not empty, "
                f"found {tuple(x.shape)}"
            )
        batch = () if x.dim() == 2 else (x.shape[0 if self.batch_first else 1],)
        right = (1, *batch, self.hidden_size)
        for state in states:
            if tuple(state.shape) != right:
                raise ValueError(
                    f"expected initial states of shape {right}, found {tuple(state.shape)}; the layer has one layer "
                    "and one direction"
                )

    def _noisy(
        self, noise: Noise, x: Tensor, states: tuple[Tensor, ...], generator: torch.Generator | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the layer with noise; states are ``(h,)`` or ``(h, s)``, in and out."""
        batched = x.dim() == 3
        if not batched:
            x, states = x.unsqueeze(1), tuple(state.unsqueeze(1) for state in states)
        elif self.batch_first:
            x = x.transpose(0, 1)
        layer = GateNoise((noise.kind,), (noise.mode,), *self._choices)
        if generator is None and (layer.random or layer.needs_uniform):
            raise ValueError(
                "expected a torch.Generator in training mode with noise, found None; "
                "call layer(x, generator=torch.Generator().manual_seed(...)), or layer.eval()"
            )
        like, shape = self.weight_hh_l0, (len(x), 1, 1, GATES[self.cell], self.hidden_size, x.shape[1])

        def sample(name: str) -> Tensor:
            if name == "uniform":
                return torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
            return standard(noise.density, shape, like, generator)

        drawn = layer, layer.draws(like.new_tensor([noise.at(self.epoch)]), sample)
        W, V, bias = _stacked(self.cell, *(getattr(self, name) for name in self._flat_weights_names))
        h0, s0 = [None if state is None else state[0].t()[None, None] for state in (*states, None, None)][:2]
        x = x.transpose(1, 2)
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1).unsqueeze(1)
        if fast.serves(x, layer) and V.dtype == torch.float32:
            output, s, accepted = _Compiled.apply(self.cell, drawn, x, W, V, h0, s0, bias)
        else:
            done = cells.forward(self.cell, cells.project(x, W), V, start=Start(h0, s0, bias), noise=drawn)
            output, s, accepted = done.h[:, 0, 0].transpose(1, 2).contiguous(), done.s, done.acceptance
        self.acceptance = accepted[0, 0]
        last = (output[-1:],) if self.cell == "gru" else (output[-1:], s[0, 0].t().unsqueeze(0))
        if not batched:
            return output[:, 0], tuple(state[:, 0] for state in last)
        return output.transpose(0, 1) if self.batch_first else output, last


class NoisyLSTM(NoisyRecurrent, nn.LSTM):
    """A one-layer ``nn.LSTM`` (B.1)-(B.11) whose input, forget and output gates can be noise-boosted.

    Example:
        >>> layer = NoisyLSTM(4, 50, batch_first=True, noise=Noise("nem", "additive", sigma=0.1, decay=0.5))
        >>> output, (h, s) = layer(torch.randn(64, 4, 4), generator=torch.Generator().manual_seed(1))
    """

    cell = "lstm"

    def forward(  # type: ignore[override]
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the layer over a sequence ``x``, with inputs, states and outputs as in ``nn.LSTM``.

        ``generator`` is the source of the gate noise, required in training mode with random noise. A ValueError says
        that it is missing, or that shapes do not fit.
        """
        self._check(x, *(hx or ()))
        if self.noise is None or not self.training:
            return nn.LSTM.forward(self, x, hx)
        output, (h, s) = self._noisy(self.noise, x, hx or (), generator)
        return output, (h, s)


class NoisyGRU(NoisyRecurrent, nn.GRU):
    """A one-layer ``nn.GRU`` (C.1)-(C.7) whose update and reset gates can be noise-boosted.

    The candidate's second bias ``b_hn`` is torch's; (C.5) has none.
    """

    cell = "gru"

    def forward(  # type: ignore[override]
        self, x: Tensor, hx: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the layer over a sequence: as :meth:`NoisyLSTM.forward`, with one state ``hx``."""
        self._check(x, *(() if hx is None else (hx,)))
        if self.noise is None or not self.training:
            return nn.GRU.forward(self, x, hx)
        output, (h,) = self._noisy(self.noise, x, () if hx is None else (hx,), generator)
        return output, h


def _stacked(cell: CellName, w_ih: Tensor, w_hh: Tensor, *biases: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return torch's parameters as a stack of one network: W ``(1, I + 1, 1, rows)``, V ``(1, 1, rows, J)``, b_hn."""
    b_ih, b_hh = biases or (w_ih.new_zeros(len(w_ih)), None)
    if cell == "lstm":
        w_ih = torch.cat([w_ih, (b_ih if b_hh is None else b_ih + b_hh).unsqueeze(1)], 1)
        W, V = (torch.cat([i, f, o, c]) for i, f, c, o in (w_ih.chunk(4), w_hh.chunk(4)))
        return W.t()[None, :, None], V[None, None], None
    second = None
    if b_hh is not None:
        *gates, second = b_hh.chunk(3)
        b_ih = b_ih + torch.cat([*gates, torch.zeros_like(second)])
        second = second.view(1, 1, -1, 1)
    r, z, c = torch.cat([w_ih, b_ih.unsqueeze(1)], 1).chunk(3)
    W = torch.cat([c, -z, r])
    r, z, c = w_hh.chunk(3)
    return W.t()[None, :, None], torch.cat([-z, r, c])[None, None], second


@lru_cache(1)
def _threads() -> Any:  # noqa: ANN401 - threadpoolctl has no types
    return threadpoolctl.ThreadpoolController()


def _one_thread() -> AbstractContextManager[object]:
    """Hold BLAS to one thread: on products this small more of them gain little, and on a busy machine lose a lot."""
    return _threads().limit(limits=1, user_api="blas") if threadpoolctl else nullcontext()


class _Compiled(torch.autograd.Function):
    """:mod:`nem.fast` for one network; inputs x, W, V, and the fields of :class:`nem.cells.Start`."""

    @staticmethod
    def forward(ctx: Any, cell: CellName, noise: tuple[GateNoise, Draws], *tensors: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        ctx.given = cell, noise
        ctx.save_for_backward(*tensors)
        ctx.done = done = _Compiled.run(ctx, *tensors)
        accepted = done.h.new_ones(1, 1) if done.acceptance is None else done.acceptance
        ctx.mark_non_differentiable(accepted)
        s = torch.from_numpy(done.states.first[-1]).clone()
        return done.h[:, 0, 0].transpose(1, 2).contiguous(), s, accepted

    @staticmethod
    def run(ctx: Any, x: Tensor, W: Tensor, V: Tensor, *start: Tensor) -> fast.Pass:  # noqa: ANN401
        with _one_thread():
            return fast.forward(ctx.given[0], x, (W, V), start=Start(*start), noise=ctx.given[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor, grad_s: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        wanted, (_, W, V, *_) = ctx.needs_input_grad, ctx.saved_tensors
        # A backward pass uses up its forward pass: a second one, over a retained graph, runs it again.
        done, ctx.done = ctx.done or _Compiled.run(ctx, *ctx.saved_tensors), None
        weights = torch.empty(W.shape), torch.empty(V.shape)
        grad_h = grad_h.transpose(1, 2)[:, None, None]
        lstm = ctx.given[0] == "lstm"
        choices = {"grad_s": grad_s if lstm else None, "inputs": wanted[2], "states": any(wanted[5:7])}
        with _one_thread():
            grad = fast.backward(ctx.given[0], done, grad_h, weights, **choices)
        x, h0, s0, bias = (torch.from_numpy(array) for array in (grad.x, grad.h0, grad.s0, grad.bias))
        gradients = (None, None, x, *weights, h0, s0, bias.unsqueeze(-1))
        return tuple(gradient if want else None for gradient, want in zip(gradients, wanted, strict=True))
