"""Optimized implementations of single operations, each for one kind of hardware."""
