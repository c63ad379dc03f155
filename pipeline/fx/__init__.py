"""The exchange-rate half of the paper: the series, its windows, its naive baselines."""
