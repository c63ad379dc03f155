"""Noise-boosted recurrent backpropagation (Adigun & Kosko, Neurocomputing 2023): the reference implementation."""
