"""A small robot world with exact truth: rooms, corridors, table tops and yards, rendered off-screen by MuJoCo."""
