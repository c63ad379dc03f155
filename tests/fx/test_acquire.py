"""Acquiring: three sources, one result, and a record of where it came from; a task that is off is said to be off."""

import pytest

from pipeline import params
from pipeline.common import paths, records, sequences
from pipeline.fx import acquire, rates, windows
from pipeline.params import FxAcquire
from stages import acquire as stage
from stages import windows as windows_stage


def test_synthetic_says_that_it_is_synthetic(project):
    acquire.acquire(FxAcquire(synthetic_days=50), 3)
    assert len(rates.read(rates.RATES)) == 50
    record = records.read_json(paths.source_record("fx"))
    assert record["source"] == "synthetic"
    assert "generated data" in record["note"]
    first = rates.RATES.read_bytes()
    acquire.acquire(FxAcquire(synthetic_days=50), 3)
    assert rates.RATES.read_bytes() == first


def test_anybodys_file(project, capsys):
    mine = project / "eur.csv"
    mine.write_text("Date,Close,Open,High,Low\n2020-01-02,1.1,1.2,1.3,1.0\n2020-01-01,9,1.2,1.3,1.0\n")
    acquire.acquire(FxAcquire(source="csv", csv_path=str(mine)), 1)
    record = records.read_json(paths.source_record("fx"))
    assert (record["file"], record["unit"], record["ohlc_violations"]) == ("eur.csv", "", 1)
    assert "1 day(s) with open or price outside" in capsys.readouterr().out
    with pytest.raises(rates.RatesError, match="csv_path"):
        acquire.acquire(FxAcquire(source="csv"), 1)


def test_a_file_of_one_column_says_what_was_left_out_and_how_it_was_read(project, capsys):
    mine = project / "fred.csv"
    mine.write_text("observation_date,DEXINUS\n2012-01-02,.\n2012-01-03,53.11\n2012-01-04,5285.0\n")
    acquire.acquire(FxAcquire(source="csv", csv_path=str(mine)), 1)
    record, told = records.read_json(paths.source_record("fx")), capsys.readouterr().out
    assert (record["days_without_values"], record["columns"], record["read_as"]["decimal"]) == (1, ["price"], "point")
    for line in ("1 day(s) without a value", "fx.windows.inputs", "warning: price 53.11 is 5285.0 on 2012-01-04"):
        assert line in told
    assert rates.read(rates.RATES).columns == ["price"]


def test_the_paper_file_comes_from_the_mirror_or_not_at_all(project, monkeypatch):
    folder = project / "mirror"
    (folder / "fx").mkdir(parents=True)
    (folder / "fx" / "USD_INR.csv").write_text("Date,Open,High,Low,Price\n2020-01-01,1,1,1,1\n")
    monkeypatch.setenv("NEM_MIRROR", str(folder))
    with pytest.raises(OSError, match="SHA-256 96d085"):
        acquire.acquire(FxAcquire(source="paper"), 1)


@pytest.mark.realdata
def test_the_papers_series_through_the_stages(mirror, project, monkeypatch):
    monkeypatch.setenv("NEM_MIRROR", str(mirror))
    params.compose("fx")
    assert stage.main(["fx"]) == 0
    assert windows_stage.main([]) == 0
    record = records.read_json(paths.source_record("fx"))
    assert record["rows"] == 9697
    assert record["sha256"] == acquire.PAPER_SHA256
    assert "origin" not in record


def written(project, **changes):
    """Write params.yaml for the exchange rate alone, on few days."""
    content = params.Params(tasks=["fx"]).model_dump()
    content["fx"]["acquire"]["synthetic_days"] = 80
    content["fx"]["windows"] |= {"train_end": 60, **changes}
    (project / "params.yaml").write_text(params.render(params.validate(content)))


def test_a_stage_reports_faults_without_a_traceback(project, capsys):
    written(project, train_end=10**6)
    assert stage.main(["fx"]) == 0
    assert windows_stage.main([]) == 1
    assert "choose an earlier day" in capsys.readouterr().err
    assert not paths.sequences("fx").exists()


def test_a_task_that_is_off_is_passed_on_and_can_be_switched_on_again(project, capsys):
    written(project)
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("tasks: [fx]", "tasks: [video]"))
    assert stage.main(["fx"]) == windows_stage.main([]) == 0
    assert sequences.absent(paths.sequences("fx"))
    assert paths.source_record("fx").is_file()
    (project / "params.yaml").write_text(text)
    assert stage.main(["video"]) == 0
    assert sequences.absent(paths.raw("video"))
    assert stage.main(["fx"]) == windows_stage.main([]) == 0
    assert not sequences.absent(paths.sequences("fx"))
    assert "windows: 51 train, 6 validation, 19 test windows of 4 days" in capsys.readouterr().out
    assert sequences.load(paths.sequences("fx")).unit == "rupees"
    assert len(windows.load(paths.sequences("fx") / windows.FILE)) == 76
