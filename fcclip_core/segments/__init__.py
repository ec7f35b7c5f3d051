"""What is done with the segments of a frame: finding, tracking, drawing."""
