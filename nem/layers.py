"""Drop-in LSTM and GRU layers with noise in their gates: Theorems 4, 5, Corollaries 3, 4 and Algorithm 1.

They are ``nn.LSTM`` and ``nn.GRU``: same arguments, same parameters, same ``state_dict``, same outputs, and without
noise or in evaluation mode torch's own kernels, for export and compilation too. With several layers or two directions
the noise enters the gates of each as it does in one: each gate is tested by itself, from draws of its own.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from nem.cells import GATES
from nem.densities import source, standard
from nem.directions import Direction, Noisy, States, run
from nem.names import CellName, Granularity, Injection, Latent
from nem.noise import GateNoise, Noise, Stream


class NoisyRecurrent(nn.RNNBase):
    """What :class:`NoisyLSTM` and :class:`NoisyGRU` share: I = ``input_size`` features, J = ``hidden_size`` units.

    ``noise`` enters the gates in training mode; ``injection``, ``latent``, ``granularity`` and ``clamp`` are those of
    :class:`nem.noise.GateNoise`. All that is random in training, dropout between layers included, comes from
    ``generator``, which is an attribute and may be given to each call instead; it is copied and pickled with the layer
    and is no part of ``state_dict``. Other arguments are torch's: ``num_layers``, ``bias``, ``batch_first``,
    ``dropout``, ``bidirectional``, ``device``, ``dtype``. A size below 1, and a ``proj_size``, are a ValueError.
    """

    cell: CellName
    weight_hh_l0: Tensor

    def __init__(
        self,
        *sizes: Any,  # noqa: ANN401 - torch's
        noise: Noise | None = None,
        injection: Injection = "forward",
        latent: Latent = "mean-field",
        granularity: Granularity = "slice",
        clamp: bool = False,
        generator: torch.Generator | None = None,
        **options: Any,  # noqa: ANN401 - torch's
    ) -> None:
        names = ("input_size", "hidden_size", "num_layers")
        given = options | dict(zip(names, sizes, strict=False))
        for name in names:
            size = given.get(name, 1)
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f"expected {name} of at least 1, found {size!r}")
        if options.get("proj_size") or any(sizes[7:8]):
            raise ValueError(
                "expected no proj_size, found one; the paper's cells have no projection: put a torch.nn.Linear "
                "behind the layer"
            )
        super().__init__(*sizes, **options)
        self.noise, self.generator = noise, generator
        self.epoch = 0  # epochs finished, for annealing
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

    def plain(self) -> nn.LSTM | nn.GRU:
        """Return torch's layer with a copy of the parameters: what TorchScript takes, and whoever has no ``nem``."""
        names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
        like = self.weight_hh_l0
        kind = nn.LSTM if self.cell == "lstm" else nn.GRU
        layer = kind(**{name: getattr(self, name) for name in names}, device=like.device, dtype=like.dtype)
        layer.load_state_dict(self.state_dict())
        return layer.train(self.training)

    def forward(
        self,
        x: Tensor | PackedSequence,
        hx: Any = None,  # noqa: ANN401 - a Tensor of a GRU, a pair of an LSTM
        *,
        generator: torch.Generator | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Any, Any]:
        """Run the layer over sequences, with inputs, states and outputs as in ``nn.LSTM`` and ``nn.GRU``.

        Args:
            x: ``(T, B, I)``, ``(B, T, I)`` with ``batch_first``, ``(T, I)``, or a ``PackedSequence``.
            hx: initial states ``(layers·directions, B, J)``: one of a GRU, a pair of an LSTM; ``None`` is zero.
            generator: source of noise and dropout in training mode, in place of the layer's own.
            lengths: slices of each sequence ``(B,)``, of padded ``x``: outputs beyond are 0, last states those of the
                last slice, as for a ``PackedSequence``.

        Raises:
            ValueError: shapes, types or lengths do not fit; or noise or dropout have no generator, or one of another
                device.
        """
        if lengths is not None:
            output, last = self(self._packed(x, lengths), hx, generator=generator)
            total = x.shape[1 if self.batch_first else 0]  # type: ignore[union-attr] # _packed took it
            return pad_packed_sequence(output, self.batch_first, total_length=total)[0], last
        states = self._checked(x, hx)
        random = self.noise is not None or (self.dropout > 0 and self.num_layers > 1)
        if not (self.training and random) or (isinstance(x, Tensor) and not x.numel()):  # in no sequence is no noise
            result: tuple[Any, Any] = super().forward(x, hx)
            return result
        like = self.weight_hh_l0
        if torch.is_autocast_enabled(like.device.type):
            with torch.autocast(like.device.type, enabled=False):
                x, states = _cast(x, like.dtype), tuple(state.to(like.dtype) for state in states)
                return self._train(x, states, generator)
        return self._train(x, states, generator)

    def _packed(self, x: Tensor | PackedSequence, lengths: Tensor | Sequence[int]) -> PackedSequence:
        """Return padded sequences as a PackedSequence."""
        if isinstance(x, PackedSequence) or x.dim() != 3:
            found = "a PackedSequence, which has its own" if isinstance(x, PackedSequence) else f"{tuple(x.shape)}"
            raise ValueError(f"expected lengths with padded sequences of three axes, found {found}; leave lengths out")
        slices, batch = (x.shape[axis] for axis in ((1, 0) if self.batch_first else (0, 1)))
        given = torch.as_tensor(lengths)
        whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
        right = given.dim() == 1 and len(given) == batch and whole
        if not right or not batch or not 1 <= int(given.min()) <= int(given.max()) <= slices:
            raise ValueError(f"expected {batch} lengths, whole numbers from 1 to {slices}, found {lengths}")
        return pack_padded_sequence(x, given.cpu(), self.batch_first, enforce_sorted=False)

    def _checked(self, x: Tensor | PackedSequence, hx: Any) -> States:  # noqa: ANN401 - see forward
        """Return the initial states as a tuple, after a check of everything that was given."""
        data = x.data if isinstance(x, PackedSequence) else x
        dims = (2,) if isinstance(x, PackedSequence) else (2, 3)
        slices = data.shape[1 if self.batch_first and data.dim() == 3 else 0] if data.dim() else 0
        if data.dim() not in dims or data.shape[-1] != self.input_size or slices == 0:
            raise ValueError(
                f"expected input of shape (T, {self.input_size}) or 3-D with last size {self.input_size}, not empty, "
                f"found {tuple(data.shape)}"
            )
        if isinstance(x, PackedSequence):
            batch: tuple[int, ...] = (int(x.batch_sizes[0]),)
        else:
            batch = () if x.dim() == 2 else (x.shape[0 if self.batch_first else 1],)
        single = self.cell == "gru"
        several = isinstance(hx, (tuple, list)) and all(isinstance(state, Tensor) for state in hx)
        states = (hx,) if isinstance(hx, Tensor) else tuple(hx) if several else ()
        if hx is not None and (isinstance(hx, Tensor) != single or len(states) != (1 if single else 2)):
            found = f"{type(hx).__name__}{f' of {len(states)} tensors' if several else ''}"
            raise ValueError(f"expected {'one tensor' if single else 'a pair (h, c)'} of initial states, found {found}")
        right = (self.num_layers * (2 if self.bidirectional else 1), *batch, self.hidden_size)
        for state in states:
            if tuple(state.shape) != right:
                raise ValueError(
                    f"expected initial states of shape {right}, found {tuple(state.shape)}: one per layer and direction"
                )
        like = self.weight_hh_l0
        if not torch.is_autocast_enabled(like.device.type):
            for given in (data, *states):
                if given.dtype != like.dtype:
                    raise ValueError(f"expected {like.dtype}, as the layer's parameters, found {given.dtype}; cast it")
        return states

    def _train(self, x: Tensor | PackedSequence, states: States, generator: torch.Generator | None) -> tuple[Any, Any]:
        """Run all layers with noise or dropout: unpack and sort, run, sort and pack again."""
        packed = x if isinstance(x, PackedSequence) else None
        order, flat = None, False
        if packed is not None:
            order, sizes = packed.sorted_indices, packed.batch_sizes.tolist()
            padded, lengths = pad_packed_sequence(PackedSequence(packed.data, packed.batch_sizes))
        else:
            flat, padded = x.dim() == 2, x  # type: ignore[union-attr, assignment] # a Tensor
            if flat:
                padded, states = padded.unsqueeze(1), tuple(state.unsqueeze(1) for state in states)
            elif self.batch_first:
                padded = padded.transpose(0, 1)
            sizes, lengths = [padded.shape[1]] * len(padded), None
        if order is not None:
            states = tuple(state.index_select(1, order) for state in states)
        chance = _Chance(self, padded, order, generator)
        output, last = self._layers(padded, states, sizes, chance)
        if packed is not None and lengths is not None:
            if packed.unsorted_indices is not None:
                last = tuple(state.index_select(1, packed.unsorted_indices) for state in last)
            data = pack_padded_sequence(output, lengths).data
            return PackedSequence(data, packed.batch_sizes, order, packed.unsorted_indices), self._given(last)
        if flat:
            return output[:, 0], self._given(tuple(state[:, 0] for state in last))
        return output.transpose(0, 1) if self.batch_first else output, self._given(last)

    def _given(self, last: States) -> Any:  # noqa: ANN401 - see forward
        return last[0] if self.cell == "gru" else last

    def _layers(self, x: Tensor, states: States, sizes: Sequence[int], chance: "_Chance") -> tuple[Tensor, States]:
        """Run all layers and directions over ``x`` ``(T, B, I)``, sorted by length."""
        directions, lasts, accepted = 2 if self.bidirectional else 1, [], []
        backward = _reversal(sizes, x.device)
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                at = layer * directions + direction
                own = Direction(self.cell, [getattr(self, name) for name in self._all_weights[at]])
                start = tuple(state[at] for state in states)
                done = run(own, backward(x) if direction else x, start, chance.noise(), sizes)
                outputs.append(backward(done.output) if direction else done.output)
                lasts.append(done.last)
                accepted += [] if done.acceptance is None else [done.acceptance]
            x = torch.cat(outputs, -1) if directions > 1 else outputs[0]
            if layer < self.num_layers - 1:
                x = chance.dropped(x)
        self.acceptance = sum(accepted[1:], accepted[0]) / len(accepted) if accepted else None
        return x, tuple(torch.stack(parts) for parts in zip(*lasts, strict=True))


def _cast(x: Tensor | PackedSequence, dtype: torch.dtype) -> Tensor | PackedSequence:
    if isinstance(x, PackedSequence):
        return PackedSequence(x.data.to(dtype), x.batch_sizes, x.sorted_indices, x.unsorted_indices)
    return x.to(dtype)


def _reversal(sizes: Sequence[int], device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return what turns every sequence of ``(T, B, …)`` round within its own length."""
    if sizes[-1] == sizes[0]:
        return lambda x: x.flip(0)
    slices, batch = torch.arange(len(sizes))[:, None], torch.arange(sizes[0])
    length = (torch.tensor(sizes)[:, None] > batch).sum(0)
    index, batch = torch.where(slices < length, length - 1 - slices, slices).to(device), batch.to(device)
    return lambda x: x[index, batch]


class _Chance:
    """All that is random in one pass, drawn for sequences in the order in which they were given."""

    def __init__(
        self, layer: NoisyRecurrent, x: Tensor, order: Tensor | None, generator: torch.Generator | None
    ) -> None:
        self.layer, self.order, self.like = layer, order, layer.weight_hh_l0
        self.generator = layer.generator if generator is None else generator
        self.slices, self.batch = x.shape[:2]

    def _source(self) -> torch.Generator:
        remedy = "set layer.generator = {0} or call layer(x, generator={0}); after layer.eval() nothing is random"
        return source(self.generator, self.like, remedy)

    def _sorted(self, values: Tensor, axis: int) -> Tensor:
        return values if self.order is None else values.index_select(axis, self.order)

    def noise(self) -> Noisy | None:
        """Return the noise of one layer and direction, with draws of its own."""
        noise, layer, like = self.layer.noise, self.layer, self.like
        if noise is None:
            return None
        shape = (self.slices, 1, 1, GATES[layer.cell], layer.hidden_size, self.batch)

        def sample(name: Stream) -> Tensor:
            generator = self._source()
            if name == "uniform":
                drawn = torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
            else:
                drawn = standard(noise.density, shape, like, generator)
            return self._sorted(drawn, -1)

        gates = GateNoise((noise.kind,), (noise.mode,), *layer._choices)
        return gates, gates.draws(like.new_tensor([noise.at(layer.epoch)]), sample)

    def dropped(self, x: Tensor) -> Tensor:
        """Return outputs ``(T, B, …)`` with dropout, as torch has it between layers."""
        if not self.layer.dropout:
            return x
        shape = (self.slices, self.batch, x.shape[-1])
        drawn = torch.rand(shape, generator=self._source(), dtype=torch.float32, device=x.device)
        kept = self._sorted(drawn, 1) >= self.layer.dropout
        return x * kept / (1 - self.layer.dropout) if self.layer.dropout < 1 else x * kept


class NoisyLSTM(NoisyRecurrent, nn.LSTM):
    """An ``nn.LSTM`` (B.1)-(B.11) whose input, forget and output gates can be noise-boosted.

    Example:
        >>> layer = NoisyLSTM(4, 50, batch_first=True, noise=Noise("nem", "additive", sigma=0.1, decay=0.5))
        >>> output, (h, s) = layer(torch.randn(64, 4, 4), generator=torch.Generator().manual_seed(1))
    """

    cell = "lstm"


class NoisyGRU(NoisyRecurrent, nn.GRU):
    """An ``nn.GRU`` (C.1)-(C.7) whose update and reset gates can be noise-boosted.

    Noise acts on the paper's update gate z = 1 - z_torch. The candidate's second bias ``b_hn`` is torch's; (C.5) has
    none.
    """

    cell = "gru"
