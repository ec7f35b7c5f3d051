"""Limits on image sizes."""

MAX_PIXELS = 40_000_000
"""Default limit on the number of pixels."""

MAX_SIDE = 65_500
"""Largest side of an image in pixels: the limit of JPEG."""
