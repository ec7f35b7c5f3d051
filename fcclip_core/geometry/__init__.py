"""Depth and segments -> 3D points and positions in meters, seen from an optical frame: x right, y down, z forward."""
