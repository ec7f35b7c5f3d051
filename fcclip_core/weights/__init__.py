"""Sources of weights: published files, checkpoints, seeded weights."""
