"""The ROS 2 side of fcclip: nodes, message conversion, parameters and diagnostics."""

from pkgutil import extend_path

# The generated interfaces are the same package, fcclip_ros.msg, .srv and .action. Where they lie in another folder
# (a source checkout beside a virtual environment or a colcon overlay), that folder becomes part of this package.
__path__ = extend_path(__path__, __name__)
