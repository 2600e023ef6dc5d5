"""The engine contract and its implementations: the only rooms that know an engine's API."""
