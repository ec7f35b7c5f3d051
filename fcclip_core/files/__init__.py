"""Files on disk: atomic writing, reading within limits, and trusted folders."""
