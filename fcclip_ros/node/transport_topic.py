"""Topics of image_transport's transports: a name with a suffix, which follows the remapping of that name."""

from __future__ import annotations

from rclpy.node import Node


def transport_topic(node: Node, name: str, suffix: str, what: str) -> str:
    """The topic to subscribe to, before remapping.

    A remapping of the raw topic also applies to those of its transports, as in image_transport; a remapping of a
    transport's topic itself takes precedence.

    Args:
        node: The node.
        name: Topic of the raw images before remapping.
        suffix: Of the transport, such as /compressed; empty for raw images.
        what: What the messages are, in the plural, for the log.
    """
    if not suffix:
        return name
    own = f"{name}{suffix}"
    if node.resolve_topic_name(own) != node.resolve_topic_name(own, only_expand=True):
        return own
    moved = f"{node.resolve_topic_name(name)}{suffix}"
    # rclpy remaps this name once more, so that two rules may be chained.
    if (chained := node.resolve_topic_name(moved)) != moved:
        node.get_logger().warning(
            f"{what} are read from {chained}: {name} is remapped to {moved.removesuffix(suffix)}, and {moved} to "
            f"{chained}; remap {own} to change that"
        )
    return moved
