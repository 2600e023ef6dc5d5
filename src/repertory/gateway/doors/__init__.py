"""Who may come in, for what, and how often."""
