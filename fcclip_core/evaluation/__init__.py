"""What the paper measures (section 4), and the loop that measures it."""
