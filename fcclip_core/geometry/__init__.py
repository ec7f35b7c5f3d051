"""Depth and segments -> 3D points and positions in meters, first in the camera's optical frame: x right, y down, z forward."""
