"""NVIDIA Jetson: driver, CUDA and TensorRT come with JetPack, and NVIDIA provides a torch wheel that uses them."""

from __future__ import annotations

from pathlib import Path

_RELEASE = Path("/etc/nv_tegra_release")

TORCH_WHEEL = (
    "https://developer.download.nvidia.com/compute/redist/jp/v61/pytorch/"
    "torch-2.5.0a0+872d972e41.nv24.08.17622132-cp310-cp310-linux_aarch64.whl"
)
"""For JetPack 6.1 and 6.2; docs/how-to/jetson.md has the full instructions."""

INSTALL_TORCH = f"pip install --force-reinstall --no-deps {TORCH_WHEEL}"
INSTALL_TENSORRT = "sudo apt install nvidia-jetpack"


def is_jetson() -> bool:
    """Whether this machine is a Jetson."""
    return _RELEASE.exists()
