"""Acquiring: three sources, one result, and a record of where it came from."""

import pytest

from pipeline import paths, records
from pipeline.fx import acquire, rates, synthetic
from pipeline.params import FxAcquire
from stages import acquire as stage
from stages import fx_windows


def test_synthetic_says_that_it_is_synthetic(project):
    acquire.acquire(FxAcquire(synthetic_days=50), 3)
    assert len(rates.read(paths.FX_RATES)) == 50
    record = records.read_json(paths.source_record("fx"))
    assert record["source"] == "synthetic"
    assert "generated data" in record["note"]
    first = paths.FX_RATES.read_bytes()
    acquire.acquire(FxAcquire(synthetic_days=50), 3)
    assert paths.FX_RATES.read_bytes() == first


def test_anybodys_file(project, capsys):
    mine = project / "eur.csv"
    mine.write_text("Date,Close,Open,High,Low\n2020-01-02,1.1,1.2,1.3,1.0\n2020-01-01,9,1.2,1.3,1.0\n")
    acquire.acquire(FxAcquire(source="csv", csv_path=str(mine)), 1)
    record = records.read_json(paths.source_record("fx"))
    assert record["file"] == "eur.csv"
    assert record["ohlc_violations"] == 1
    assert "1 day(s) with open or price outside" in capsys.readouterr().out
    with pytest.raises(rates.RatesError, match="csv_path"):
        acquire.acquire(FxAcquire(source="csv"), 1)


def test_the_paper_file_comes_from_the_mirror_or_not_at_all(project, monkeypatch):
    folder = project / "mirror"
    (folder / "fx").mkdir(parents=True)
    (folder / "fx" / "USD_INR.csv").write_text("Date,Open,High,Low,Price\n2020-01-01,1,1,1,1\n")
    monkeypatch.setenv("NEM_MIRROR", str(folder))
    with pytest.raises(OSError, match="SHA-256 96d085"):
        acquire.acquire(FxAcquire(source="paper"), 1)


@pytest.mark.realdata
def test_the_papers_series_through_the_stages(mirror, project, monkeypatch):
    from pipeline import params

    monkeypatch.setenv("NEM_MIRROR", str(mirror))
    params.compose("fx")
    assert stage.main(["fx"]) == 0
    assert fx_windows.main([]) == 0
    record = records.read_json(paths.source_record("fx"))
    assert record["rows"] == 9697
    assert record["sha256"] == acquire.PAPER_SHA256
    assert "origin" not in record


def test_a_stage_reports_faults_without_a_traceback(project, capsys):
    from pipeline import params

    content = params.Params(sources=["fx"], video_sets=[], tasks=["fx"]).model_dump()
    content["fx"]["windows"]["train_end"] = 10**6
    (project / "params.yaml").write_text(params.render(params.validate(content)))
    assert stage.main(["fx"]) == 0
    assert fx_windows.main([]) == 1
    assert "choose an earlier day" in capsys.readouterr().err
    assert not paths.FX_WINDOWS.exists()
    assert synthetic.generate(32, 1)
