"""Drawn videos: alike within a group, different between groups, and in UCF-11's own form."""

import itertools

import numpy as np
import pytest

from pipeline.video import codec, synthetic
from pipeline.video.layout import UCF11


def first(class_name, group, clip, count=40, seed=1):
    return np.stack(list(itertools.islice(synthetic.render(seed, class_name, group, clip)[1], count)))


def test_the_classes_are_those_of_ucf11():
    assert list(synthetic.SPORTS) == list(UCF11)


@pytest.mark.parametrize("class_name", list(UCF11))
def test_every_sport_moves_and_can_be_drawn_again(class_name):
    frames = first(class_name, 3, 1)
    assert frames.shape[1:] == (240, 320, 3)
    assert np.array_equal(frames, first(class_name, 3, 1))
    still = synthetic.look_of(1, class_name, 3)
    assert still.rate in synthetic.RATES
    moved = (np.abs(frames[0].astype(int) - frames[20].astype(int)).max(-1) > 30).mean()
    assert 0.001 < moved < 0.9
    assert not np.array_equal(frames, first(class_name, 3, 1, seed=2))


def test_clips_of_a_group_look_alike_and_groups_differ():
    def colours(class_name, group, clip):
        return first(class_name, group, clip, 10).mean((0, 1, 2))

    for class_name in ("biking", "walking", "golf_swing"):
        within = np.abs(colours(class_name, 1, 1) - colours(class_name, 1, 2)).max()
        between = [
            np.abs(colours(class_name, a, 1) - colours(class_name, b, 1)).max() for a, b in ((1, 2), (2, 3), (3, 4))
        ]
        assert within < 0.5 * max(between)


def test_lengths_and_rates_vary_as_in_ucf11(tmp_path):
    seconds, rates = [], set()
    for group, class_name in enumerate(UCF11, 1):
        rate, frames = synthetic.render(1, class_name, group, 1)
        rates.add(rate)
        seconds.append(sum(1 for _ in frames) / rate)
    assert rates == set(synthetic.RATES)
    assert min(seconds) >= synthetic.SHORTEST - 0.05
    assert max(seconds) <= synthetic.LONGEST
    assert max(seconds) - min(seconds) > 1.5


def test_files_are_mpeg_1(tmp_path):
    rate, frames = synthetic.render(1, "swing", 2, 1)
    codec.write(tmp_path / "a.mpg", itertools.islice(frames, 20), rate)
    assert codec.scan(tmp_path / "a.mpg").codec == "mpg1"
    assert (tmp_path / "a.mpg").read_bytes()[:4] == b"\0\0\1\xba"
