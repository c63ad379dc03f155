"""Stage windows: turn the exchange-rate series into scaled windows, split by day."""

from pipeline import params
from pipeline.common import command, paths, records, sequences
from pipeline.fx import rates, windows


@command.stage("windows", passes=(paths.raw("fx"), paths.sequences("fx")))
def main() -> None:
    """Write windows."""
    settings = params.load().fx.windows
    unit = str(records.read_json(paths.source_record("fx")).get("unit", ""))
    days = windows.write(paths.sequences("fx"), rates.read(rates.RATES), settings, unit=unit)
    counts = ", ".join(f"{int(days.where(side).sum())} {side}" for side in sequences.SIDES)
    print(f"windows: {counts} windows of {settings.window} days, {settings.scaling}")
