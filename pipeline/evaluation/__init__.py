"""From run files to the paper's tables and figures, with intervals, baselines and honest verdicts."""
