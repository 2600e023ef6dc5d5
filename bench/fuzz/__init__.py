"""Generated requests and damaged files against the real server: `make fuzz`."""
