"""The 13 noise conditions of the paper's Tables 1-8, and the families that go beyond them.

A condition is a point on three axes:

- ``kind``: ``none``; ``blind`` noise is injected whenever it is drawn; ``nem`` noise only where its log-likelihood
  gain is not negative (Theorems 2-5, Algorithm 1). Beyond the paper: ``matched`` is blind noise thinned to the
  acceptance rate that the NEM test would have had (it tells "less noise" from "better noise"); ``reversed-nem`` is the
  noise that the NEM test refuses, injected only where its gain is not positive; ``expected-nem`` and
  ``expected-reversed-nem`` are the mean effects of the two with no noise at all, and ``expected-blind`` is that of
  blind noise: nothing in the outputs, a penalty in the gates (:func:`nem.stack.penalise`).
- ``mode``: ``additive`` noise is N(0, σ²I), ``multiplicative`` noise is N(1, σ²I).
- ``place``: the ``output`` layer's targets, the ``hidden`` layer's sigmoid gates, or ``both``.
"""

import difflib
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal[
    "none", "blind", "nem", "matched", "expected-nem", "reversed-nem", "expected-reversed-nem", "expected-blind"
]
Mode = Literal["additive", "multiplicative"]
Place = Literal["output", "hidden", "both"]

MODES: tuple[Mode, ...] = get_args(Mode)
PLACES: tuple[Place, ...] = get_args(Place)


@dataclass(frozen=True)
class Condition:
    """One noise condition; mode and place are ``None`` for the noiseless one only, else it is a ``ValueError``."""

    kind: Kind
    mode: Mode | None = None
    place: Place | None = None

    def __post_init__(self) -> None:
        noiseless = self.kind == "none"
        if noiseless != (self.mode is None) or noiseless != (self.place is None):
            raise ValueError(
                "expected mode and place for every kind but 'none', and neither for 'none'; "
                f"found kind={self.kind!r}, mode={self.mode!r}, place={self.place!r}"
            )

    @property
    def name(self) -> str:
        """The condition's name, such as ``nem-additive-both``."""
        return "none" if self.kind == "none" else f"{self.kind}-{self.mode}-{self.place}"

    @property
    def in_output(self) -> bool:
        """Whether the output layer receives noise."""
        return self.place in ("output", "both")

    @property
    def in_hidden(self) -> bool:
        """Whether the gates receive noise."""
        return self.place in ("hidden", "both")

    @classmethod
    def parse(cls, name: str) -> "Condition":
        """Return the condition called ``name``; a ValueError says that there is none, and suggests the nearest."""
        if name not in _BY_NAME:
            near = difflib.get_close_matches(name, _BY_NAME, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; the paper's are {', '.join(CONDITIONS)}"
            raise ValueError(f"expected the name of a noise condition, found {name!r}{hint}")
        return _BY_NAME[name]


_ALL = [Condition("none")] + [Condition(k, m, p) for k in get_args(Kind)[1:] for m in MODES for p in PLACES]
_BY_NAME = {condition.name: condition for condition in _ALL}

CONDITIONS: tuple[str, ...] = (*_BY_NAME,)[:13]
"""The paper's, in the reading order of its tables."""
BEYOND: tuple[str, ...] = (*_BY_NAME,)[13:]
"""Conditions that the paper does not have; off by default."""
