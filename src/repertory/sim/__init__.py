"""Driver 1: the brain under virtual time."""
