"""When does NEM noise help? Regime maps, paired comparisons, verdicts on the claims of the paper."""
