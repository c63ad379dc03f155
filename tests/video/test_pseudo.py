"""Pseudo-clips: no image on both sides by images, images shared by chance, every fault of a file named."""

import json
import random
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline import params, paths, records
from pipeline.evaluation import evaluate
from pipeline.params import VideoAcquire, VideoClips
from pipeline.training import problem, train
from pipeline.video import acquire, clips, features, frames, pseudo
from stages import features as features_stage
from stages import frames as frames_stage

CLASSES = {"daisy": 40, "hat": 14, "rose": 25}


def columns(seed=0, counts=CLASSES):
    """Rows of a file: the vectors of a class have a mean of their own."""
    random = np.random.default_rng(seed)
    rows = [(name, f"{k}.jpg") for name, count in counts.items() for k in range(count)]
    means = {name: random.normal(size=2048) for name in counts}
    return {
        "class": [name for name, _ in rows],
        "image": [name for _, name in rows],
        "feature": [(means[name] + random.normal(size=2048)).astype(np.float32).tolist() for name, _ in rows],
    }


def schema(width=2048):
    """Columns of a file; a width of -1 is lists of any length."""
    return pa.schema([("class", pa.string()), ("image", pa.string()), ("feature", pa.list_(pa.float32(), width))])


def write(path, content=None, layout=None):
    records.write_table(path, pa.Table.from_pydict(content or columns(), schema=layout or schema()))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write(tmp_path_factory.mktemp("vectors") / "vectors.parquet")


@pytest.fixture(scope="module")
def images(source):
    return pseudo.read(source)


def make(images, seed=1, per_clip=7, **settings):
    return pseudo.make(images, VideoClips(**{"per_class": 30, **settings}), seed, per_clip)


def sides(found, split):
    """Rows of the pool on either side."""
    return (set(found.rows[split == side].flatten().tolist()) for side in ("train", "test"))


def test_images_are_read_as_they_are(images):
    made = columns()
    assert images.classes == ("daisy", "hat", "rose")
    assert images.copies == 0
    given = {(c, i): np.float32(v) for c, i, v in zip(*made.values(), strict=True)}
    for name, image, vector in zip(images.class_name, images.name, images.vectors, strict=True):
        assert np.array_equal(given[str(name), str(image)], vector.numpy())


@pytest.mark.parametrize("seed", range(5))
def test_a_clip_is_seven_different_images_of_its_class(images, seed):
    found = make(images, seed)
    assert found.rows.shape == (90, 7)
    assert all(len(set(row)) == 7 for row in found.rows.tolist())
    for label, row in zip(found.label, found.rows, strict=True):
        assert set(images.class_name[row].tolist()) == {found.classes[label]}
    assert make(images, seed, per_clip=3).rows.shape == (90, 3)


@pytest.mark.parametrize("seed", range(5))
def test_no_image_is_on_both_sides_of_the_split_by_images(images, seed):
    found = make(images, seed)
    train, test = sides(found, found.split_groups)
    assert not train & test
    assert set(found.group[found.split_groups == "test"].tolist()) == {"test images"}
    assert set(found.group[found.split_groups == "train"].tolist()) == {"training images"}


def test_the_random_split_leaks_images(images):
    found = make(images)
    train, test = sides(found, found.split_random)
    assert len(train & test) > 0.8 * len(test)
    both = set(found.group[found.split_random == "test"].tolist())
    assert both == {"training images", "test images"}


@pytest.mark.parametrize(("per_class", "fraction", "held_out"), [(30, 1 / 6, 5), (12, 0.5, 6), (2, 0.5, 1)])
def test_every_class_has_as_many_clips_on_each_side(images, per_class, fraction, held_out):
    found = make(images, per_class=per_class, test_fraction=fraction)
    for split in (found.split_groups, found.split_random):
        for label in range(3):
            own = split[found.label == label]
            assert (own == "test").sum() == held_out
            assert (own == "train").sum() == per_class - held_out


def test_clips_follow_the_seed(images):
    assert np.array_equal(make(images, 3).rows, make(images, 3).rows)
    assert not np.array_equal(make(images, 3).rows, make(images, 4).rows)
    assert (make(images, 3).split_random != make(images, 4).split_random).any()


def test_the_order_of_the_file_does_not_matter(images, tmp_path):
    made = columns()
    order = np.random.default_rng(1).permutation(len(made["class"]))
    other = pseudo.read(write(tmp_path / "x.parquet", {k: [v[i] for i in order] for k, v in made.items()}))
    assert torch.equal(other.vectors, images.vectors)
    assert np.array_equal(make(other).rows, make(images).rows)


def test_equal_vectors_are_one_image(tmp_path):
    made = columns()
    copied = {name: [*values, values[0], values[3]] for name, values in made.items()}
    copied["image"][-2:] = ["copy.jpg", "z.jpg"]
    copied["feature"][-1] = [-0.0 if value == 0 else value for value in copied["feature"][-1]]
    found = pseudo.read(write(tmp_path / "x.parquet", copied))
    assert (len(found), found.copies) == (sum(CLASSES.values()), 2)
    copied["class"][-1] = "rose"
    with pytest.raises(pseudo.VectorsError, match=r"daisy/3\.jpg and rose/z\.jpg"):
        pseudo.read(write(tmp_path / "x.parquet", copied))


@pytest.mark.parametrize(
    ("content", "layout", "message"),
    [
        (lambda: {"class": ["a"], "image": ["b"]}, schema().remove(2), "column 'feature' of lists.*no such column"),
        (lambda: {"image": ["b"]}, schema().remove(0).remove(1), "column 'class' of strings.*no such column"),
        (
            lambda: {"class": [1], "image": ["b"]},
            pa.schema([("class", pa.int32()), ("image", pa.string())]),
            "column 'class' of strings.*int32",
        ),
        (lambda: {"class": ["a"], "image": [None], "feature": [[0.0] * 2048]}, None, "image in every row.*row 0"),
        (lambda: {"class": ["a"], "image": ["b"], "feature": [None]}, schema(-1), "2048 numbers per image"),
        (lambda: {"class": ["a"], "image": ["b"], "feature": [[1.0] * 5]}, schema(5), r"2048 numbers.*\['5'\]"),
        (
            lambda: {"class": ["a"], "image": ["b"], "feature": [[1.0] * 2047 + [float("nan")]]},
            None,
            "finite numbers.*row 0",
        ),
        (lambda: {"class": [], "image": [], "feature": []}, None, "at least one image"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, content, layout, message):
    with pytest.raises(pseudo.VectorsError, match=message):
        pseudo.read(write(tmp_path / "x.parquet", content(), layout))


def test_files_that_are_not_there_or_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        pseudo.read(tmp_path / "x.parquet")
    (tmp_path / "x.parquet").write_bytes(b"PAR1" + b"\0" * 100)
    with pytest.raises(ValueError, match="damage"):
        pseudo.read(tmp_path / "x.parquet")


def test_clips_that_cannot_be_made_say_why(images):
    with pytest.raises(clips.ClipsError, match=r"at least 16 different images in each class.*hat has 14"):
        make(images, per_clip=8)
    with pytest.raises(clips.ClipsError, match="0 of 3 for testing"):
        make(images, per_class=3, test_fraction=0.1)
    with pytest.raises(clips.ClipsError, match="images have no groups"):
        make(images, leave_group_out=3)


def test_clips_survive_their_file(images, tmp_path):
    found = make(images)
    clips.save(found, tmp_path / "clips.parquet")
    read = clips.load(tmp_path / "clips.parquet")
    assert np.array_equal(read.rows, found.rows)
    assert np.array_equal(read.split_groups, found.split_groups)


def test_principal_components_are_a_rotation_fitted_on_training_images(source, images):
    made = make(images)
    train = np.unique(made.rows[made.split_groups == "train"])
    whole = pseudo.principal_components(images.vectors, train, len(train) - 1)
    centred = images.vectors[train].double() - images.vectors[train].double().mean(0)
    assert torch.allclose(whole[train].double() @ whole[train].double().T, centred @ centred.T, atol=1e-2)
    assert (whole[train].std(0).diff() <= 1e-4).all()
    few = pseudo.principal_components(images.vectors, train, 5)
    assert torch.allclose(few, whole[:, :5], atol=1e-3)
    changed = images.vectors.clone()
    outside = np.setdiff1d(np.arange(len(images)), train)
    changed[outside] += 100
    assert torch.equal(pseudo.principal_components(changed, train, 5)[train], few[train])
    with pytest.raises(ValueError, match="principal components, found 4000"):
        pseudo.principal_components(images.vectors, train, 4000)


@pytest.mark.parametrize("split", ["random", "groups"])
@pytest.mark.parametrize("components", [None, 6])
def test_a_study_trains_on_them_directly(source, images, split, components):
    settings = VideoClips(per_class=12)
    found = problem.pseudo_clips(source, split, 1, settings=settings, components=components)
    again = problem.pseudo_clips(source, split, 1, settings=settings, components=components)
    assert (found.inputs, found.outputs, found.slices) == (components or 2048, 3, 7)
    assert (len(found.train), len(found.test)) == (30, 6)
    assert torch.equal(found.train.pool, again.train.pool)
    assert torch.equal(found.train.index, again.train.index)
    assert found.digest == {"vectors.parquet": records.sha256_of(source)}
    shared = set(found.train.index.flatten().tolist()) & set(found.test.index.flatten().tolist())
    assert bool(shared) == (split == "random")


def test_the_mirrors_file_must_be_the_known_one(project, monkeypatch, source):
    settings = VideoAcquire(source="vectors")
    with pytest.raises(FileNotFoundError, match=r"variable unset.*no address.*vectors_path"):
        acquire.acquire(settings, 1)
    monkeypatch.setenv("NEM_MIRROR", str(project))
    with pytest.raises(FileNotFoundError, match="no such file"):
        acquire.acquire(settings, 1)
    (project / "features").mkdir()
    shutil.copyfile(source, project / pseudo.MIRROR)
    with pytest.raises(pseudo.VectorsError, match=r"expected SHA-256 ef604e8d.*vectors_path"):
        acquire.acquire(settings, 1)
    assert not paths.VIDEO_RAW.exists()


def test_a_damaged_file_leaves_what_was_acquired_before(project, source):
    acquire.acquire(VideoAcquire(source="vectors", vectors_path=str(source)), 1)
    (project / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="damage"):
        acquire.acquire(VideoAcquire(source="vectors", vectors_path="bad.parquet"), 1)
    assert records.sha256_of(paths.VIDEO_VECTORS) == records.sha256_of(source)


def test_a_bit_that_flips_in_the_acquired_copy_is_noticed(project, source):
    """The file of a stranger, without checksums of its pages."""
    table = pq.read_table(source)
    pq.write_table(table, project / "mine.parquet", compression="none", use_dictionary=False)
    acquire.acquire(VideoAcquire(source="vectors", vectors_path="mine.parquet"), 1)
    expected = pseudo.read(project / "mine.parquet")
    assert torch.equal(pseudo.read(paths.VIDEO_VECTORS).vectors, expected.vectors)
    whole, rng = paths.VIDEO_VECTORS.read_bytes(), random.Random(1)
    for _ in range(60):
        at = rng.randrange(8 * len(whole))
        changed = bytearray(whole)
        changed[at // 8] ^= 1 << at % 8
        paths.VIDEO_VECTORS.write_bytes(changed)
        with pytest.raises(ValueError, match=r"vectors\.parquet"):
            pseudo.read(paths.VIDEO_VECTORS)


@pytest.mark.parametrize("content", ["[]", "{}", '{"sourcf": "vectors"}', "3"])
def test_a_damaged_record_is_named(project, content):
    records.write_text(paths.source_record("video"), content)
    with pytest.raises(ValueError, match=r"source\.json"):
        pseudo.acquired()


CONDITIONS = ["none", "blind-additive-output", "nem-additive-output", "nem-multiplicative-both"]


def settings_of(vectors_path, conditions, **clips_):
    content = params.Params(tasks=["video", "video_groups"]).model_dump() | {"sources": ["video"]}
    content["video"]["acquire"] |= {"source": "vectors", "vectors_path": vectors_path}
    content["video"]["clips"] |= clips_
    content["training"] |= {"repetitions": 2, "conditions": conditions}
    content["evaluate"]["bootstrap"] = 100
    for task in ("video", "video_groups"):
        for cell in ("lstm", "gru"):
            content["train"][task][cell] |= {"hidden": 4, "epochs": 2, "max_epochs": 3}
    return params.validate(content)


def run(settings, monkeypatch):
    """Run every stage of the pipeline in this process."""
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    monkeypatch.setattr(evaluate.geometry, "draw_geometry", lambda folder, seed: [])  # has its own tests
    records.write_text(paths.PARAMS, params.render(settings))
    acquire.acquire(settings.video.acquire, settings.seed)
    assert frames_stage.main([]) == 0
    assert features_stage.main([]) == 0
    for task in settings.tasks:
        for cell in settings.cells:
            train.train(task, cell, settings)
    evaluate.evaluate(settings)


def written():
    return {str(f): records.sha256_of(f) for f in paths.DATA.rglob("*") if f.is_file()}


def test_the_whole_pipeline_runs_on_vectors(project, source, monkeypatch):
    settings = settings_of(str(source), CONDITIONS, per_class=8, test_fraction=0.25)
    run(settings, monkeypatch)
    manifest = records.read_table(paths.FRAMES / "manifest.parquet", frames.MANIFEST_SCHEMA)
    assert len(manifest) == 0
    assert b"no frames to sample" in manifest.schema.metadata[b"note"]
    table, made = features.load(paths.FEATURES_TABLE), clips.load(paths.CLIPS_TABLE)
    read = pseudo.read(source)
    assert table.mapped
    assert torch.equal(table.vectors, read.vectors)
    assert table.video_id[0] == "daisy/0.jpg"
    assert np.array_equal(made.rows, pseudo.make(read, settings.video.clips, settings.seed).rows)
    record = json.loads(paths.source_record("video").read_text())
    assert (record["images"], record["classes"]["hat"]) == (79, {"images": 14})
    tables = {f.name for f in paths.TABLES.glob("*table_*.csv")}
    assert tables == {f"{prefix}table_{n}.csv" for n in (1, 2, 3, 4) for prefix in ("", "groups_")}
    assert (paths.FIGURES / "groups_figure_9_gru.png").is_file()
    assert not (paths.FIGURES / "figure_7.png").exists()
    page = paths.REPORT.read_text()
    assert "<strong>pseudo-clips</strong>" in page
    assert "image-disjoint split: GRU" in page
    assert "group-disjoint split:" not in page
    before = written()
    shutil.rmtree(paths.DATA)
    run(settings, monkeypatch)
    assert written() == before


@pytest.mark.realdata
def test_the_13_conditions_train_on_true_vectors(project, mirror, monkeypatch):
    monkeypatch.setenv("NEM_MIRROR", str(mirror))
    settings = settings_of(None, params.Training().conditions, per_class=8, test_fraction=0.25)
    run(settings, monkeypatch)
    made, read = clips.load(paths.CLIPS_TABLE), pseudo.read(mirror / pseudo.MIRROR)
    assert (len(read), read.copies, len(made.classes)) == (3078, 2, 13)
    train_rows, test_rows = sides(made, made.split_groups)
    assert not train_rows & test_rows
    content = json.loads(paths.METRICS.read_text())
    for task, prefix in (("video", ""), ("video_groups", "groups_")):
        for number in (1, 2, 3, 4):
            rows = (paths.TABLES / f"{prefix}table_{number}.csv").read_text().splitlines()
            assert len(rows) == 4
            assert all(rows[k].split(",")[1 + column] for k in (1, 2, 3) for column in range(6))
        for cell in ("lstm", "gru"):
            assert len(content[task][cell]) == 13
        # True vectors of one class are alike: seven images tell the class without any network.
        assert content["baselines"][task]["nearest_centroid"] > 0.8
