"""The stacked training engine: all noise conditions of one repetition train at once."""
