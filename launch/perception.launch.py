"""Starts the perception node on one camera topic or several, and on request sources of images in the cameras' stead."""

import os

import yaml
from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable
from launch_ros.actions import Node

CONFIG = os.path.join(get_package_share_directory("fcclip_ros"), "config")
LAYOUT = os.path.join(CONFIG, "fcclip.rviz")

# What the simulated camera publishes beside image, depth and camera_info.
SIMULATED = ("pose", "truth/panoptic", "truth/segments", "truth/vocabulary")

# Parameters of the node: left empty, the value in params_file holds.
PARAMETERS = {
    "use_sim_time": "Take the time from /clock",
    "autostart": "Configure and activate at once; otherwise wait for lifecycle requests",
    "use_depth": "Read DEPTH_TOPIC, registered to the images, and camera_info; say where segments are",
    "image_transport": "raw, or compressed: read sensor_msgs/CompressedImage at IMAGE_TOPIC/compressed",
    "cameras": 'Names of several cameras, such as "[front, left]"; each has topics of its own below ~/NAME/',
    "checkpoint": "Weights: a file, a bundled name, recipe:NAME for seeded weights, or auto: the best that there is",
    "vocabulary": "Classes: a file, a bundled name, auto, or a list such as \"['person', 'pallet, wooden pallet']\"",
}

# Other arguments, with their defaults.
ARGUMENTS = {
    "namespace": ("", "Namespace of the node and its topics"),
    "params_file": (os.path.join(CONFIG, "perception.yaml"), "Parameter file of the node"),
    "image_topic": ("", "Topic of the camera's images; of several a list, in their order (empty: image, NAME/image)"),
    "depth_topic": ("", "Topic of the camera's depth, for use_depth; of several a list (empty: depth, NAME/depth)"),
    "source": ("", "Photographs, a video, a bag or a webcam's number to publish there; empty: a camera does"),
    "sim": ("false", "Start a simulated camera with depth there; a recorded drive where nothing can be rendered"),
    "rate": ("10.0", "Frames per second of the source or the simulated camera"),
    "rviz": ("false", "Start RViz2 with config/fcclip.rviz, a window for each camera"),
    "fixed_frame": ("", "RViz's fixed frame (empty: camera_optical_frame, as the simulated camera's)"),
    "respawn": ("false", "Start the node again when it ends, as it does when its GPU is lost to the process"),
    "respawn_delay": ("5.0", "Seconds until then"),
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


def camera_topics(cameras: list[str], kind: str, given: str) -> dict[str, str]:
    """Pairs the name that the node gives to a topic of each camera with the topic it is to read.

    Args:
        cameras: The cameras' names; none for a single camera.
        kind: image or depth.
        given: The argument image_topic or depth_topic.

    Raises:
        ValueError: Cameras and topics are not equally many.
    """
    names = [f"{name}/{kind}" for name in cameras] or [kind]
    topics = yaml.safe_load(given) if given.lstrip().startswith("[") else [given] if given else names
    if len(topics) != len(names):
        raise ValueError(f"{kind}_topic has {len(topics)} topics for {len(names)} cameras; give one for each, in order")
    return dict(zip(names, topics, strict=True))


def remappings(name: str, topic: str) -> list[tuple[str, str]]:
    """Lets what a node calls `name`, and what comes with it, be `topic` and what comes with that."""
    return [
        (name, topic),
        (f"{name}/compressed", f"{topic}/compressed"),
        (os.path.join(os.path.dirname(name), "camera_info"), os.path.join(os.path.dirname(topic), "camera_info")),
    ]


def own_name(program: str, name: str) -> str:
    """Names the node of a program that belongs to the camera with the topic `name`, such as left/image."""
    return "_".join([program, *name.split("/")[:-1]])


def rviz_window(name: str, topic: str, fixed_frame: str, common: dict) -> Node:
    """Describes RViz, with what it shows of the node `fcclip` moved to the camera's own topics.

    Args:
        name: What the node calls the camera's images: image, or CAMERA/image.
        topic: What they are called outside.
        fixed_frame: Instead of the layout's, unless empty.
        common: What all nodes are started with.
    """
    with open(LAYOUT, encoding="utf-8") as file:
        displays = yaml.safe_load(file)["Visualization Manager"]["Displays"]
    shown = {display["Topic"]["Value"] for display in displays if "Topic" in display} - {"image"}
    camera = os.path.dirname(name)
    outputs = [(output, output.replace("/", f"/{camera}/", 1)) for output in sorted(shown)] if camera else []
    return Node(
        executable="rviz2",
        name=own_name("rviz", name),
        arguments=["-d", LAYOUT, *(["-f", fixed_frame] if fixed_frame else [])],
        remappings=[*remappings("image", topic), *outputs],
        **{**common, "package": "rviz2"},
    )


def sim_camera(image: tuple[str, str], depth: tuple[str, str], seed: int, rate: float, common: dict) -> Node:
    """Describes the simulated camera that stands in for one of the node's cameras.

    Args:
        image: What the node calls the camera's images, image or CAMERA/image, and what they are called outside.
        depth: Likewise for depth.
        seed: Where it drives.
        rate: Frames per second.
        common: What all nodes are started with.
    """
    camera = os.path.dirname(image[0])
    own = [(name, f"{camera}/{name}") for name in SIMULATED] if camera else []
    settings = {"recording": "auto", "seed": seed, "rate": rate}
    if camera:
        settings["frame_id"] = f"{camera}_optical_frame"
    return Node(
        executable="sim_camera",
        name=own_name("sim_camera", image[0]),
        parameters=[settings],
        remappings=[*remappings("image", image[1]), ("depth", depth[1]), *own],
        **common,
    )


def nodes(context: LaunchContext) -> list[Node]:
    """Describes the nodes; called when the arguments' values are known."""
    given = context.launch_configurations
    parameters = {name: yaml.safe_load(given[name]) for name in PARAMETERS if given[name]}
    cameras = parameters.get("cameras", [])
    topics, depth_topics = (camera_topics(cameras, kind, given[f"{kind}_topic"]) for kind in ("image", "depth"))
    common = {
        "package": "fcclip_ros",
        "namespace": given["namespace"],
        "ros_arguments": ["--log-level", given["log_level"]],
        "output": "screen",
        # Seconds until SIGTERM after a SIGINT that launch takes the nodes to have had too, from the terminal. They end
        # within three seconds of either; both together do no harm.
        "sigterm_timeout": "1",
    }
    started = [
        Node(
            executable="perception",
            name="fcclip",
            parameters=[given["params_file"], parameters],
            remappings=[
                *(pair for name, topic in topics.items() for pair in remappings(name, topic)),
                *depth_topics.items(),
            ],
            respawn=yaml.safe_load(given["respawn"]),
            respawn_delay=float(given["respawn_delay"]),
            **common,
        )
    ]
    if yaml.safe_load(given["rviz"]):
        started += [rviz_window(name, topic, given["fixed_frame"], common) for name, topic in topics.items()]
    compressed = parameters.get("image_transport") == "compressed"
    simulated = yaml.safe_load(given["sim"])
    if simulated and (given["source"] or compressed):
        raise ValueError("sim:=true goes with neither source nor image_transport:=compressed; leave those out")
    if simulated:
        pairs = zip(topics.items(), depth_topics.items(), strict=True)
        started += [sim_camera(*pair, seed, float(given["rate"]), common) for seed, pair in enumerate(pairs)]
    if given["source"]:
        source = {"source": given["source"], "rate": float(given["rate"]), "compressed": compressed}
        started += [
            Node(
                executable="image_source",
                name=own_name("image_source", name),
                parameters=[source],
                remappings=remappings("image", topic),
                **common,
            )
            for name, topic in topics.items()
        ]
    return started


def generate_launch_description() -> LaunchDescription:
    """Declares the arguments and starts the nodes with them."""
    return LaunchDescription([*declared_arguments(), *large_image_transport(), OpaqueFunction(function=nodes)])
