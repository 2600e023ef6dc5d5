"""One self-contained HTML page of runs and decision logs: what came of them, and why."""
