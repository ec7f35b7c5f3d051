"""A small simulated world with exact ground truth: rooms, corridors, tables and yards, rendered by MuJoCo."""
