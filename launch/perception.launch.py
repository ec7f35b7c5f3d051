"""Starts the perception node on a camera topic."""

import os

import yaml
from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node

CONFIG = os.path.join(get_package_share_directory("fcclip_ros"), "config")

# Arguments that are parameters of the node: left empty, the value in params_file holds.
PARAMETERS = {
    "use_sim_time": "Take the time from /clock",
    "autostart": "Configure and activate at once; otherwise wait for lifecycle requests",
    "image_transport": "raw, or compressed: read sensor_msgs/CompressedImage at IMAGE_TOPIC/compressed",
    "checkpoint": "Weights: a file, a bundled name, or recipe:NAME for seeded weights",
    "vocabulary": "Classes: a file, a bundled name, or a list such as \"['person', 'pallet, wooden pallet']\"",
}

OTHER_ARGUMENTS = [
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and its topics"),
    DeclareLaunchArgument(
        "params_file", default_value=os.path.join(CONFIG, "perception.yaml"), description="Parameter file of the node"
    ),
    DeclareLaunchArgument("image_topic", default_value="image", description="Topic of the camera's images"),
    DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal"),
]


def given_parameters(context: LaunchContext) -> dict[str, object]:
    """Returns the parameters that were named on the command line, typed as YAML types them."""
    texts = {name: LaunchConfiguration(name).perform(context) for name in PARAMETERS}
    return {name: yaml.safe_load(text) for name, text in texts.items() if text}


def perception_node(context: LaunchContext) -> list[Node]:
    """Describes the node; called when the arguments' values are known."""
    image_topic = LaunchConfiguration("image_topic").perform(context)
    return [
        Node(
            package="fcclip_ros",
            executable="perception",
            name="fcclip",
            namespace=LaunchConfiguration("namespace"),
            parameters=[LaunchConfiguration("params_file"), given_parameters(context)],
            remappings=[("image", image_topic), ("image/compressed", f"{image_topic}/compressed")],
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            output="screen",
        )
    ]


def large_image_transport() -> list[SetEnvironmentVariable]:
    """Gives Fast DDS room for whole images in shared memory, unless the user has a profile of their own."""
    profile = os.path.join(CONFIG, "fastdds.xml")
    # Fast DDS 3 reads the second name, earlier ones the first.
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    return [SetEnvironmentVariable(name, EnvironmentVariable(name, default_value=profile)) for name in names]


def generate_launch_description() -> LaunchDescription:
    """Declares the arguments and starts the node with them."""
    parameters = [
        DeclareLaunchArgument(name, default_value="", description=f"{text} (empty: as in params_file)")
        for name, text in PARAMETERS.items()
    ]
    return LaunchDescription(
        [*OTHER_ARGUMENTS, *parameters, *large_image_transport(), OpaqueFunction(function=perception_node)]
    )
