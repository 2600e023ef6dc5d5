"""Decisions: pure functions of a read-only view of the state, each with its reason."""
