"""Choices about memory: who gets it, who gives it, for how long."""
