"""Conversions between ROS messages and arrays or results."""
