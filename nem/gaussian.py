"""Normal draws of a ``torch.Generator`` in compiled code: those of ``torch.randn``, in less than half of its time.

On a CPU torch takes its generator's bits one word after another, which is most of what a draw costs. Here a whole state
of the generator, the Mersenne Twister MT19937, is renewed at once, in vectors. Bits are the same, and so is the state
that they leave; the numbers made of them agree with torch's to rounding, ours being nearer to the exact ones.

u and v are independent and uniform on [0, 1); √(-2 log(1 - u)) cos 2πv and √(-2 log(1 - u)) sin 2πv are two draws (Box
and Muller). Of 16 words torch makes 8 such pairs, the u first.
"""

import math
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nem.kernels import Floats, compiled, inlined, numba

MANY = 4096
"""From so many draws on :func:`fill` is faster than torch."""

KNOWN = torch.Generator().get_state().numel() == 5056
"""Whether a CPU generator's state has the bytes that are known here: of a seed (8), the words left of the present ones
plus 1 (4), a flag (4), the next one's place (8), the words, each in 8, and of what normal draws do not need."""

LOCK = Lock()
"""Held while a generator is ahead of its state: threads may fill from one, if nobody draws from it otherwise."""

LENGTH, SHIFT = 624, 397
"""Words of a state, and from how far the recurrence takes a word."""

BLOCK, CHUNK = 8, 1024
"""Pairs that torch makes together, and pairs that are made while they are in the first cache."""

TOP, REST, TWIST = np.uint32(0x80000000), np.uint32(0x7FFFFFFF), np.uint32(0x9908B0DF)
MASK_7, MASK_15, LAST_24 = np.uint32(0x9D2C5680), np.uint32(0xEFC60000), np.uint32(0xFFFFFF)
NO_BIT, BIT, SMALLEST = np.uint32(0), np.uint32(1), np.float32(2**-24)
QUARTER, HALF, ONE, TWO, FOUR, LOG_2 = (np.float32(x) for x in (0.25, 0.5, 1, 2, 4, math.log(2)))
ROOT, MANTISSA = np.int32(0x3F3504F3), np.int32(0x7FFFFF)  # √½ and the mantissa in the bits of a number

# Terms of log((1 + s)/(1 - s))/(2s) in s², and of sin(2πx)/x and cos 2πx in x². What is left out is below 3e-9.
L1, L2, L3, L4 = (np.float32(1 / n) for n in (3, 5, 7, 9))
S0, S1, S2, S3, S4 = (np.float32((-1) ** (n // 2) * (2 * math.pi) ** n / math.factorial(n)) for n in range(1, 10, 2))
C1, C2, C3, C4, C5 = (np.float32((-1) ** (n // 2) * (2 * math.pi) ** n / math.factorial(n)) for n in range(2, 11, 2))


def _reinterpreted(given: str, wanted: str) -> Any:  # noqa: ANN401 - numba is not typed
    """Return what reads the bits of one type as another."""

    def cast(_: object, value: object) -> Any:  # noqa: ANN401
        def code(_: object, builder: Any, __: object, arguments: Any) -> object:  # noqa: ANN401
            ir = numba.core.cgutils.ir
            return builder.bitcast(arguments[0], ir.IntType(32) if wanted == "int32" else ir.FloatType())

        return getattr(numba, wanted)(getattr(numba, given)), code

    return None if numba is None else numba.extending.intrinsic(cast)


_bits, _number = _reinterpreted("float32", "int32"), _reinterpreted("int32", "float32")


@inlined
def _word(before: np.uint32, here: np.uint32, far: np.uint32) -> np.uint32:
    word: np.uint32 = far ^ (((before & TOP) | (here & REST)) >> BIT) ^ ((NO_BIT - (here & BIT)) & TWIST)
    return word


@compiled
def _renew(words: npt.NDArray[np.uint32]) -> None:
    """Replace a state's words by the next ones."""
    for i in range(LENGTH - SHIFT):
        words[i] = _word(words[i], words[i + 1], words[i + SHIFT])
    for i in range(LENGTH - SHIFT, LENGTH - 1):
        words[i] = _word(words[i], words[i + 1], words[i + SHIFT - LENGTH])
    words[LENGTH - 1] = _word(words[LENGTH - 1], words[0], words[SHIFT - 1])


@compiled
def _uniform(words: npt.NDArray[np.uint32], place: int, out: Floats) -> int:
    """Write uniform draws, multiples of 2⁻²⁴, from the word at ``place`` on; return the next one's place."""
    done = 0
    while done < len(out):
        if place == LENGTH:
            _renew(words)
            place = 0
        count = min(LENGTH - place, len(out) - done)
        some, numbers = words[place : place + count], out[done : done + count]
        for i in range(count):
            y = some[i]
            y ^= y >> np.uint32(11)
            y ^= (y << np.uint32(7)) & MASK_7
            y ^= (y << np.uint32(15)) & MASK_15
            y ^= y >> np.uint32(18)
            numbers[i] = np.float32(np.int32(y & LAST_24)) * SMALLEST
        place, done = place + count, done + count
    return place


@compiled
def _polar(u: Floats, v: Floats) -> None:
    """Replace uniform draws by normal ones."""
    for i in range(len(u)):
        x, turn = ONE - u[i], v[i]
        bits = np.int32(_bits(x) - ROOT)  # x = 2^(bits >> 23) m with m from √½ to √2
        m = _number(np.int32((bits & MANTISSA) + ROOT))
        s = (m - ONE) / (m + ONE)
        z = s * s
        log = np.float32(np.int32(bits >> 23)) * LOG_2 + (s + s) * (ONE + z * (L1 + z * (L2 + z * (L3 + z * L4))))
        quarters = np.int32(FOUR * turn + HALF)
        turn -= np.float32(quarters) * QUARTER  # exact, and within ±1/8
        z = turn * turn
        sine = turn * (S0 + z * (S1 + z * (S2 + z * (S3 + z * S4))))
        cosine = ONE + z * (C1 + z * (C2 + z * (C3 + z * (C4 + z * C5))))
        odd = np.float32(quarters & 1)
        radius = np.sqrt(-(log + log)) * (ONE - np.float32(quarters & 2))
        u[i] = radius * ((ONE - odd) * cosine - odd * sine)
        v[i] = radius * ((ONE - odd) * sine + odd * cosine)


@compiled
def _normal(words: npt.NDArray[np.uint32], place: int, out: Floats) -> int:
    """Write normal draws, whole blocks of them; return the next word's place."""
    u, v = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)  # vectors need numbers that lie side by side
    for first in range(0, len(out), 2 * CHUNK):
        some = out[first : first + 2 * CHUNK]
        place = _uniform(words, place, some)
        pairs = some.reshape(-1, 2, BLOCK)
        for k in range(len(pairs)):
            for j in range(BLOCK):
                u[BLOCK * k + j], v[BLOCK * k + j] = pairs[k, 0, j], pairs[k, 1, j]
        _polar(u[: len(some) // 2], v[: len(some) // 2])
        for k in range(len(pairs)):
            for j in range(BLOCK):
                pairs[k, 0, j], pairs[k, 1, j] = u[BLOCK * k + j], v[BLOCK * k + j]
    return place


@compiled
def _filled(state: npt.NDArray[np.uint64], place: int, out: Floats) -> int:
    """Fill ``out`` with at least a block of normal draws and change the state's words; return the next one's place."""
    words, rest = state.astype(np.uint32), len(out) % (2 * BLOCK)
    place = _normal(words, place, out[: len(out) - rest])
    if rest:  # torch, too, spends their words and makes the last 16 draws of 16 more
        place = _uniform(words, place, out[len(out) - rest :])
        place = _normal(words, place, out[len(out) - 2 * BLOCK :])
    state[:] = words
    return place


def serves(generator: torch.Generator, *shape: int, like: Tensor) -> bool:
    """Tell whether :func:`fill` can do what ``torch.randn`` does, and is faster: never where torch traces or maps."""
    if numba is None or torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None or torch._C._len_torch_dispatch_stack():
        return False
    plain = type(like) in (Tensor, torch.nn.Parameter) and like.dtype == torch.float32
    here = like.device.type == generator.device.type == "cpu"
    return plain and here and math.prod(shape) >= MANY and KNOWN


def fill(out: Tensor, generator: torch.Generator) -> Tensor:
    """Fill ``out``, which is float32, on a CPU and in one piece, with at least 16 draws from N(0, 1), and return it."""
    with LOCK:
        state = generator.get_state()
        halves, wholes = state.numpy().view(np.int32), state.numpy().view(np.uint64)
        place = _filled(wholes[3 : 3 + LENGTH], LENGTH + 1 - int(halves[2]), out.view(-1).numpy())
        halves[2], wholes[2] = LENGTH + 1 - place, place
        generator.set_state(state)
    torch.autograd.graph.increment_version(out)
    return out
