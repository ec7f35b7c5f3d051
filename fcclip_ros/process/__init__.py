"""Start, execution and shutdown of a node process."""
