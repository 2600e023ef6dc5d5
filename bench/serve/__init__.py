"""`make bench-serve`: Repertory and llama-server side by side, in one run, on the same files."""
