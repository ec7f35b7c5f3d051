#!/usr/bin/env bash
# Runs a command with ROS, the workspace and the virtual environment on its paths.
set -e
# ROS's files read variables that are not set.
source "/opt/ros/${ROS_DISTRO}/setup.bash"
source /ws/venv/bin/activate
source /ws/install/setup.bash
exec "$@"
