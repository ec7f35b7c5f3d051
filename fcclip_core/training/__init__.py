"""Training; losses, schedule and augmentation are by default those of the paper (section 4.1)."""
