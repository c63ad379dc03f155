"""The exchange-rate half of the paper: the series and its windows."""
