"""The ROS 2 nodes of fcclip, with message conversion, parameters and diagnostics."""

from pkgutil import extend_path

# The generated interfaces fcclip_ros.msg, .srv and .action belong to the same package. If they are installed in another
# folder (a source checkout with a virtual environment or a colcon overlay), that folder is added to this package.
__path__ = extend_path(__path__, __name__)

try:
    from fcclip_ros.process.starting import exit_on_signals, is_node_process
except ModuleNotFoundError:  # the generated interfaces alone: FCCLIP_INSTALL_PYTHON=OFF
    pass
else:
    if is_node_process():
        # Before the libraries are imported, which takes seconds; the node installs its own handlers when it starts.
        exit_on_signals()
