"""Places: who gets which memory, in which shape, and who gives it."""
