"""How large an image may be."""

MAX_PIXELS = 40_000_000
"""Pixels that an image has at most, where nobody says otherwise."""

MAX_SIDE = 65_500
"""Pixels of an image's longer side at most: what a JPEG can hold."""
