"""Parameters of a node as they are declared: type, default, range, choices, and which may change while it runs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from fcclip_core.errors import SettingsError
from fcclip_core.settings import listed
from fcclip_ros.compat import given_parameters


@dataclass(frozen=True)
class Declaration:
    """One parameter as it is declared.

    Attributes:
        name: Its name.
        default: Its default, which also gives its type.
        description: For `ros2 param describe`.
        limits: Smallest and largest value of a number.
        choices: The texts or numbers that it may be.
        live: Whether it may change while the node is configured.
        any_type: Whether values of several types are accepted.
        read_only: Whether it keeps the value that it has at start.
    """

    name: str
    default: Any
    description: str
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] | tuple[int, ...] = ()
    live: bool = False
    any_type: bool = False
    read_only: bool = False

    def descriptor(self) -> ParameterDescriptor:
        """The descriptor to declare it with."""
        descriptor = ParameterDescriptor(
            description=self.description,
            additional_constraints=f"one of: {listed(self.choices)}" if self.choices else "",
            dynamic_typing=self.any_type,
            read_only=self.read_only,
        )
        if self.limits is not None and isinstance(self.default, float):
            low, high = self.limits
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
        elif self.limits is not None:
            first, last = (int(limit) for limit in self.limits)
            descriptor.integer_range = [IntegerRange(from_value=first, to_value=last, step=1)]
        return descriptor


def declared(default: Any, help: str, *, read: Callable[[str, Any], Any] | None = None, **more: Any) -> Any:
    """A field of a dataclass that is a parameter.

    Args:
        default: What it is declared with.
        help: A sentence without its full stop.
        read: Makes the field's value of the parameter's name and value; may raise `SettingsError`.
        **more: Further attributes of its `Declaration`.
    """
    return field(metadata={"declared": (default, f"{help}.", more), "read": read or (lambda _, value: value)})


def declarations_of(kind: type) -> tuple[Declaration, ...]:
    """The declarations of a dataclass whose fields are made by `declared`."""
    return tuple(
        Declaration(item.name, default, text, **more)
        for item in fields(kind)
        if "declared" in item.metadata
        for default, text, more in (item.metadata["declared"],)
    )


def read_declared(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the values of such a dataclass's parameters, for its constructor.

    Raises:
        SettingsError: A value is wrong.
    """
    found = [item for item in fields(kind) if "read" in item.metadata]
    return {item.name: item.metadata["read"](item.name, values[item.name]) for item in found}


def read_names(name: str, value: Any) -> tuple[str, ...]:
    """The texts that are not blank in a list, or in one text with semicolons between them; None is the empty list."""
    return tuple(filter(None, _texts(name, value.split(";") if isinstance(value, str) else value)))


def read_texts(name: str, value: Any) -> tuple[str, ...]:
    """A text or a list of texts, such as files, blank ones too."""
    return _texts(name, [value] if isinstance(value, str) else value)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """A list of texts without blanks around them; None is the empty list."""
    texts = [] if value is None else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise SettingsError(f"{name} is {value!r}; it must be a text or a list of texts")
    return tuple(text.strip() for text in texts)


def camera_names(value: Any) -> tuple[str, ...]:
    """Reads the parameter cameras.

    Returns:
        The cameras' names; one empty name where there are none.

    Raises:
        SettingsError: A name cannot be part of a topic's, or comes twice.
    """
    names = read_names("cameras", value)
    for camera in names:
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", camera):
            raise SettingsError(
                f"cameras has {camera!r}; a camera's name becomes part of topics (NAME/image), so it must consist of "
                "letters, digits and underscores and not begin with a digit"
            )
        if names.count(camera) > 1:
            raise SettingsError(f"cameras has {camera!r} twice; each camera needs a name of its own")
    return names or ("",)


def require_changeable(
    declarations: Iterable[Declaration], values: Mapping[str, Any], changes: Mapping[str, Any], lifecycle: str
) -> None:
    """Checks that a lifecycle node's parameters may change now; a value that is given again is no change.

    Args:
        declarations: The node's own parameters.
        values: Their present values.
        changes: New values of some of them.
        lifecycle: Label of the node's state.

    Raises:
        SettingsError: Naming those that may not, and what to do.
    """
    live = {declaration.name for declaration in declarations if declaration.live}
    fixed = [name for name, value in changes.items() if name not in live and value != values[name]]
    if changes and lifecycle == "configuring":
        raise SettingsError("the node is being configured; change parameters before or after")
    if fixed and lifecycle != "unconfigured":
        raise SettingsError(
            f"{', '.join(fixed)} cannot change while the node is configured; clean it up first, change, and configure "
            "again (ros2 lifecycle set NODE deactivate, cleanup, configure, activate)"
        )


def declare(node: Node, declarations: Iterable[Declaration]) -> None:
    """Declares a node's parameters.

    An empty list in a file has no type, so ROS calls it "not set": that is empty where lists are taken, and said and
    left out elsewhere.

    Raises:
        InvalidParameterTypeException: A value given at start has the wrong type.
        InvalidParameterValueException: A value given at start is out of range.
    """
    given = given_parameters(node)
    for parameter in declarations:
        value = given.get(parameter.name)
        left_out = value is not None and value.type_ == Parameter.Type.NOT_SET and not parameter.any_type
        if left_out:
            node.get_logger().warning(
                f"{parameter.name} is given as [], which is no value; its default is used: {parameter.default!r}"
            )
        node.declare_parameter(parameter.name, parameter.default, parameter.descriptor(), ignore_override=left_out)


def declare_checked(node: Node, declarations: Sequence[Declaration]) -> dict[str, Any]:
    """Declares a node's parameters, warns of given ones that do not exist, and returns all values.

    Raises:
        InvalidParameterTypeException: A value given at start has the wrong type.
        InvalidParameterValueException: A value given at start is out of range.
        SettingsError: A value is none of its choices.
    """
    declare(node, declarations)
    for complaint in unknown_parameters(given_parameters(node), node.has_parameter, declarations):
        node.get_logger().warning(complaint)
    values = {declaration.name: node.get_parameter(declaration.name).value for declaration in declarations}
    check_choices(declarations, values)
    return values


def refuse_fixed(
    node: Node, declarations: Iterable[Declaration], changes: Iterable[Parameter], advice: str
) -> SetParametersResult:
    """Decides whether a running node's parameters may change: those that are live, and those of others.

    A value that is given again is no change.

    Args:
        node: The node.
        declarations: Its own parameters.
        changes: What is to change.
        advice: Follows the names of those that may not.
    """
    not_live = {declaration.name for declaration in declarations if not declaration.live}
    fixed = [
        change.name
        for change in changes
        if change.name in not_live and change.value != node.get_parameter(change.name).value
    ]
    return SetParametersResult(successful=not fixed, reason=f"{', '.join(fixed)} {advice}" if fixed else "")


def check_choices(declarations: Iterable[Declaration], values: Mapping[str, Any]) -> None:
    """Checks the parameters that have choices.

    Raises:
        SettingsError: Naming the parameter, its value and its choices.
    """
    for declaration in declarations:
        choices = declaration.choices
        if choices and declaration.name in values and values[declaration.name] not in choices:
            value = values[declaration.name]
            raise SettingsError(f"{declaration.name} is {value!r}; it must be one of {listed(choices)}")


def unknown_parameters(
    given: Iterable[str], exists: Callable[[str], bool], declarations: Iterable[Declaration]
) -> list[str]:
    """Complaints about parameters that were given at start but do not exist, one sentence each.

    Args:
        given: Names that were given.
        exists: Tells whether the node has declared a parameter.
        declarations: The node's own parameters, to find what was perhaps meant.
    """
    known = [declaration.name for declaration in declarations]
    complaints = []
    for name in sorted(given):
        # The middleware's own, declared with each publisher and subscription.
        if exists(name) or name.startswith("qos_overrides."):
            continue
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        complaints.append(f"there is no parameter {name}, its value is ignored{hint}")
    return complaints
