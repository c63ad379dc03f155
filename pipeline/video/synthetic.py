"""A small stand-in for UCF-11: drawn people do the eleven sports, in UCF-11's own folders, names and codec.

Classes differ by what is done (how limbs, balls, animals and equipment move) and by what it is done with; nothing is
written into the picture. Groups differ by place, light, clothes, build, side, speed and camera. A sport has its usual
colours of sky and ground, as golf has its lawn, but only in part, so that whoever learns the places fails on new
groups. Numbers computed from these videos say nothing about real ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import seeds
from pipeline.training import executor
from pipeline.video import codec
from pipeline.video.layout import UCF11, Video, ucf11_place, ucf11_video

WIDTH, HEIGHT = 320, 240
RATES = (25.0, 30_000 / 1001)
SHORTEST, LONGEST = 3.0, 10.0
"""Length of a clip [s]; the shortest are too short for seven frames at 1.4 per second, as in UCF-11."""
MARGIN = 28
"""Pixels that the camera can stray."""
GROUND = 0.86
"""Height of the ground; the picture spans 0 (top) to 1 (bottom), and -2/3 (left) to 2/3 (right)."""

Colour = tuple[int, int, int]
Spot = tuple[float, float]
_TURN = 2 * math.pi


@dataclass(frozen=True)
class Look:
    """What the clips of one group share.

    Attributes:
        background: picture larger than a frame by ``MARGIN`` on every side.
        skin, shirt, trousers, thing, animal: colours.
        scale: size of everything in the foreground.
        shift: where the action is, right of the middle.
        mirrored: whether it goes to the left.
        speed: cycles per second relative to the sport's usual.
        rate: frames per second.
        shake: pixels that the hand-held camera trembles.
        pan: pixels that the camera swings from side to side.
        girth: thickness of limbs.
    """

    background: codec.Image
    skin: Colour
    shirt: Colour
    trousers: Colour
    thing: Colour
    animal: Colour
    scale: float
    shift: float
    mirrored: bool
    speed: float
    rate: float
    shake: float
    pan: float
    girth: float


class Pencil:
    """Draws in the scene's own coordinates on one frame."""

    def __init__(self, image: codec.Image, look: Look, offset: Spot) -> None:
        self.image, self.look, self.offset = image, look, offset

    def pixel(self, spot: Spot) -> Spot:
        """Return where a spot of the scene lies in the picture."""
        side = -1 if self.look.mirrored else 1
        x = side * (spot[0] * self.look.scale + self.look.shift)
        y = GROUND + (spot[1] - GROUND) * self.look.scale
        return x * HEIGHT + WIDTH / 2 + self.offset[0], y * HEIGHT + self.offset[1]

    def _points(self, spots: tuple[Spot, ...]) -> codec.Points:
        return np.array([self.pixel(spot) for spot in spots])

    def line(self, colour: Colour, width: float, *spots: Spot) -> None:
        """Draw connected segments; ``width`` in scene units."""
        codec.line(self.image, self._points(spots), colour, width * self.look.scale * HEIGHT)

    def area(self, colour: Colour, *spots: Spot) -> None:
        """Fill a polygon."""
        codec.polygon(self.image, self._points(spots), colour)

    def disc(self, colour: Colour, centre: Spot, radius: float) -> None:
        """Fill a disc."""
        codec.disc(self.image, self.pixel(centre), radius * self.look.scale * HEIGHT, colour)

    def wheel(self, colour: Colour, centre: Spot, radius: float, angle: float) -> None:
        """Draw a wheel with turning spokes."""
        codec.ring(self.image, self.pixel(centre), radius * self.look.scale * HEIGHT, colour, 2)
        for k in range(3):
            end = _reach(centre, angle + k * _TURN / 6, radius)
            self.line(colour, 0.004, _reach(centre, angle + k * _TURN / 6 + math.pi, radius), end)

    def person(
        self,
        hip: Spot,
        arms: tuple[Spot, Spot],
        legs: tuple[Spot, Spot],
        lean: float = 0.0,
    ) -> tuple[Spot, Spot]:
        """Draw a person and return where the hands are.

        Args:
            hip: the hip's place.
            arms: for each arm the angles of upper arm and forearm; 0 hangs down, positive swings forward.
            legs: the same for thighs and shins.
            lean: angle of the trunk, 0 upright, positive forward.
        """
        look = self.look
        neck = _reach(hip, math.pi - lean, 0.20)
        for thigh, shin in legs:
            knee = _reach(hip, thigh, 0.12)
            self.line(look.trousers, 0.045 * look.girth, hip, knee, _reach(knee, shin, 0.12))
        self.line(look.shirt, 0.075 * look.girth, hip, neck)
        hands = []
        for upper, fore in arms:
            elbow = _reach(neck, upper, 0.10)
            hands.append(_reach(elbow, fore, 0.09))
            self.line(look.shirt, 0.035 * look.girth, neck, elbow)
            self.line(look.skin, 0.03 * look.girth, elbow, hands[-1])
        self.disc(look.skin, _reach(neck, math.pi - lean, 0.055), 0.042)
        return hands[0], hands[1]

    def beast(self, back: Spot, size: float, cycle: float, stride: float) -> None:
        """Draw a four-legged animal; ``back`` is the middle of its trunk."""
        look, (x, y) = self.look, back
        for at, phase in ((-0.5, 0.0), (-0.42, 0.3), (0.42, 0.5), (0.5, 0.8)):
            swing = stride * _wave(cycle + phase)
            knee = _reach((x + at * size, y), swing, 0.35 * size)
            self.line(look.animal, 0.09 * size, (x + at * size, y), knee, _reach(knee, swing - 0.4, 0.35 * size))
        self.line(look.animal, 0.3 * size, (x - 0.45 * size, y), (x + 0.45 * size, y))
        head = (x + 0.85 * size, y - 0.45 * size + 0.04 * size * _wave(cycle))
        self.line(look.animal, 0.16 * size, (x + 0.5 * size, y - 0.05 * size), head)
        self.line(look.animal, 0.13 * size, head, (head[0] + 0.2 * size, head[1] + 0.12 * size))
        self.line(look.animal, 0.05 * size, (x - 0.5 * size, y), (x - 0.8 * size, y + 0.2 * size * _wave(cycle / 2)))


def _reach(start: Spot, angle: float, length: float) -> Spot:
    """The end of a limb; angle 0 points down, positive forward (right)."""
    return start[0] + length * math.sin(angle), start[1] + length * math.cos(angle)


def _wave(cycle: float) -> float:
    return math.sin(_TURN * cycle)


def _hop(cycle: float) -> float:
    """A thrown thing's height: 0 at whole cycles, 1 half-way."""
    part = cycle % 1
    return 4 * part * (1 - part)


def _stand(cycle: float = 0.0, stride: float = 0.12) -> tuple[Spot, Spot]:
    swing = stride * _wave(cycle)
    return (swing + 0.05, swing - 0.05), (-swing - 0.05, -swing - 0.1)


_HIP = GROUND - 0.24
_STRIPE: Colour = (235, 235, 235)
_WOOD: Colour = (120, 85, 55)
_DARK: Colour = (40, 40, 45)


def _basketball(draw: Pencil, c: float) -> None:
    part = c % 1
    draw.line(_DARK, 0.02, (0.46, GROUND), (0.46, 0.22))
    draw.area(_STRIPE, (0.42, 0.12), (0.45, 0.12), (0.45, 0.32), (0.42, 0.32))
    draw.line((220, 60, 30), 0.015, (0.42, 0.29), (0.32, 0.29))
    draw.line(_STRIPE, 0.006, (0.42, 0.29), (0.39, 0.38), (0.35, 0.38), (0.32, 0.29))
    raised = 2.6 * min(1, 2.5 * part) if part < 0.7 else 2.6 * (1 - part) / 0.3
    crouch = 0.05 * _hop(min(1, 2.5 * part))
    hands = draw.person((-0.25, _HIP + crouch), ((raised, raised + 0.3),) * 2, _stand(0, 0) if part > 0.4 else
                        ((0.5, -0.4), (0.4, -0.5)))  # fmt: skip
    fly = (part - 0.4) / 0.6
    ball = hands[0] if fly < 0 else (-0.1 + 0.47 * fly, 0.42 - 0.13 * fly - 0.22 * _hop(fly))
    draw.disc((215, 110, 40), ball, 0.045)


def _biking(draw: Pencil, c: float) -> None:
    x, y = 0.45 * _wave(c / 5), GROUND - 0.12
    back, front, crank = (x - 0.16, y), (x + 0.16, y), (x - 0.02, y)
    for centre in (back, front):
        draw.wheel(_DARK, centre, 0.11, -2 * c * _TURN)
    draw.line(draw.look.thing, 0.016, back, crank, (x + 0.11, y - 0.15), (x - 0.07, y - 0.15), crank)
    draw.line(draw.look.thing, 0.016, front, (x + 0.11, y - 0.19), (x + 0.16, y - 0.2))
    legs = []
    for side in (0.0, 0.5):
        lift = _wave(c * 2 + side)
        legs.append((0.75 + 0.45 * lift, -0.15 + 0.35 * _wave(c * 2 + side + 0.2)))
    draw.person((x - 0.08, y - 0.19), ((1.0, 1.2),) * 2, (legs[0], legs[1]), lean=0.7)


def _diving(draw: Pencil, c: float) -> None:
    part = c % 1
    draw.area((50, 120, 190), (-0.9, 0.84), (0.9, 0.84), (0.9, 1.3), (-0.9, 1.3))
    for k in range(5):
        x = -0.7 + 0.3 * k + 0.05 * _wave(c + k / 3)
        draw.line((150, 200, 235), 0.008, (x, 0.88 + 0.02 * (k % 3)), (x + 0.15, 0.88 + 0.02 * (k % 3)))
    draw.line(_STRIPE, 0.025, (-0.62, 0.50), (-0.2, 0.50 + 0.02 * _wave(4 * c)))
    draw.line(_DARK, 0.03, (-0.56, 0.50), (-0.56, 0.88))
    if part < 0.3:
        draw.person((-0.26, 0.26 + 0.02 * _wave(6 * part)), ((2.8, 2.9),) * 2, ((0.1, -0.1), (0.0, -0.1)))
    elif part < 0.8:
        fly = (part - 0.3) / 0.5
        turn = 3.4 * fly + 0.5
        hip = (-0.22 + 0.42 * fly, 0.26 - 0.1 * _hop(fly) + 0.56 * fly)
        tuck = 1.8 * _hop(fly)
        draw.person(hip, ((math.pi - turn + 0.2,) * 2, (math.pi - turn,) * 2),
                    ((tuck - turn, -turn - 0.3 * tuck), (tuck - turn, -turn)), lean=turn)  # fmt: skip
    else:
        for k in range(-3, 4):
            draw.line(_STRIPE, 0.012, (0.22 + 0.02 * k, 0.86), (0.22 + 0.06 * k, 0.86 - 0.14 * _hop((part - 0.8) * 5)))


def _golf(draw: Pencil, c: float) -> None:
    part = c % 1
    swing = 0.2 - 2.6 * _hop(part / 0.6) * (part < 0.6) + (2.6 * _hop((part - 0.5) / 1.0) if part > 0.6 else 0.0)
    draw.line(_STRIPE, 0.008, (0.5, GROUND), (0.5, 0.5))
    draw.area((220, 50, 50), (0.5, 0.5), (0.6, 0.53), (0.5, 0.57))
    hands = draw.person((-0.2, _HIP), ((swing + 0.3, swing + 0.2), (swing + 0.2, swing + 0.2)), _stand(), lean=0.35)
    head = _reach(hands[0], swing * 1.3 + 0.25, 0.27)
    draw.line(_DARK, 0.012, hands[0], head)
    draw.disc(_DARK, head, 0.02)
    fly = max(0.0, part - 0.6) / 0.4
    draw.disc((250, 250, 250), (0.0 + 0.8 * fly, GROUND - 0.01 - 0.5 * fly), 0.014)


def _riding(draw: Pencil, c: float) -> None:
    x = 0.35 * _wave(c / 6)
    y = GROUND - 0.27 - 0.04 * abs(_wave(c))
    draw.beast((x, y), 0.36, c, 0.7)
    for k in range(4):
        post = -0.75 + 0.45 * k
        draw.line(_WOOD, 0.02, (post, GROUND - 0.18), (post, GROUND + 0.02))
    draw.line(_WOOD, 0.018, (-1.0, GROUND - 0.12), (1.0, GROUND - 0.12))
    draw.person((x - 0.04, y - 0.07), ((0.8, 1.3),) * 2, ((0.5, -0.2), (0.4, -0.3)), lean=0.15 + 0.15 * _wave(c))


def _juggling(draw: Pencil, c: float) -> None:
    kick = max(0.0, math.cos(_TURN * c)) ** 3
    legs = ((0.1 + 0.9 * kick, -0.1 + 0.7 * kick), (-0.08, -0.08))
    draw.person((-0.03, _HIP), ((-0.6, 0.1), (0.7, 0.9)), legs, lean=-0.1)
    ball = (0.17 + 0.02 * _wave(c / 3), GROUND - 0.14 - 0.3 * _hop(c))
    draw.disc((245, 245, 245), ball, 0.04)
    draw.disc(_DARK, ball, 0.016)


def _swing(draw: Pencil, c: float) -> None:
    draw.line(_WOOD, 0.025, (-0.4, GROUND), (-0.28, 0.08), (0.28, 0.08), (0.4, GROUND))
    draw.line(_WOOD, 0.025, (-0.2, GROUND), (-0.28, 0.08))
    draw.line(_WOOD, 0.025, (0.2, GROUND), (0.28, 0.08))
    angle = 0.85 * _wave(c / 2)
    seat = _reach((0.0, 0.08), angle, 0.56)
    for side in (-0.03, 0.03):
        draw.line(_DARK, 0.007, (side, 0.08), (seat[0] + side, seat[1]))
    pump = 0.7 * math.cos(_TURN * c / 2)
    draw.person(seat, ((2.4, 2.6),) * 2, ((1.4 + angle, 0.5 + pump + angle),) * 2, lean=-angle - 0.35 * pump)
    draw.line(_DARK, 0.018, (seat[0] - 0.06, seat[1] + 0.02), (seat[0] + 0.06, seat[1] + 0.02))


def _tennis(draw: Pencil, c: float) -> None:
    part = c % 1
    draw.line(_STRIPE, 0.008, (-0.9, GROUND + 0.06), (0.9, GROUND + 0.06))
    draw.area((70, 75, 80), (0.40, GROUND - 0.2), (0.43, GROUND - 0.2), (0.43, GROUND), (0.40, GROUND))
    draw.line(_STRIPE, 0.015, (0.40, GROUND - 0.2), (0.43, GROUND - 0.2))
    step = 0.12 * _wave(c / 2)
    blow = -1.6 + 3.6 * max(0.0, min(1.0, (part - 0.3) / 0.25)) - 3.6 * max(0.0, (part - 0.75) / 0.25)
    hands = draw.person((-0.25 + step, _HIP), ((blow, blow + 0.3), (0.9, 1.3)), _stand(c, 0.45), lean=0.2)
    face = _reach(hands[0], blow + 0.4, 0.16)
    draw.line(_DARK, 0.014, hands[0], face)
    draw.disc((205, 205, 160), face, 0.058)
    draw.disc(draw.look.thing, face, 0.046)
    fly = (part + 0.55) % 1
    ball = (0.85 - 1.0 * 2 * fly if fly < 0.5 else -0.15 + 2.0 * (fly - 0.5), 0.52 - 0.12 * _hop(2 * fly))
    draw.disc((210, 240, 60), ball, 0.022)


def _trampoline(draw: Pencil, c: float) -> None:
    height = _hop(c)
    sag = 0.03 * max(0.0, 1 - 4 * height)
    for x in (-0.36, -0.12, 0.12, 0.36):
        draw.line(_DARK, 0.014, (x, GROUND - 0.1), (x, GROUND + 0.02))
    rim = [(0.42 * math.cos(a), GROUND - 0.1 + 0.05 * math.sin(a)) for a in np.linspace(0, _TURN, 24).tolist()]
    draw.area(draw.look.thing, *rim)
    bed = [(0.36 * math.cos(a), GROUND - 0.1 + sag + 0.035 * math.sin(a)) for a in np.linspace(0, _TURN, 24).tolist()]
    draw.area((25, 25, 30), *bed)
    hip = (0.03 * _wave(c / 3), GROUND - 0.33 + sag - 0.26 * height)
    spread = 0.5 * height
    draw.person(hip, ((0.5 + 2 * height, 0.6 + 2.2 * height), (-0.5 - 2 * height, -0.6 - 2.2 * height)),
                ((spread, spread - 0.2), (-spread, -spread + 0.1)))  # fmt: skip


def _volleyball(draw: Pencil, c: float) -> None:
    part = c % 1
    draw.line(_DARK, 0.022, (0.2, GROUND), (0.2, 0.34))
    for k in range(6):
        draw.line(_STRIPE, 0.006, (0.2, 0.36 + 0.04 * k), (0.62, 0.34 + 0.04 * k))
    for k in range(8):
        draw.line(_STRIPE, 0.005, (0.2 + 0.06 * k, 0.355), (0.2 + 0.06 * k, 0.555))
    jump = _hop(max(0.0, min(1.0, (part - 0.25) / 0.55)))
    strike = 3.6 - 2.6 * max(0.0, min(1.0, (part - 0.5) / 0.12))
    x = -0.42 + 0.3 * min(1.0, part / 0.5)
    arm = strike if jump > 0.05 else 0.4 * _wave(2 * c)
    draw.person((x, _HIP - 0.2 * jump), ((arm, arm - 0.1), (1.8 * jump + 0.3, 2.0 * jump + 0.3)),
                ((-0.6 * jump, -1.0 * jump), (-0.2 * jump + 0.1, -0.8 * jump)), lean=0.1)  # fmt: skip
    fly = (part - 0.55) / 0.45
    ball = (0.02 + 0.9 * fly, 0.25 + 0.7 * fly) if fly > 0 else (0.45 + 0.78 * fly, 0.25 + 0.12 * fly)
    draw.disc((245, 240, 200), ball, 0.042)


def _walking(draw: Pencil, c: float) -> None:
    x = 0.4 * _wave(c / 8)
    stride = 0.5 * _wave(c)
    legs = ((stride, stride - 0.25 * (stride < 0)), (-stride, -stride - 0.25 * (stride > 0)))
    hands = draw.person((x - 0.12, _HIP - 0.01 * abs(_wave(c))), ((0.5, 0.9), (stride, stride + 0.2)), legs)
    draw.beast((x + 0.26, GROUND - 0.11), 0.16, 2 * c, 0.5)
    draw.line((180, 40, 40), 0.006, hands[0], (x + 0.36, GROUND - 0.18))


@dataclass(frozen=True)
class Sport:
    """One class.

    Attributes:
        draw: draws it at a given cycle.
        pace: usual cycles per second.
        above: colour of the sky or wall where it is usually done.
        below: colour of the ground there.
    """

    draw: Callable[[Pencil, float], None]
    pace: float
    above: Colour
    below: Colour


SPORTS = {
    "basketball": Sport(_basketball, 0.45, (205, 190, 165), (190, 125, 70)),
    "biking": Sport(_biking, 0.9, (150, 190, 230), (105, 105, 110)),
    "diving": Sport(_diving, 0.4, (175, 215, 225), (120, 160, 180)),
    "golf_swing": Sport(_golf, 0.4, (165, 205, 240), (95, 165, 75)),
    "horse_riding": Sport(_riding, 1.4, (110, 150, 100), (200, 175, 125)),
    "soccer_juggling": Sport(_juggling, 1.2, (150, 155, 165), (75, 140, 70)),
    "swing": Sport(_swing, 0.8, (85, 135, 80), (150, 115, 80)),
    "tennis_swing": Sport(_tennis, 0.6, (55, 100, 75), (185, 95, 65)),
    "trampoline_jumping": Sport(_trampoline, 0.75, (190, 200, 215), (120, 155, 85)),
    "volleyball_spiking": Sport(_volleyball, 0.45, (110, 175, 215), (220, 200, 150)),
    "walking": Sport(_walking, 1.0, (165, 100, 85), (155, 155, 150)),
}
"""The classes of UCF-11."""
USUAL = 0.6
"""How much a place has the colours usual for its sport; the rest is the group's own."""


def _colour(rng: np.random.Generator, low: int = 30, high: int = 225) -> Colour:
    red, green, blue = rng.integers(low, high, 3).tolist()
    return red, green, blue


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (int(np.clip(round(each * factor), 0, 255)) for each in colour)
    return red, green, blue


def look_of(seed: int, class_name: str, group: int) -> Look:
    """Return the look of one group of a class."""
    rng = seeds.numpy_generator(seed, "video", "synthetic", "look", class_name, group)
    skin = _shade((224, 172, 130), rng.uniform(0.45, 1.1))
    animal = _shade((150, 105, 70), rng.uniform(0.4, 1.5))
    return Look(
        background=_background(rng, SPORTS[class_name]),
        skin=skin,
        shirt=_colour(rng),
        trousers=_colour(rng, 20, 160),
        thing=_colour(rng),
        animal=animal,
        scale=rng.uniform(0.75, 1.1),
        shift=rng.uniform(-0.12, 0.12),
        mirrored=bool(rng.integers(2)),
        speed=rng.uniform(0.8, 1.25),
        rate=RATES[rng.integers(len(RATES))],
        shake=rng.uniform(0.0, 2.5),
        pan=rng.uniform(0.0, 14.0),
        girth=rng.uniform(0.8, 1.25),
    )


def _background(rng: np.random.Generator, sport: Sport) -> codec.Image:
    """A place: sky or wall above, ground below, coarse texture, a few bushes and boxes."""
    height, width = HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN
    horizon = MARGIN + round(HEIGHT * rng.uniform(0.5, 0.8))
    above = USUAL * np.array(sport.above) + (1 - USUAL) * np.array(_colour(rng, 60, 240))
    below = USUAL * np.array(sport.below) + (1 - USUAL) * np.array(_colour(rng, 40, 200))
    fade = np.linspace(0.75, 1.15, height)[:, None, None]
    picture = np.where(np.arange(height)[:, None, None] < horizon, above * fade, below * fade[::-1])
    picture = np.broadcast_to(picture, (height, width, 3)).astype(np.float32)
    for cells, strength in ((6, 22), (40, rng.uniform(4, 16))):
        field = rng.normal(0, strength, (cells, cells, 1)).astype(np.float32)
        picture = picture + codec.enlarge(field, height, width)[:, :, None]
    image = np.ascontiguousarray(np.clip(picture, 0, 255), dtype=np.uint8)
    for _ in range(rng.integers(3, 9)):
        x, size = rng.uniform(0, width), rng.uniform(12, 50)
        colour = _shade(_colour(rng, 40, 200), 0.9)
        if rng.random() < 0.5:
            codec.disc(image, (x, horizon - 0.6 * size), size, colour)
        else:
            top = horizon - rng.uniform(0.5, 2.2) * size
            corners = np.array([[x - size, top], [x + size, top], [x + size, horizon + 4], [x - size, horizon + 4]])
            codec.polygon(image, corners, colour)
    soft = codec.blur(image.astype(np.float32), rng.uniform(0.6, 2.0))
    return np.clip(soft, 0, 255).astype(np.uint8)


def render(seed: int, class_name: str, group: int, clip: int) -> tuple[float, Iterator[codec.Image]]:
    """Return the frame rate and the frames of one clip.

    Args:
        seed: root of the seed tree.
        class_name: one of :data:`SPORTS`.
        group: its group, from 1.
        clip: its number in the group, from 1.
    """
    look = look_of(seed, class_name, group)
    rng = seeds.numpy_generator(seed, "video", "synthetic", "clip", class_name, group, clip)
    sport = SPORTS[class_name]
    length, start = rng.uniform(SHORTEST, LONGEST) * rng.uniform(0.6, 1.0), rng.uniform(0, 40)
    length = max(SHORTEST, length)
    pace, swing = sport.pace * look.speed * rng.uniform(0.92, 1.08), rng.uniform(0.05, 0.2)
    trembles = rng.normal(0, look.shake, (round(length * look.rate), 2))

    def frames() -> Iterator[codec.Image]:
        for number, (dx, dy) in enumerate(trembles.tolist()):
            time = number / look.rate
            camera = (
                float(np.clip(look.pan * _wave(swing * time + start) + dx, 1 - MARGIN, MARGIN - 1)),
                float(np.clip(0.4 * look.pan * _wave(0.7 * swing * time) + dy, 1 - MARGIN, MARGIN - 1)),
            )
            left, top = round(MARGIN + camera[0]), round(MARGIN + camera[1])
            image = look.background[top : top + HEIGHT, left : left + WIDTH].copy()
            sport.draw(Pencil(image, look, (MARGIN - left, MARGIN - top)), start + pace * time)
            yield image

    return look.rate, frames()


@dataclass(frozen=True)
class _Job:
    seed: int
    class_name: str
    group: int
    clip: int
    destination: Path


def _write(job: _Job) -> None:
    rate, frames = render(job.seed, job.class_name, job.group, job.clip)
    codec.write(job.destination, frames, rate)
    executor.progress(1)


def generate(root: Path, seed: int, groups: int, clips: int) -> list[Video]:
    """Write the videos below ``root`` and return them; equal arguments give equal bytes, however many workers.

    Args:
        root: the folder.
        seed: root of the seed tree.
        groups: groups per class.
        clips: clips per group.

    Raises:
        OSError: the disk is full or read-only.
    """
    jobs, videos = [], []
    for class_name, prefix in UCF11.items():
        for group in range(1, groups + 1):
            for clip in range(1, clips + 1):
                place = ucf11_place(f"{class_name}/{prefix}_{group:02d}/{prefix}_{group:02d}_{clip:02d}.mpg")
                if place is None:
                    raise RuntimeError("the generator's own names do not follow UCF-11's layout")
                videos.append(ucf11_video(place))
                jobs.append(_Job(seed, class_name, group, clip, root / place))
    for _ in executor.run(_write, jobs, total=len(jobs), label="render videos"):
        pass
    return videos
