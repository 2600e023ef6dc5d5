"""`make bench-sim`: how fast the simulator is, and how true."""
