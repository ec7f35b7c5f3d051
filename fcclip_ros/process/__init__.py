"""How a node starts, runs and ends in a process."""
