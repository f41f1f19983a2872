"""The harness: questions in, records out, and what records say. Joins to `model` in `running`."""

__version__ = "0.2.0"
