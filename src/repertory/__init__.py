"""Repertory serves many LLMs from few devices."""

__all__ = ["__version__"]

__version__ = "0.1.0"
