"""Files on disk: written atomically, read within limits, kept in folders that are ours."""
