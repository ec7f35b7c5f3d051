"""The parts of the perception node."""
