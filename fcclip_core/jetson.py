"""NVIDIA's Jetson modules: their driver, CUDA and TensorRT come with JetPack, and their torch from NVIDIA's index."""

from __future__ import annotations

from pathlib import Path

_RELEASE = Path("/etc/nv_tegra_release")

INSTALL_TENSORRT = "sudo apt install nvidia-jetpack"
INSTALL_TORCH = (
    "pip install --force-reinstall -c config/jetson-jetpack6.txt --index-url "
    "https://pypi.jetson-ai-lab.io/jp6/cu126 torch torchvision"
)
"""In a checkout; docs/deployment.md has the whole sequence."""


def is_jetson() -> bool:
    """Whether this machine is one."""
    return _RELEASE.exists()
