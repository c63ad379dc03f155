"""Drop-in LSTM and GRU layers with noise in their gates: Theorems 4, 5, Corollaries 3, 4 and Algorithm 1.

Parameter names, shapes and row order are those of one-layer ``nn.LSTM`` and ``nn.GRU``: their ``state_dict`` loads
as it is and then gives the same outputs. Inside, rows are put into the kernels' order. The paper's update gate is
z = 1 - z_torch (h = z∘c + (1 - z)∘h_prev against torch's h = (1 - z)∘c + z∘h_prev), so the update rows change sign;
gate noise acts on the paper's z.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.noise.inject import GateStack, Granularity
from pipeline.noise.schedule import Noise
from pipeline.recurrent.kernels import BLOCKS, GATES, CellName, GateDraws, RecurrentFunction


class _NoisyRecurrent(nn.Module):
    """What the two cells share.

    Args:
        input_size: I, features per time slice.
        hidden_size: J, hidden units.
        bias: learn biases.
        batch_first: inputs and outputs are ``(B, T, ·)`` instead of ``(T, B, ·)``.
        noise: gate noise in training mode; ``None`` for none.
        injection: ``forward`` or ``backward`` (see :mod:`pipeline.recurrent.kernels`).
        latent: z of the multiplicative gain, ``mean-field`` or ``sampled``.
        granularity: what one NEM test decides on: ``slice`` (Algorithm 1), ``neuron`` or ``time``.
        clamp: clip noisy gates to [0, 1].
        device: where parameters live.
        dtype: their type.

    Raises:
        ValueError: a size below 1.
    """

    cell: CellName

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        batch_first: bool = False,
        noise: Noise | None = None,
        injection: Literal["forward", "backward"] = "forward",
        latent: Literal["mean-field", "sampled"] = "mean-field",
        granularity: Granularity = "slice",
        clamp: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if size < 1:
                raise ValueError(f"expected {name} of at least 1, found {size}")
        self.input_size, self.hidden_size, self.bias, self.batch_first = input_size, hidden_size, bias, batch_first
        self.noise, self.epoch = noise, 0
        self._options = {"injection": injection, "latent": latent, "granularity": granularity, "clamp": clamp}
        rows = BLOCKS[self.cell] * hidden_size

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.weight_ih_l0 = parameter(rows, input_size)
        self.weight_hh_l0 = parameter(rows, hidden_size)
        if bias:
            self.bias_ih_l0 = parameter(rows)
            self.bias_hh_l0 = parameter(rows)
        self.acceptance: Tensor | None = None
        """Share of gate draws that the last noisy pass injected."""
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all parameters from U(-1/√J, 1/√J), as torch does; from ``generator`` if given."""
        bound = 1 / math.sqrt(self.hidden_size)
        with torch.no_grad():
            for each in self.parameters():
                each.uniform_(-bound, bound, generator=generator)

    def set_epoch(self, epoch: int) -> None:
        """Tell the annealing schedule how many epochs are finished."""
        self.epoch = epoch

    def extra_repr(self) -> str:
        """Describe the layer in one line."""
        return f"{self.input_size}, {self.hidden_size}, batch_first={self.batch_first}, noise={self.noise}"

    def _draws(self, T: int, B: int, generator: torch.Generator | None) -> GateDraws | None:
        if self.noise is None or not self.training:
            return None
        if generator is None and (self.noise.needs_draws or self._options["latent"] == "sampled"):
            raise ValueError(
                "expected a torch.Generator in training mode with noise, found None; "
                "call layer(x, generator=torch.Generator().manual_seed(...)), or layer.eval()"
            )
        stack = GateStack((self.noise.kind,), (self.noise.mode,), **self._options)  # type: ignore[arg-type]
        like = self.weight_hh_l0
        shape = (T, 1, 1, GATES[self.cell], self.hidden_size, B)

        def normal() -> Tensor:
            return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)

        return GateDraws(
            stack,
            torch.tensor([self.noise.at(self.epoch)], dtype=like.dtype, device=like.device),
            normal() if self.noise.needs_draws else None,
            normal() if stack.needs_test_draw else None,
            torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
            if stack.needs_uniform
            else None,
        )

    def _sequence(self, x: Tensor) -> Tensor:
        """Return inputs as ``(T, 1, I + 1, B)`` with a last row of ones."""
        if x.dim() not in (2, 3) or x.shape[-1] != self.input_size:
            raise ValueError(
                f"expected input of shape (T, {self.input_size}) or 3-D with last size {self.input_size}, "
                f"found {tuple(x.shape)}"
            )
        if x.dim() == 3 and self.batch_first:
            x = x.transpose(0, 1)
        x = x.unsqueeze(1) if x.dim() == 2 else x
        x = x.permute(0, 2, 1)
        return torch.cat([x, torch.ones_like(x[:, :1])], 1).unsqueeze(1)

    def _state(self, state: Tensor | None, batched: bool) -> Tensor | None:
        """Return an initial state ``(1, B, J)`` (``(1, J)`` unbatched) as ``(1, 1, J, B)``."""
        if state is None:
            return None
        state = state if batched else state.unsqueeze(1)
        return state[0].t()[None, None]

    def _outputs(self, h: Tensor, batched: bool) -> tuple[Tensor, Tensor]:
        """Return ``(T, 1, 1, J, B)`` as torch's output and last hidden state."""
        output = h[:, 0, 0].permute(0, 2, 1)
        last = output[-1:]
        if not batched:
            return output[:, 0], last[:, 0]
        return (output.transpose(0, 1) if self.batch_first else output), last

    def _biased(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``(1, I + 1, 1, rows)``: weights, input-major, with the bias as last row."""
        column = weight.new_zeros(len(weight), 1) if bias is None else bias.unsqueeze(1)
        return torch.cat([weight, column], 1).t()[None, :, None]


class NoisyLSTM(_NoisyRecurrent):
    """A one-layer ``nn.LSTM`` (B.1)-(B.11) whose input, forget and output gates can be noise-boosted.

    Arguments are those of :class:`_NoisyRecurrent`.

    Example:
        >>> layer = NoisyLSTM(4, 50, batch_first=True, noise=Noise("nem", "additive", sigma=0.1, decay=0.5))
        >>> output, (h, s) = layer(torch.randn(64, 4, 4), generator=torch.Generator().manual_seed(1))
    """

    cell = "lstm"

    def forward(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the layer over a sequence.

        Args:
            x: ``(T, B, I)``, ``(B, T, I)`` with ``batch_first``, or ``(T, I)``.
            hx: initial hidden and cell states ``(1, B, J)``; ``None`` is zero.
            generator: source of the gate noise; required in training mode with random noise.

        Returns:
            Hidden states of all slices, and the last hidden and cell states, in torch's shapes.

        Raises:
            ValueError: shapes do not fit, or random noise without a generator.
        """
        batched, sequence = x.dim() == 3, self._sequence(x)
        i, f, c, o = torch.arange(4 * self.hidden_size, device=x.device).split(self.hidden_size)
        order = torch.cat([i, f, o, c])
        bias = self.bias_ih_l0 + self.bias_hh_l0 if self.bias else None
        W = self._biased(self.weight_ih_l0, bias)[..., order]
        V = self.weight_hh_l0[order][None, None]
        h0, s0 = (None, None) if hx is None else (self._state(hx[0], batched), self._state(hx[1], batched))
        draws = self._draws(sequence.shape[0], sequence.shape[3], generator)
        h, last, accepted = RecurrentFunction.apply(sequence, W, V, None, h0, s0, "lstm", draws)
        self.acceptance = accepted[0, 0] if draws is not None else None
        output, h_last = self._outputs(h, batched)
        s_last = last[0, 0].t().unsqueeze(0)
        return output, (h_last, s_last if batched else s_last[:, 0])


class NoisyGRU(_NoisyRecurrent):
    """A one-layer ``nn.GRU`` (C.1)-(C.7) whose update and reset gates can be noise-boosted.

    Arguments are those of :class:`_NoisyRecurrent`. The candidate's second bias ``b_hn`` is torch's; (C.5) has none.
    """

    cell = "gru"

    def forward(
        self, x: Tensor, hx: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the layer over a sequence.

        Args:
            x: ``(T, B, I)``, ``(B, T, I)`` with ``batch_first``, or ``(T, I)``.
            hx: initial hidden state ``(1, B, J)``; ``None`` is zero.
            generator: source of the gate noise; required in training mode with random noise.

        Returns:
            Hidden states of all slices, and the last one, in torch's shapes.

        Raises:
            ValueError: shapes do not fit, or random noise without a generator.
        """
        batched, sequence, J = x.dim() == 3, self._sequence(x), self.hidden_size
        r_W, z_W, c_W = self.weight_ih_l0.split(J)
        r_V, z_V, c_V = self.weight_hh_l0.split(J)
        bias, recurrent_bias = None, None
        if self.bias:
            r_b, z_b, c_b = self.bias_ih_l0.split(J)
            r_d, z_d, c_d = self.bias_hh_l0.split(J)
            bias = torch.cat([c_b, -(z_b + z_d), r_b + r_d])
            recurrent_bias = c_d.view(1, 1, J, 1)
        W = self._biased(torch.cat([c_W, -z_W, r_W]), bias)
        V = torch.cat([-z_V, r_V, c_V])[None, None]
        draws = self._draws(sequence.shape[0], sequence.shape[3], generator)
        h0 = self._state(hx, batched)
        h, _, accepted = RecurrentFunction.apply(sequence, W, V, recurrent_bias, h0, None, "gru", draws)
        self.acceptance = accepted[0, 0] if draws is not None else None
        return self._outputs(h, batched)
