"""Videos in the layouts that are understood, and drawn ones; what looks wrong is said before any work."""

import itertools

import numpy as np
import pytest

from pipeline.common import paths, records
from pipeline.video import layout
from pipeline.video.acquire import synthetic, ucf11
from pipeline.video.acquire.synthetic import Clip
from pipeline.video.frames import codec
from pipeline.video.layout import LayoutError

UCF = ["a/v_g01_c01.mp4", "a/v_g02_c01.mp4", "b/v_g01_c01.mp4", "b/v_g01_c02.mp4"]
NAMED = ["run/anna-1.mp4", "run/ben-1.mp4", "jump/anna-1.mp4", "jump/anna-2.mp4"]


@pytest.fixture
def mine(tmp_path, run):
    """Acquire from a folder with these files, each of which holds its own name unless its content is given."""

    def acquire(*names, content=None, **settings):
        (tmp_path / "mine").mkdir(exist_ok=True)
        for name in names:
            records.write_bytes(tmp_path / "mine" / name, (content or {}).get(name, name.encode()))
        return run("folder", folder=str(tmp_path / "mine"), **settings)

    return acquire


def listed():
    return [(video.path, video.class_name, video.group) for video in layout.load(layout.INDEX)]


def test_both_layouts(mine):
    record = mine("run/anna/one.mp4", "run/ben/two.MOV", "jump/v_Jump_g03_c01.avi", "jump/x_12_4.mp4", "run/notes.txt",
                  "run/.hidden_1.mp4", "jump/x_12_5.mp4")  # fmt: skip
    paths, classes, groups = zip(*listed(), strict=True)
    wanted = "jump/v_Jump_g03_c01.avi jump/x_12_4.mp4 jump/x_12_5.mp4 run/anna/one.mp4 run/ben/two.MOV"
    assert (paths, groups) == (tuple(wanted.split()), ("03", "12", "12", "anna", "ben"))
    assert classes == tuple(path.split("/")[0] for path in paths)
    assert all((layout.CLIPS / path).read_text() == path for path, *_ in listed())
    assert (record["files_ignored"], record["warnings"], record["folder"]) == (2, [], "mine")
    assert record["classes"] == {"jump": {"clips": 3, "groups": 2}, "run": {"clips": 2, "groups": 2}}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one video"),
        (["a/x_1.mp4", "a/x_1.avi"], "one file per video"),
        (["a/b/c/d_1.mp4"], r"class/group/clip.*a/b/c/d_1.*the folder in which the folders of the classes lie"),
        (NAMED, r"group_pattern.* 4 other.*anna-1"),
        ([f"set/{name}" for name in UCF], r"two classes.*found 1 class.*the folder in which the folders"),
        (["a/x_1.mp4", "b/x_1.mp4"], r"two groups in a class.*a/1, b/1.*group_pattern"),
        ([f"{side}/{name}" for side in ("train", "Test") for name in UCF], r"folders of classes, found Test, train"),
        ([f"{side}/a/b/{k}_1.mp4" for side in ("train", "val") for k in "xy"], r"classes, found train, val, the sides"),
        ([f"train/{name}" for name in UCF], r"found train, the sides of a split"),
        (["a/train/x.mp4", "a/test/y.mp4", "b/train/z.mp4"], r"folders of groups, found test, train"),
    ],
)
def test_trees_that_cannot_be_understood_say_why(mine, names, message):
    with pytest.raises(LayoutError, match=message):
        mine(*names)


def test_what_is_sound_or_was_there_before_stays(mine, run):
    record = mine(*UCF, "train/v_g01_c01.mp4", "train/v_g02_c01.mp4")
    assert set(record["classes"]) == {"a", "b", "train"}, "one class may be called like a side"
    assert record["warnings"] == ["no split by group for classes with one group, such as b"]
    before = listed()
    with pytest.raises(LayoutError):
        mine("a/b/c/d_1.mp4")
    with pytest.raises(FileNotFoundError, match=r"video\.acquire\.folder"):
        run("folder")
    assert listed() == before


def test_equal_videos_in_two_classes_are_refused_and_in_two_groups_counted(mine, capsys):
    record = mine(*UCF, content={UCF[1]: b"same", UCF[0]: b"same"})
    assert record["warnings"][-1] == f"1 video(s) with equal content in two groups: {UCF[0]} = {UCF[1]}"
    assert f"video: warning: {record['warnings'][-1]}" in capsys.readouterr().out
    with pytest.raises(LayoutError, match=f"one class, found 1 with equal content in two, such as {UCF[0]} = {UCF[3]}"):
        mine(*UCF, content=dict.fromkeys((UCF[0], UCF[3]), b"same"))


def test_groups_follow_a_rule_and_doubtful_ones_are_shown(mine):
    film = "brush/April_09_brush_hair_goo"
    record = mine(*(f"{film}_{k}.avi" for k in range(3)), *(f"wheel/Turnk_r_Pippi_{k}.avi" for k in range(3)))
    assert record["warnings"] == [
        f"video.acquire.group_pattern makes every clip a group of its own: {film}_0.avi is in group 0; "
        f"{film}_1.avi is in group 1; {film}_2.avi is in group 2"
    ]
    assert "takes" not in str(mine(*UCF)["warnings"])
    record = mine(*(f"brush/Other_film_{k}.avi" for k in range(3)))
    assert "seems to take the number of a cut for the group" in record["warnings"][-1]
    mine(*NAMED, group_pattern=r"^(\w+?)[-_]")
    assert {group for path, _, group in listed() if path in NAMED} == {"anna", "ben"}


def test_links_are_followed_and_broken_ones_counted(mine, tmp_path):
    records.write_bytes(tmp_path / "elsewhere" / "g5" / "x.mp4", b"x")
    (tmp_path / "mine" / "b").mkdir(parents=True)
    (tmp_path / "mine" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "mine" / "b" / "again").symlink_to(tmp_path / "mine")  # without end
    (tmp_path / "mine" / "b" / "v_g07_c01.mp4").symlink_to(tmp_path / "elsewhere" / "g5" / "x.mp4")
    (tmp_path / "mine" / "b" / "v_g08_c01.mp4").symlink_to(tmp_path / "nowhere")
    with pytest.raises(LayoutError, match=r"in two, such as b/v_g07_c01\.mp4 = c/g5/x\.mp4"):
        mine(*UCF)
    records.write_bytes(tmp_path / "mine" / "b" / "v_g07_c01.mp4", b"y")
    assert mine(*UCF)["files_ignored"] == 1
    assert ("c/g5/x.mp4", "c", "g5") in listed()


def test_a_damaged_list_is_named(tmp_path):
    content = {b"path,class,group\n../../x.mpg,a,1\n": "out of the folder", b"path,class\na/b.mpg,a\n": "other columns"}
    for text, message in content.items():
        (tmp_path / "index.csv").write_bytes(text)
        with pytest.raises(LayoutError, match=message):
            layout.load(tmp_path / "index.csv")


def first(class_name, group, clip, count=40, seed=1):
    look = synthetic.Look(seed, class_name, group)
    return np.stack(list(itertools.islice(synthetic.frames(Clip(seed, class_name, group, clip), look), count)))


@pytest.mark.parametrize("class_name", list(ucf11.CLASSES))
def test_every_sport_moves_and_its_groups_differ(class_name):
    frames = first(class_name, 3, 1)
    moved = (np.abs(frames[0].astype(int) - frames[20].astype(int)).max(-1) > 30).mean()
    assert 0.001 < moved < 0.9
    assert not np.array_equal(frames[:10], first(class_name, 3, 1, 10, seed=2))
    colours = [first(class_name, group, 1, 10).mean((0, 1, 2)) for group in range(1, 5)]
    within = np.abs(colours[0] - first(class_name, 1, 2, 10).mean((0, 1, 2))).max()
    assert within < 0.5 * np.abs(np.diff(colours, axis=0)).max()


def test_videos_are_drawn_again_to_the_byte(run, monkeypatch):
    monkeypatch.setattr(synthetic, "SHORTEST", 0.2)
    monkeypatch.setattr(synthetic, "LONGEST", 0.5)
    contents = []
    for _ in range(2):
        run("synthetic", 3, synthetic_groups=2, synthetic_clips=1)
        videos = layout.load(layout.INDEX)
        contents.append([(layout.CLIPS / video.path).read_bytes() for video in videos])
    assert contents[0] == contents[1]
    assert len({(video.class_name, video.group) for video in videos}) == len(set(contents[0])) == 22
    assert {video.class_name for video in videos} == set(ucf11.CLASSES)
    assert not list(paths.CHECKPOINTS.iterdir())
    assert {codec.scan(layout.CLIPS / video.path).codec for video in videos} == {"mpg1"}
