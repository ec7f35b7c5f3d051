"""Starts the perception node for one or several cameras, optionally with the object memory, image sources and RViz."""

import os

import yaml
from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable
from launch_ros.actions import Node

CONFIG = os.path.join(get_package_share_directory("fcclip_ros"), "config")
LAYOUT = os.path.join(CONFIG, "fcclip.rviz")

# Topics of the simulated camera in addition to image, depth and camera_info.
SIMULATED = ("pose", "truth/panoptic", "truth/segments", "truth/vocabulary")

# Parameters of the node; if empty, the value in params_file is used.
PARAMETERS = {
    "use_sim_time": "Use the time of /clock",
    "autostart": "Configure and activate at startup; otherwise wait for lifecycle transitions",
    "use_depth": "Use DEPTH_TOPIC, registered to the images, and camera_info for 3D outputs",
    "target_frame": "Frame of the 3D outputs, such as map, odom or base_link, by the transform on /tf",
    "image_transport": "raw, compressed or ffmpeg: subscribe to IMAGE_TOPIC, IMAGE_TOPIC/compressed or /ffmpeg (video)",
    "depth_transport": "raw, or compressedDepth: subscribe to DEPTH_TOPIC/compressedDepth",
    "cameras": 'Names of several cameras, such as "[front, left]"; the topics of each are in ~/NAME/',
    "checkpoint": "Weights: a file, a bundled name, recipe:NAME (seeded random weights), or auto: the best available",
    "vocabulary": "Classes: a file, a bundled name, auto, or a list such as \"['person', 'pallet, wooden pallet']\"",
}

# Other arguments, with their defaults.
ARGUMENTS = {
    "namespace": ("", "Namespace of the node and its topics"),
    "params_file": (os.path.join(CONFIG, "perception.yaml"), "Parameter file of the node"),
    "image_topic": ("", "Image topic of the camera; a list for several, in order (empty: image, NAME/image)"),
    "depth_topic": ("", "Depth topic of the camera, for use_depth; a list for several (empty: depth, NAME/depth)"),
    "source": ("", "Images, a video, a bag or the number of a webcam to publish there (empty: there is a camera)"),
    "sim": ("false", "Publish a simulated camera with depth there; a recorded drive if rendering is not possible"),
    "rate": ("10.0", "Frames per second of the source or the simulated camera"),
    "rviz": ("false", "Start RViz2 with config/fcclip.rviz, one window per camera"),
    "memory": ("false", "Start the node object_memory too, with the depth and the embeddings that it needs"),
    "memory_params_file": (os.path.join(CONFIG, "object_memory.yaml"), "Parameter file of the node object_memory"),
    "memory_file": ("", "File in which objects are kept, one for each map (empty: as in memory_params_file)"),
    "map_frame": ("", "Frame of remembered objects (empty: as in memory_params_file; world with sim)"),
    "pose_topic": (
        "",
        "Topic of the camera's poses, without TF; a list for several (empty: pose, NAME/pose)",
    ),
    "fixed_frame": ("", "Fixed frame of RViz (empty: camera_optical_frame, the frame of the simulated camera)"),
    "respawn": ("false", "Restart the node when it exits, for example after the loss of its GPU"),
    "respawn_delay": ("5.0", "Seconds before a restart"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}


def declared_arguments() -> list[DeclareLaunchArgument]:
    """Declares the launch arguments."""
    arguments = {**ARGUMENTS, **{name: ("", f"{text} (empty: as in params_file)") for name, text in PARAMETERS.items()}}
    return [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in arguments.items()
    ]


def large_image_transport() -> list[SetEnvironmentVariable]:
    """Configures Fast DDS with enough shared memory for images, unless the user has set a profile."""
    profile = os.path.join(CONFIG, "fastdds.xml")
    # Fast DDS 3 uses the second name, earlier versions the first.
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    return [SetEnvironmentVariable(name, EnvironmentVariable(name, default_value=profile)) for name in names]


def camera_topics(cameras: list[str], kind: str, given: str) -> dict[str, str]:
    """Maps the node's name of a topic of each camera to the actual topic.

    Args:
        cameras: Names of the cameras; empty for a single camera.
        kind: image, depth or pose.
        given: The argument image_topic, depth_topic or pose_topic.

    Raises:
        ValueError: The number of topics is not the number of cameras.
    """
    names = [f"{name}/{kind}" for name in cameras] or [kind]
    topics = yaml.safe_load(given) if given.lstrip().startswith("[") else [given] if given else names
    if len(topics) != len(names):
        raise ValueError(f"{kind}_topic has {len(topics)} topics for {len(names)} cameras; give one per camera")
    return dict(zip(names, topics, strict=True))


def remappings(name: str, topic: str) -> list[tuple[str, str]]:
    """Remaps `name` with its compressed topic and camera_info to `topic`."""
    return [
        (name, topic),
        (f"{name}/compressed", f"{topic}/compressed"),
        (os.path.join(os.path.dirname(name), "camera_info"), os.path.join(os.path.dirname(topic), "camera_info")),
    ]


def own_name(program: str, name: str) -> str:
    """Returns the node name of a program for the camera with the topic `name`, such as left/image."""
    return "_".join([program, *name.split("/")[:-1]])


def rviz_window(name: str, topic: str, fixed_frame: str, common: dict) -> Node:
    """Returns an RViz node for a camera, with the topics of the layout remapped to those of the camera.

    Args:
        name: The node's name of the image topic: image, or CAMERA/image.
        topic: The actual topic.
        fixed_frame: Fixed frame; empty for that of the layout.
        common: Common arguments of all nodes.
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
    """Returns a simulated camera that replaces one of the node's cameras.

    Args:
        image: The node's name of the image topic (image, or CAMERA/image), and the actual topic.
        depth: The node's name of the depth topic, and the actual topic.
        seed: Seed of the scene and trajectory.
        rate: Frames per second.
        common: Common arguments of all nodes.
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


def object_memory(
    cameras: list[str], topics: dict, depth_topics: dict, parameters: dict, given: dict, common: dict
) -> Node:
    """Returns the node that remembers what the perception node sees.

    Args:
        cameras: Names of the cameras; empty for a single camera.
        topics: The nodes' names of image topics, and the actual topics.
        depth_topics: Likewise of depth topics.
        parameters: Parameters of the perception node, some of which are the memory's too.
        given: The launch arguments.
        common: Common arguments of all nodes.
    """
    shared = ("use_sim_time", "autostart", "cameras", "image_transport", "depth_transport")
    settings = {name: parameters[name] for name in shared if name in parameters}
    if settings.get("image_transport") == "ffmpeg":
        del settings["image_transport"]
        settings["crop_side"] = 0  # no pictures: it does not decode video
    map_frame = given["map_frame"] or ("world" if yaml.safe_load(given["sim"]) else "")
    settings |= {"map_frame": map_frame} if map_frame else {}
    settings |= {"file": given["memory_file"]} if given["memory_file"] else {}
    return Node(
        executable="object_memory",
        name="object_memory",
        parameters=[given["memory_params_file"], settings],
        remappings=[
            *(pair for name, topic in topics.items() for pair in remappings(name, topic)),
            *depth_topics.items(),
            *camera_topics(cameras, "pose", given["pose_topic"]).items(),
        ],
        **common,
    )


def nodes(context: LaunchContext) -> list[Node]:
    """Returns the nodes to start; called when the values of the arguments are known."""
    given = context.launch_configurations
    parameters = {name: yaml.safe_load(given[name]) for name in PARAMETERS if given[name]}
    cameras = parameters.get("cameras", [])
    remembers = yaml.safe_load(given["memory"])
    if remembers:
        parameters = {"use_depth": True, "publish_embeddings": "float16", **parameters}
    topics, depth_topics = (camera_topics(cameras, kind, given[f"{kind}_topic"]) for kind in ("image", "depth"))
    common = {
        "package": "fcclip_ros",
        "namespace": given["namespace"],
        "ros_arguments": ["--log-level", given["log_level"]],
        "output": "screen",
        # Seconds between SIGINT and SIGTERM: launch does not forward SIGINT to nodes that should have received it from
        # the terminal. Nodes exit within three seconds of either signal; receiving both is harmless.
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
    if remembers:
        started.append(object_memory(cameras, topics, depth_topics, parameters, given, common))
    if yaml.safe_load(given["rviz"]):
        started += [rviz_window(name, topic, given["fixed_frame"], common) for name, topic in topics.items()]
    transport = parameters.get("image_transport", "raw")
    compressed = transport == "compressed"
    simulated = yaml.safe_load(given["sim"])
    packed_depth = parameters.get("depth_transport", "raw") != "raw"
    if simulated and (given["source"] or transport != "raw" or packed_depth):
        raise ValueError(
            "sim:=true cannot be combined with source, nor with an image_transport or depth_transport other than raw; "
            "remove those"
        )
    if given["source"] and transport == "ffmpeg":
        raise ValueError("source publishes no video, so it cannot be combined with image_transport:=ffmpeg; remove one")
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
    """Declares the arguments and starts the nodes."""
    return LaunchDescription([*declared_arguments(), *large_image_transport(), OpaqueFunction(function=nodes)])
