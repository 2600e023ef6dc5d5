"""Requests: how they come, wait, run, make way and end."""
