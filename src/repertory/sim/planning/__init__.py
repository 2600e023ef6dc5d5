"""Which fleet is enough for a workload, found by simulating some, and what the others lack."""
