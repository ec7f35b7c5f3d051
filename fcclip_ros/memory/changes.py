"""The services that change what is remembered, or where it is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from std_srvs.srv import Trigger

import fcclip_ros.srv as srv
from fcclip_core.errors import SettingsError
from fcclip_core.memory.objects import State
from fcclip_ros.compat import result_of
from fcclip_ros.conversions.remembered_objects import area_of
from fcclip_ros.conversions.stamps import nanoseconds
from fcclip_ros.memory.access import Access
from fcclip_ros.node.worker import Worker
from fcclip_ros.qos import REQUESTS


class ChangeServices:
    """Serves `~/forget`, `~/name_object`, `~/save` and `~/load`."""

    def __init__(self, node: Node, access: Access, files: Worker[None], load: Callable[[str, bool], int]) -> None:
        """Creates the services.

        Args:
            node: The node.
            access: What they need from the node.
            files: The thread that waits for the disk, so that questions need not.
            load: Opens a file, or adds its objects if the second argument is true; returns the number of objects.
        """
        self._node = node
        self._access = access
        self._files = files
        self._load = load
        # Reentrant: the callbacks await other threads without blocking the executor.
        group = ReentrantCallbackGroup()
        for kind, name, worker, act in (
            (srv.ForgetObjects, "forget", access.requests, self._forget),
            (srv.NameObject, "name_object", access.requests, self._name),
            (Trigger, "save", files, self._save),
            (srv.LoadMemory, "load", files, self._add_file),
        ):
            node.create_service(
                kind, f"~/{name}", self._served(name, worker, act), qos_profile=REQUESTS, callback_group=group
            )

    def _served(self, name: str, worker: Worker[None], act: Callable[[Any, Any], None]) -> Callable[..., Any]:
        async def serve(request: Any, response: Any) -> Any:
            try:
                await result_of(worker.submit(act, request, response), self._node.executor)
                response.success = True
            except Exception as error:
                response.message = self._access.refuse(f"{name}: request rejected", error)
            return response

        return serve

    def _forget(self, request: srv.ForgetObjects.Request, response: srv.ForgetObjects.Response) -> None:
        memory = self._access.memory()
        if request.ids:
            response.forgotten = memory.forget(request.ids)
        else:
            area = area_of(request)
            if area is None and not (request.older_than or request.only_gone or request.all):
                raise SettingsError(
                    "nothing says what to forget; give ids, an area, older_than or only_gone, or set all"
                )
            before = None
            if request.older_than:
                before = nanoseconds(self._access.header().stamp) - int(request.older_than * 1e9)
            states = (State.GONE,) if request.only_gone else tuple(State)
            response.forgotten = memory.forget_where(area, states, before)
        self._access.changed()
        response.message = f"{response.forgotten} objects are forgotten"

    def _name(self, request: srv.NameObject.Request, response: srv.NameObject.Response) -> None:
        item = self._access.memory().name(request.id, request.name.strip())
        self._access.changed()
        response.message = f"object {item.id} goes by {item.name or 'no name'}"

    def _save(self, request: Trigger.Request, response: Trigger.Response) -> None:
        memory = self._access.memory()
        memory.save()
        response.message = f"{len(memory)} objects are on the disk"

    def _add_file(self, request: srv.LoadMemory.Request, response: srv.LoadMemory.Response) -> None:
        self._access.memory()  # only of a node that is configured
        response.objects = self._load(request.file, request.add)
        self._access.changed()
        response.message = f"{response.objects} objects are remembered now"
