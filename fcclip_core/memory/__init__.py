"""Object memory: what the robot has seen, where, and how it is found again by words."""
