"""A small stand-in for UCF-11: drawn people do the eleven sports, in UCF-11's own folders, names and codec.

Classes differ by what is done (how limbs, balls, animals and equipment move) and with what; nothing is written into the
picture. Groups differ by place, light, clothes, build, side, speed and camera. A sport has its usual colours of sky and
ground, but only in part, so that whoever learns the places fails on new groups.
"""

import math
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from pipeline.common import jobs, records, seeds
from pipeline.video.acquire import folder, ucf11
from pipeline.video.frames import codec
from pipeline.video.frames.codec import Colour

WIDTH, HEIGHT = 320, 240
RATES = (25.0, 30_000 / 1001)
SHORTEST, LONGEST = 3.0, 10.0  # seconds; the shortest are too short for seven frames at 1.4 per second, as in UCF-11
MARGIN = 28  # pixels that the camera can stray
GROUND = 0.86  # height of the ground; the picture spans 0 (top) to 1 (bottom), and -2/3 (left) to 2/3 (right)
USUAL = 0.6  # how much a place has the colours usual for its sport; the rest is the group's own

Spot = tuple[float, float]
_TURN = 2 * math.pi
_HIP = GROUND - 0.24
_STRIPE, _WOOD, _DARK = (235, 235, 235), (120, 85, 55), (40, 40, 45)
_STANDING = (0.05, -0.05), (-0.05, -0.1)  # legs


def _reach(start: Spot, angle: float, length: float) -> Spot:
    """The end of a limb; angle 0 points down, positive forward (right)."""
    return start[0] + length * math.sin(angle), start[1] + length * math.cos(angle)


def _wave(cycle: float) -> float:
    """A swing to and fro: 0 at whole cycles."""
    return math.sin(_TURN * cycle)


def _hop(cycle: float) -> float:
    """A thrown thing's height: 0 at whole cycles, 1 half-way."""
    return 4 * (cycle % 1) * (1 - cycle % 1)


def _ramp(value: float) -> float:
    """The value, between 0 and 1."""
    return max(0.0, min(1.0, value))


class Scene:
    """Draws one frame in coordinates of its own; each sport is a method of ``c``, the cycle that it is in."""

    def __init__(self, image: codec.Image, look: "Look", offset: Spot) -> None:
        self.image, self.look, self.offset = image, look, offset

    def draw(self, colour: Colour, width: float, *spots: Spot, radius: float = 0.0) -> None:
        """Draw segments of a width, a polygon without one, or a disc (its outline) of a radius; in scene units."""
        look, (left, top), size = self.look, self.offset, self.look.scale * HEIGHT
        across = [look.side * (x * look.scale + look.shift) * HEIGHT + WIDTH / 2 + left for x, _ in spots]
        down = [(GROUND + (y - GROUND) * look.scale) * HEIGHT + top for _, y in spots]
        codec.draw(self.image, [*zip(across, down, strict=True)], colour, width * size, radius * size)

    def person(self, hip: Spot, arms: tuple[Spot, Spot], legs: tuple[Spot, Spot], lean: float = 0.0) -> Spot:
        """Draw a person and return where the first hand is.

        Angles of upper arms and forearms, thighs and shins: 0 hangs down, positive swings forward; of the trunk: 0 is
        upright, positive leans forward.
        """
        look = self.look
        neck = _reach(hip, math.pi - lean, 0.20)
        for thigh, shin in legs:
            knee = _reach(hip, thigh, 0.12)
            self.draw(look.trousers, 0.045 * look.girth, hip, knee, _reach(knee, shin, 0.12))
        self.draw(look.shirt, 0.075 * look.girth, hip, neck)
        hands = []
        for upper, fore in arms:
            elbow = _reach(neck, upper, 0.10)
            hands.append(_reach(elbow, fore, 0.09))
            self.draw(look.shirt, 0.035 * look.girth, neck, elbow)
            self.draw(look.skin, 0.03 * look.girth, elbow, hands[-1])
        self.draw(look.skin, 0, _reach(neck, math.pi - lean, 0.055), radius=0.042)
        return hands[0]

    def beast(self, back: Spot, size: float, cycle: float, stride: float) -> None:
        """Draw a four-legged animal; ``back`` is the middle of its trunk."""
        colour, (x, y) = self.look.animal, back
        for at, phase in ((-0.5, 0.0), (-0.42, 0.3), (0.42, 0.5), (0.5, 0.8)):
            swing = stride * _wave(cycle + phase)
            knee = _reach((x + at * size, y), swing, 0.35 * size)
            self.draw(colour, 0.09 * size, (x + at * size, y), knee, _reach(knee, swing - 0.4, 0.35 * size))
        self.draw(colour, 0.3 * size, (x - 0.45 * size, y), (x + 0.45 * size, y))
        head = (x + 0.85 * size, y - 0.45 * size + 0.04 * size * _wave(cycle))
        self.draw(colour, 0.16 * size, (x + 0.5 * size, y - 0.05 * size), head)
        self.draw(colour, 0.13 * size, head, (head[0] + 0.2 * size, head[1] + 0.12 * size))
        self.draw(colour, 0.05 * size, (x - 0.5 * size, y), (x - 0.8 * size, y + 0.2 * size * _wave(cycle / 2)))

    def _basketball(self, c: float) -> None:
        part = c % 1
        self.draw(_DARK, 0.02, (0.46, GROUND), (0.46, 0.22))
        self.draw(_STRIPE, 0, (0.42, 0.12), (0.45, 0.12), (0.45, 0.32), (0.42, 0.32))
        self.draw((220, 60, 30), 0.015, (0.42, 0.29), (0.32, 0.29))
        self.draw(_STRIPE, 0.006, (0.42, 0.29), (0.39, 0.38), (0.35, 0.38), (0.32, 0.29))
        raised = 2.6 * min(1, 2.5 * part) if part < 0.7 else 2.6 * (1 - part) / 0.3
        hip, legs = (-0.25, _HIP + 0.05 * _hop(min(1, 2.5 * part))), ((0.5, -0.4), (0.4, -0.5))
        hand = self.person(hip, ((raised, raised + 0.3),) * 2, _STANDING if part > 0.4 else legs)
        fly = (part - 0.4) / 0.6
        ball = hand if fly < 0 else (-0.1 + 0.47 * fly, 0.42 - 0.13 * fly - 0.22 * _hop(fly))
        self.draw((215, 110, 40), 0, ball, radius=0.045)

    def _biking(self, c: float) -> None:
        x, y = 0.45 * _wave(c / 5), GROUND - 0.12
        back, front, crank = (x - 0.16, y), (x + 0.16, y), (x - 0.02, y)
        for centre in (back, front):
            self.draw(_DARK, 0.0085, centre, radius=0.11)  # two pixels wide
            for turn in (-2 * c * _TURN + k * _TURN / 6 for k in range(3)):  # spokes
                self.draw(_DARK, 0.004, _reach(centre, turn + math.pi, 0.11), _reach(centre, turn, 0.11))
        self.draw(self.look.thing, 0.016, back, crank, (x + 0.11, y - 0.15), (x - 0.07, y - 0.15), crank)
        self.draw(self.look.thing, 0.016, front, (x + 0.11, y - 0.19), (x + 0.16, y - 0.2))
        near, far = ((0.75 + 0.45 * _wave(c * 2 + k), -0.15 + 0.35 * _wave(c * 2 + k + 0.2)) for k in (0.0, 0.5))
        self.person((x - 0.08, y - 0.19), ((1.0, 1.2),) * 2, (near, far), lean=0.7)

    def _diving(self, c: float) -> None:
        part = c % 1
        self.draw((50, 120, 190), 0, (-0.9, 0.84), (0.9, 0.84), (0.9, 1.3), (-0.9, 1.3))
        for k in range(5):
            x = -0.7 + 0.3 * k + 0.05 * _wave(c + k / 3)
            self.draw((150, 200, 235), 0.008, (x, 0.88 + 0.02 * (k % 3)), (x + 0.15, 0.88 + 0.02 * (k % 3)))
        self.draw(_STRIPE, 0.025, (-0.62, 0.50), (-0.2, 0.50 + 0.02 * _wave(4 * c)))
        self.draw(_DARK, 0.03, (-0.56, 0.50), (-0.56, 0.88))
        if part < 0.3:
            self.person((-0.26, 0.26 + 0.02 * _wave(6 * part)), ((2.8, 2.9),) * 2, ((0.1, -0.1), (0.0, -0.1)))
        elif part < 0.8:
            fly = (part - 0.3) / 0.5
            turn, tuck = 3.4 * fly + 0.5, 1.8 * _hop(fly)
            hip = (-0.22 + 0.42 * fly, 0.26 - 0.1 * _hop(fly) + 0.56 * fly)
            self.person(hip, ((math.pi - turn + 0.2,) * 2, (math.pi - turn,) * 2),
                        ((tuck - turn, -turn - 0.3 * tuck), (tuck - turn, -turn)), lean=turn)  # fmt: skip
        else:
            top = 0.86 - 0.14 * _hop((part - 0.8) * 5)
            for k in range(-3, 4):
                self.draw(_STRIPE, 0.012, (0.22 + 0.02 * k, 0.86), (0.22 + 0.06 * k, top))

    def _golf(self, c: float) -> None:
        part = c % 1
        swing = 0.2 - 2.6 * _hop(part / 0.6) * (part < 0.6) + (2.6 * _hop((part - 0.5) / 1.0) if part > 0.6 else 0.0)
        self.draw(_STRIPE, 0.008, (0.5, GROUND), (0.5, 0.5))
        self.draw((220, 50, 50), 0, (0.5, 0.5), (0.6, 0.53), (0.5, 0.57))
        hand = self.person((-0.2, _HIP), ((swing + 0.3, swing + 0.2), (swing + 0.2, swing + 0.2)), _STANDING, lean=0.35)
        head = _reach(hand, swing * 1.3 + 0.25, 0.27)
        self.draw(_DARK, 0.012, hand, head)
        self.draw(_DARK, 0, head, radius=0.02)
        fly = max(0.0, part - 0.6) / 0.4
        self.draw((250, 250, 250), 0, (0.0 + 0.8 * fly, GROUND - 0.01 - 0.5 * fly), radius=0.014)

    def _riding(self, c: float) -> None:
        x, y = 0.35 * _wave(c / 6), GROUND - 0.27 - 0.04 * abs(_wave(c))
        self.beast((x, y), 0.36, c, 0.7)
        for post in (-0.75 + 0.45 * k for k in range(4)):
            self.draw(_WOOD, 0.02, (post, GROUND - 0.18), (post, GROUND + 0.02))
        self.draw(_WOOD, 0.018, (-1.0, GROUND - 0.12), (1.0, GROUND - 0.12))
        self.person((x - 0.04, y - 0.07), ((0.8, 1.3),) * 2, ((0.5, -0.2), (0.4, -0.3)), lean=0.15 + 0.15 * _wave(c))

    def _juggling(self, c: float) -> None:
        kick = max(0.0, math.cos(_TURN * c)) ** 3
        legs = ((0.1 + 0.9 * kick, -0.1 + 0.7 * kick), (-0.08, -0.08))
        self.person((-0.03, _HIP), ((-0.6, 0.1), (0.7, 0.9)), legs, lean=-0.1)
        ball = (0.17 + 0.02 * _wave(c / 3), GROUND - 0.14 - 0.3 * _hop(c))
        self.draw((245, 245, 245), 0, ball, radius=0.04)
        self.draw(_DARK, 0, ball, radius=0.016)

    def _swinging(self, c: float) -> None:
        self.draw(_WOOD, 0.025, (-0.4, GROUND), (-0.28, 0.08), (0.28, 0.08), (0.4, GROUND))
        for foot, top in ((-0.2, -0.28), (0.2, 0.28)):
            self.draw(_WOOD, 0.025, (foot, GROUND), (top, 0.08))
        angle = 0.85 * _wave(c / 2)
        seat = _reach((0.0, 0.08), angle, 0.56)
        for side in (-0.03, 0.03):
            self.draw(_DARK, 0.007, (side, 0.08), (seat[0] + side, seat[1]))
        pump = 0.7 * math.cos(_TURN * c / 2)
        self.person(seat, ((2.4, 2.6),) * 2, ((1.4 + angle, 0.5 + pump + angle),) * 2, lean=-angle - 0.35 * pump)
        self.draw(_DARK, 0.018, (seat[0] - 0.06, seat[1] + 0.02), (seat[0] + 0.06, seat[1] + 0.02))

    def _tennis(self, c: float) -> None:
        part = c % 1
        self.draw(_STRIPE, 0.008, (-0.9, GROUND + 0.06), (0.9, GROUND + 0.06))
        self.draw((70, 75, 80), 0, (0.40, GROUND - 0.2), (0.43, GROUND - 0.2), (0.43, GROUND), (0.40, GROUND))
        self.draw(_STRIPE, 0.015, (0.40, GROUND - 0.2), (0.43, GROUND - 0.2))
        blow = -1.6 + 3.6 * _ramp((part - 0.3) / 0.25) - 3.6 * max(0.0, (part - 0.75) / 0.25)
        hip, swing = (-0.25 + 0.12 * _wave(c / 2), _HIP), 0.45 * _wave(c)
        legs = (swing + 0.05, swing - 0.05), (-swing - 0.05, -swing - 0.1)
        hand = self.person(hip, ((blow, blow + 0.3), (0.9, 1.3)), legs, lean=0.2)
        face = _reach(hand, blow + 0.4, 0.16)
        self.draw(_DARK, 0.014, hand, face)
        self.draw((205, 205, 160), 0, face, radius=0.058)
        self.draw(self.look.thing, 0, face, radius=0.046)
        fly = (part + 0.55) % 1
        ball = (0.85 - 1.0 * 2 * fly if fly < 0.5 else -0.15 + 2.0 * (fly - 0.5), 0.52 - 0.12 * _hop(2 * fly))
        self.draw((210, 240, 60), 0, ball, radius=0.022)

    def _trampoline(self, c: float) -> None:
        height = _hop(c)
        sag = 0.03 * max(0.0, 1 - 4 * height)
        for x in (-0.36, -0.12, 0.12, 0.36):
            self.draw(_DARK, 0.014, (x, GROUND - 0.1), (x, GROUND + 0.02))
        circle = [(math.cos(angle), math.sin(angle)) for angle in np.linspace(0, _TURN, 24).tolist()]
        self.draw(self.look.thing, 0, *((0.42 * x, GROUND - 0.1 + 0.05 * y) for x, y in circle))
        self.draw((25, 25, 30), 0, *((0.36 * x, GROUND - 0.1 + sag + 0.035 * y) for x, y in circle))
        hip = (0.03 * _wave(c / 3), GROUND - 0.33 + sag - 0.26 * height)
        spread = 0.5 * height
        self.person(hip, ((0.5 + 2 * height, 0.6 + 2.2 * height), (-0.5 - 2 * height, -0.6 - 2.2 * height)),
                    ((spread, spread - 0.2), (-spread, -spread + 0.1)))  # fmt: skip

    def _volleyball(self, c: float) -> None:
        part = c % 1
        self.draw(_DARK, 0.022, (0.2, GROUND), (0.2, 0.34))
        for k in range(6):
            self.draw(_STRIPE, 0.006, (0.2, 0.36 + 0.04 * k), (0.62, 0.34 + 0.04 * k))
        for k in range(8):
            self.draw(_STRIPE, 0.005, (0.2 + 0.06 * k, 0.355), (0.2 + 0.06 * k, 0.555))
        jump = _hop(_ramp((part - 0.25) / 0.55))
        strike = 3.6 - 2.6 * _ramp((part - 0.5) / 0.12)
        x = -0.42 + 0.3 * min(1.0, part / 0.5)
        arm = strike if jump > 0.05 else 0.4 * _wave(2 * c)
        self.person((x, _HIP - 0.2 * jump), ((arm, arm - 0.1), (1.8 * jump + 0.3, 2.0 * jump + 0.3)),
                    ((-0.6 * jump, -1.0 * jump), (-0.2 * jump + 0.1, -0.8 * jump)), lean=0.1)  # fmt: skip
        fly = (part - 0.55) / 0.45
        ball = (0.02 + 0.9 * fly, 0.25 + 0.7 * fly) if fly > 0 else (0.45 + 0.78 * fly, 0.25 + 0.12 * fly)
        self.draw((245, 240, 200), 0, ball, radius=0.042)

    def _walking(self, c: float) -> None:
        x, stride = 0.4 * _wave(c / 8), 0.5 * _wave(c)
        legs = ((stride, stride - 0.25 * (stride < 0)), (-stride, -stride - 0.25 * (stride > 0)))
        hand = self.person((x - 0.12, _HIP - 0.01 * abs(_wave(c))), ((0.5, 0.9), (stride, stride + 0.2)), legs)
        self.beast((x + 0.26, GROUND - 0.11), 0.16, 2 * c, 0.5)
        self.draw((180, 40, 40), 0.006, hand, (x + 0.36, GROUND - 0.18))


SPORTS: dict[str, tuple[Callable[[Scene, float], None], float, Colour, Colour]] = {
    "basketball": (Scene._basketball, 0.45, (205, 190, 165), (190, 125, 70)),
    "biking": (Scene._biking, 0.9, (150, 190, 230), (105, 105, 110)),
    "diving": (Scene._diving, 0.4, (175, 215, 225), (120, 160, 180)),
    "golf_swing": (Scene._golf, 0.4, (165, 205, 240), (95, 165, 75)),
    "horse_riding": (Scene._riding, 1.4, (110, 150, 100), (200, 175, 125)),
    "soccer_juggling": (Scene._juggling, 1.2, (150, 155, 165), (75, 140, 70)),
    "swing": (Scene._swinging, 0.8, (85, 135, 80), (150, 115, 80)),
    "tennis_swing": (Scene._tennis, 0.6, (55, 100, 75), (185, 95, 65)),
    "trampoline_jumping": (Scene._trampoline, 0.75, (190, 200, 215), (120, 155, 85)),
    "volleyball_spiking": (Scene._volleyball, 0.45, (110, 175, 215), (220, 200, 150)),
    "walking": (Scene._walking, 1.0, (165, 100, 85), (155, 155, 150)),
}
"""What draws a class at a given cycle, cycles per second, usual colours of the sky (or wall) and of the ground."""


def _colour(rng: np.random.Generator, low: int = 30, high: int = 225) -> Colour:
    return tuple(rng.integers(low, high, 3).tolist())


def _shade(colour: Colour, factor: float) -> Colour:
    return tuple(int(np.clip(round(part * factor), 0, 255)) for part in colour)


class Look:
    """What the clips of one group share: drawn in this order, which decides every video."""

    def __init__(self, seed: int, class_name: str, group: int) -> None:
        rng = seeds.numpy_generator(seed, "video", "synthetic", "look", class_name, group)
        self.skin = _shade((224, 172, 130), rng.uniform(0.45, 1.1))
        self.animal = _shade((150, 105, 70), rng.uniform(0.4, 1.5))
        self.background = _background(rng, *SPORTS[class_name][2:])  # larger than a frame by MARGIN on every side
        self.shirt, self.trousers, self.thing = _colour(rng), _colour(rng, 20, 160), _colour(rng)
        self.scale, self.shift = rng.uniform(0.75, 1.1), rng.uniform(-0.12, 0.12)  # of the action: size; to the right
        self.side = -1 if rng.integers(2) else 1  # -1: it goes to the left
        self.speed = rng.uniform(0.8, 1.25)  # cycles per second relative to the sport's usual
        self.rate = RATES[rng.integers(len(RATES))]  # frames per second
        self.shake, self.pan = rng.uniform(0.0, 2.5), rng.uniform(0.0, 14.0)  # pixels that the camera trembles, swings
        self.girth = rng.uniform(0.8, 1.25)  # thickness of limbs


def _background(rng: np.random.Generator, sky: Colour, ground: Colour) -> codec.Image:
    """A place: sky or wall above, ground below, coarse texture, a few bushes and boxes."""
    height, width = HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN
    horizon = MARGIN + round(HEIGHT * rng.uniform(0.5, 0.8))
    above = USUAL * np.array(sky) + (1 - USUAL) * np.array(_colour(rng, 60, 240))
    below = USUAL * np.array(ground) + (1 - USUAL) * np.array(_colour(rng, 40, 200))
    fade = np.linspace(0.75, 1.15, height)[:, None, None]
    column = np.where(np.arange(height)[:, None, None] < horizon, above * fade, below * fade[::-1])
    picture = np.broadcast_to(column, (height, width, 3)).astype(np.float32)
    for cells, strength in ((6, 22), (40, rng.uniform(4, 16))):
        field = rng.normal(0, strength, (cells, cells, 1)).astype(np.float32)
        picture = picture + codec.enlarge(field, height, width)[:, :, None]
    image = np.ascontiguousarray(np.clip(picture, 0, 255), np.uint8)
    for _ in range(rng.integers(3, 9)):
        x, size = rng.uniform(0, width), rng.uniform(12, 50)
        colour = _shade(_colour(rng, 40, 200), 0.9)
        if rng.random() < 0.5:
            codec.draw(image, [(x, horizon - 0.6 * size)], colour, radius=size)
        else:
            top = horizon - rng.uniform(0.5, 2.2) * size
            corners = [(x - size, top), (x + size, top), (x + size, horizon + 4), (x - size, horizon + 4)]
            codec.draw(image, corners, colour)
    return np.clip(codec.blur(image.astype(np.float32), rng.uniform(0.6, 2.0)), 0, 255).astype(np.uint8)


class Clip(NamedTuple):
    """A video to draw; groups, and clips of a group, count from 1."""

    seed: int
    class_name: str
    group: int
    number: int

    @property
    def path(self) -> PurePosixPath:
        """Its place, in UCF-11's folders and names."""
        group = f"{ucf11.CLASSES[self.class_name]}_{self.group:02d}"
        return PurePosixPath(self.class_name, group, f"{group}_{self.number:02d}.mpg")


def frames(clip: Clip, look: Look) -> Iterator[codec.Image]:
    """Yield the pictures of a clip, ``look.rate`` per second."""
    draw, pace, *_ = SPORTS[clip.class_name]
    rng = seeds.numpy_generator(clip.seed, "video", "synthetic", "clip", clip.class_name, clip.group, clip.number)
    length = max(SHORTEST, rng.uniform(SHORTEST, LONGEST) * rng.uniform(0.6, 1.0))
    start, pace, swing = rng.uniform(0, 40), pace * look.speed * rng.uniform(0.92, 1.08), rng.uniform(0.05, 0.2)
    for number, tremble in enumerate(rng.normal(0, look.shake, (round(length * look.rate), 2))):
        time = number / look.rate
        pan = np.array([look.pan * _wave(swing * time + start), 0.4 * look.pan * _wave(0.7 * swing * time)])
        left, top = (round(MARGIN + x) for x in np.clip(pan + tremble, 1 - MARGIN, MARGIN - 1).tolist())
        image = look.background[top : top + HEIGHT, left : left + WIDTH].copy()
        draw(Scene(image, look, (MARGIN - left, MARGIN - top)), start + pace * time)
        yield image


def film(clip: Clip) -> bytes:
    """Return the content of the clip's file."""
    look = Look(clip.seed, clip.class_name, clip.group)
    content = codec.encode_video(frames(clip, look), look.rate)
    jobs.progress(1)
    return content


def acquire(staging: Path, seed: int, groups: int, clips: int) -> folder.Acquired:
    """Draw that many clips of that many groups of each class: the same bytes, however many workers there are."""
    work = [Clip(seed, *place) for place in product(ucf11.CLASSES, range(1, groups + 1), range(1, clips + 1))]
    for number, content in jobs.run(film, work, total=len(work), label="draw videos"):
        records.write_bytes(staging / "videos" / work[number].path, content)
    note = "drawn videos: nothing computed from them says anything about real ones"
    return folder.Acquired([ucf11.video_at(clip.path) for clip in work], {"seed": seed, "note": note})
