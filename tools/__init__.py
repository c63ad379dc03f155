"""Commands for maintainers: benchmarks, pictures for the README. Not part of the pipeline."""
