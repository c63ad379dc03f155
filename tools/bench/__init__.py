"""Every hot path against its floor and against what else one would use, side by side in one run: ``make bench``."""
