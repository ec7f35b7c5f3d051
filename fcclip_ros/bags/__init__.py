"""ROS 2 bags: reading, segmentation and writing, without a running ROS."""
