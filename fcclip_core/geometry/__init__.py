"""Depth and segments -> points and places, in the camera's optical frame: x right, y down, z forward, meters."""
