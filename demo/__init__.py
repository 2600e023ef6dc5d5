"""`make demo`: four models, memory for two, and clients who want all of them at once."""
