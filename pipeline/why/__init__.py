"""Why the paper saw what it saw: its own regime searched for, its sign tested, its tables predicted (docs/why.md)."""
