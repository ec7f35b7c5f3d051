"""Processing the segments of a frame: finding, tracking, drawing."""
