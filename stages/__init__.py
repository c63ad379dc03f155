"""Thin commands, one per DVC stage: read params, call the library, write outputs."""
