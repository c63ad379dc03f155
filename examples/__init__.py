"""Short programs to copy from: ``python -m examples.plain_loop``, and so on, in the project's root."""
