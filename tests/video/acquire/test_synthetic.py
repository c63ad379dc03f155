"""Drawn videos: alike within a group, different between groups, and in UCF-11's own form."""

import itertools
import os

import numpy as np
import pytest

from pipeline.common import paths
from pipeline.video import layout
from pipeline.video.acquire import synthetic, ucf11
from pipeline.video.acquire.synthetic import Clip
from pipeline.video.frames import codec
from tests.video.test_codec import limit


def first(class_name, group, clip, count=40, seed=1):
    look = synthetic.Look(seed, class_name, group)
    return np.stack(list(itertools.islice(synthetic.frames(Clip(seed, class_name, group, clip), look), count)))


@pytest.mark.parametrize("class_name", list(ucf11.CLASSES))
def test_every_sport_moves_and_its_groups_differ(class_name):
    frames = first(class_name, 3, 1)
    assert frames.shape[1:] == (240, 320, 3)
    moved = (np.abs(frames[0].astype(int) - frames[20].astype(int)).max(-1) > 30).mean()
    assert 0.001 < moved < 0.9
    assert not np.array_equal(frames[:10], first(class_name, 3, 1, 10, seed=2))
    colours = [first(class_name, group, 1, 10).mean((0, 1, 2)) for group in range(1, 5)]
    within = np.abs(colours[0] - first(class_name, 1, 2, 10).mean((0, 1, 2))).max()
    assert within < 0.5 * np.abs(np.diff(colours, axis=0)).max()


def test_lengths_and_rates_vary_as_in_ucf11():
    assert list(synthetic.SPORTS) == list(ucf11.CLASSES)
    looks = {name: synthetic.Look(1, name, group) for group, name in enumerate(ucf11.CLASSES, 1)}
    count = {name: sum(1 for _ in synthetic.frames(Clip(1, name, 1, 1), look)) for name, look in looks.items()}
    seconds = [count[name] / look.rate for name, look in looks.items()]
    assert {look.rate for look in looks.values()} == set(synthetic.RATES)
    assert synthetic.SHORTEST - 0.05 <= min(seconds) < max(seconds) - 1.5
    assert max(seconds) <= synthetic.LONGEST


def test_videos_are_drawn_again_to_the_byte_or_not_at_all(run, monkeypatch):
    monkeypatch.setattr(synthetic, "SHORTEST", 0.2)
    monkeypatch.setattr(synthetic, "LONGEST", 0.5)
    with limit(4096), pytest.raises(OSError, match="expected room for"):
        run("synthetic")
    assert not paths.raw("video").exists()
    contents = []
    for _ in range(2):
        run("synthetic", 3, synthetic_groups=2, synthetic_clips=1)
        videos = layout.load(layout.INDEX)
        contents.append([(layout.CLIPS / video.path).read_bytes() for video in videos])
    assert contents[0] == contents[1]
    assert len({(video.class_name, video.group) for video in videos}) == len(set(contents[0])) == 22
    assert {video.class_name for video in videos} == set(ucf11.CLASSES)
    assert os.listdir(paths.CHECKPOINTS) == []  # noqa: PTH208 - what lies in it, not where
    assert {codec.scan(layout.CLIPS / video.path).codec for video in videos} == {"mpg1"}
