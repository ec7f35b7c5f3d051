"""Recordings: reading them, and segmenting what they hold."""
