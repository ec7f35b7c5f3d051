"""Starts the perception node on a camera topic, and on request a source of images in the camera's stead."""

import os

import yaml
from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable
from launch_ros.actions import Node

CONFIG = os.path.join(get_package_share_directory("fcclip_ros"), "config")

# Parameters of the node: left empty, the value in params_file holds.
PARAMETERS = {
    "use_sim_time": "Take the time from /clock",
    "autostart": "Configure and activate at once; otherwise wait for lifecycle requests",
    "use_depth": "Read DEPTH_TOPIC, registered to the images, and camera_info; say where segments are",
    "image_transport": "raw, or compressed: read sensor_msgs/CompressedImage at IMAGE_TOPIC/compressed",
    "checkpoint": "Weights: a file, a bundled name, or recipe:NAME for seeded weights",
    "vocabulary": "Classes: a file, a bundled name, or a list such as \"['person', 'pallet, wooden pallet']\"",
}

# Other arguments, with their defaults.
ARGUMENTS = {
    "namespace": ("", "Namespace of the node and its topics"),
    "params_file": (os.path.join(CONFIG, "perception.yaml"), "Parameter file of the node"),
    "image_topic": ("image", "Topic of the camera's images"),
    "depth_topic": ("depth", "Topic of the camera's depth, read with use_depth"),
    "source": ("", "Photographs, a video, a bag or a webcam's number to publish there; empty: a camera does"),
    "rate": ("10.0", "Frames per second of the source"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}


def declared_arguments() -> list[DeclareLaunchArgument]:
    """Declares every argument."""
    arguments = {**ARGUMENTS, **{name: ("", f"{text} (empty: as in params_file)") for name, text in PARAMETERS.items()}}
    return [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in arguments.items()
    ]


def large_image_transport() -> list[SetEnvironmentVariable]:
    """Gives Fast DDS room for whole images in shared memory, unless the user has a profile of their own."""
    profile = os.path.join(CONFIG, "fastdds.xml")
    # Fast DDS 3 reads the second name, earlier ones the first.
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    return [SetEnvironmentVariable(name, EnvironmentVariable(name, default_value=profile)) for name in names]


def nodes(context: LaunchContext) -> list[Node]:
    """Describes the nodes; called when the arguments' values are known."""
    given = context.launch_configurations
    parameters = {name: yaml.safe_load(given[name]) for name in PARAMETERS if given[name]}
    image_topic = given["image_topic"]
    common = {
        "package": "fcclip_ros",
        "namespace": given["namespace"],
        "remappings": [
            ("image", image_topic),
            ("depth", given["depth_topic"]),
            ("image/compressed", f"{image_topic}/compressed"),
            ("camera_info", os.path.join(os.path.dirname(image_topic), "camera_info")),
        ],
        "ros_arguments": ["--log-level", given["log_level"]],
        "output": "screen",
        "sigterm_timeout": "15",  # seconds; a Python process with torch takes several to end on a busy machine
    }
    perception = Node(executable="perception", name="fcclip", parameters=[given["params_file"], parameters], **common)
    if not given["source"]:
        return [perception]
    source = {
        "source": given["source"],
        "rate": float(given["rate"]),
        "compressed": parameters.get("image_transport") == "compressed",
    }
    return [perception, Node(executable="image_source", name="image_source", parameters=[source], **common)]


def generate_launch_description() -> LaunchDescription:
    """Declares the arguments and starts the nodes with them."""
    return LaunchDescription([*declared_arguments(), *large_image_transport(), OpaqueFunction(function=nodes)])
