"""The perception node with a backend that fails: failing_node.py FAULT [ROS arguments].

FAULT is `missing` (OpenVINO is not installed), `memory` (it runs out of memory while it compiles the graph), `wrong`
(it computes something else), `later` (it fails from the third frame on), `once` (it fails on the third frame alone),
`lost` (with the third frame the device is lost to the process, as a GPU after an illegal address), or `none`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fcclip_core import devices  # noqa: E402
from fcclip_core.backends import graph  # noqa: E402
from fcclip_core.model.fcclip import FCCLIP  # noqa: E402
from fcclip_ros.perception import main  # noqa: E402

_THIRD_FRAME = 4
"""The library's fourth run: the first one answers the check picture."""


def missing() -> None:
    sys.modules["openvino"] = None  # type: ignore[assignment]


def memory() -> None:
    import openvino

    def compile_model(*_: Any, **__: Any) -> None:
        raise RuntimeError("[CPU] out of memory")

    openvino.Core.compile_model = compile_model


def wrong() -> None:
    export = graph.export_onnx

    def export_other_weights(model: FCCLIP, *rest: Any) -> bytes:
        torch.manual_seed(0)
        return export(FCCLIP(model.config).eval(), *rest)

    graph.export_onnx = export_other_weights


def fail_in(runs: Container[int], said: str = "Exception from infer_request.cpp:223:\nout of memory") -> None:
    import openvino

    count = 0
    create: Callable[[Any], Any] = openvino.CompiledModel.create_infer_request

    class Request:
        def __init__(self, model: Any) -> None:
            self._request = create(model)

        def infer(self, *args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count in runs:
                raise RuntimeError(said)
            return self._request.infer(*args, **options)

    openvino.CompiledModel.create_infer_request = lambda model: Request(model)


def lose_device() -> None:
    said = "CUDA error: an illegal memory access was encountered"
    fail_in(range(_THIRD_FRAME, sys.maxsize), said)
    devices.fault = lambda device: said


FAULTS: dict[str, Callable[[], None]] = {
    "missing": missing,
    "memory": memory,
    "wrong": wrong,
    "later": lambda: fail_in(range(_THIRD_FRAME, sys.maxsize)),
    "once": lambda: fail_in((_THIRD_FRAME,)),
    "lost": lose_device,
    "none": lambda: None,
}

if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    sys.exit(main(sys.argv))
