"""Training, with the paper's recipe (section 4.1, implementation details) as the default configuration."""
