"""The registry, and what it says about the paper."""

from nem.conditions import CONDITIONS
from pipeline import tasks
from pipeline.evaluation.paper import COLUMNS


def test_every_task_is_there_by_its_name():
    assert set(tasks.TASKS) == {"fx", "video"}
    fx, video = tasks.of("fx"), tasks.of("video")
    assert (fx.name, video.name) == ("fx", "video")
    assert (fx.measure.name, fx.loss, fx.measure.gain) == ("test_mse", "test_mse", -1)
    assert (video.measure.name, video.loss, video.measure.gain) == ("test_accuracy", "test_cross_entropy", 1)
    assert fx.measure.label("rupees") == "test squared error [rupees²]"
    assert fx.measure.label("") == "test squared error"
    assert video.measure.label("") == "test accuracy [%]"


def test_the_papers_tables_are_complete():
    tables = [*tasks.of("video").tables, *tasks.of("fx").tables]
    assert [table.number for table in tables] == list(range(1, 9))
    for table in tables:
        assert len(table.blind) == len(table.nem) == len(COLUMNS) == 6
        assert all(table.value(condition) is not None for condition in CONDITIONS)
        assert table.value("matched-additive-both") is None
        assert table.name == f"table_{table.number}"
    assert tables[0].value("nem-additive-both") == 96.70
    assert tables[1].value("none") == 0
    assert tables[4].value("none") == 2.087
    assert tables[7].value("nem-multiplicative-both") == 37
