"""Room 5: what workloads get, and who may have it."""
