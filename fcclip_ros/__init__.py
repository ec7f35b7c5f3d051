"""The ROS 2 side of fcclip: nodes, message conversion, parameters and diagnostics."""

from pkgutil import extend_path

# The generated interfaces are the same package, fcclip_ros.msg, .srv and .action. Where they lie in another folder
# (a source checkout beside a virtual environment or a colcon overlay), that folder becomes part of this package.
__path__ = extend_path(__path__, __name__)

try:
    from fcclip_ros.process.starting import end_at_once_on_signals, is_a_nodes_program
except ModuleNotFoundError:  # the generated interfaces alone: FCCLIP_INSTALL_PYTHON=OFF
    pass
else:
    if is_a_nodes_program():
        # Before the libraries are imported, which takes seconds; the node takes the signals over when it starts.
        end_at_once_on_signals()
