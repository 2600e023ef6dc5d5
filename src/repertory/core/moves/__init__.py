"""Moves on the ladder: begun, landed, failed."""
