"""Where weights come from: published files, checkpoints, seeded weights."""
