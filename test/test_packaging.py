"""The package as it is built and installed: metadata that must agree, dependencies, and where files are found."""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import xml.etree.ElementTree as ElementTree
import zipfile
from collections import defaultdict
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename
from packaging.version import Version

from checkout import ROOT
from fcclip_core.backends import jetson

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = ElementTree.parse(ROOT / "package.xml").getroot()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CMAKE = (ROOT / "CMakeLists.txt").read_text()

# Needed by a library of ours, which asks for them without a lower bound.
INDIRECT = {"torchvision"}


def load_file(path: Path) -> ModuleType:
    """Runs a Python file as a module, without importing the package in which it may lie."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ros_packages() -> set[str]:
    return {element.text for element in PACKAGE if element.tag.endswith("depend")}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required() -> set[str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return {normalized(re.split(r"[<>=\[;]", line)[0].strip()) for line in lines if line and not line.startswith("#")}


def optional() -> set[str]:
    """Distributions that only some commands need."""
    extras = PROJECT["optional-dependencies"]
    lines = [line for name in ("cpu", "gpu", "evaluation", "simulation", "view", "video") for line in extras[name]]
    return {normalized(re.split(r"[<>=\[;]", line)[0]) for line in lines}


def imported(*folders: str) -> set[str]:
    """Top-level names of the modules that the files import, the standard library's and our own left out."""
    names = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"fcclip_core", "fcclip_ros"}


@functools.cache
def owners() -> dict[str, set[str]]:
    """Top-level module -> the installed distributions that have files in it."""
    # importlib's packages_distributions() knows few of them before Python 3.11.
    found = defaultdict(set)
    for distribution in distributions():
        name = normalized(distribution.metadata["Name"])
        for line in (distribution.read_text("RECORD") or "").splitlines():
            found[line.split(",")[0].split("/")[0].removesuffix(".py")].add(name)
    return found


def test_versions_agree() -> None:
    assert PROJECT["version"] == PACKAGE.findtext("version")


def test_the_change_log_has_this_version() -> None:
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_imported_module_is_a_declared_dependency() -> None:
    installed = owners()
    modules = imported("fcclip_core", "fcclip_ros", "launch") - ros_packages()
    undeclared = {name for name in modules if not installed[name] & (required() | optional())}
    assert not undeclared, "add to requirements.txt or an extra, or to package.xml if it is a ROS package"


def test_every_required_distribution_is_imported() -> None:
    installed = owners()
    used = {owner for name in imported("fcclip_core", "fcclip_ros") for owner in installed[name]}
    assert required() - used - INDIRECT == set()


def requirements(file: str) -> dict[str, Requirement]:
    lines = (ROOT / file).read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {requirement.name: requirement for requirement in found}


def satisfied(requirement: Requirement, version: Version | str) -> bool:
    """As pip judges what is installed: a pre-release counts like any other version."""
    return requirement.specifier.contains(version, prereleases=True)


def test_nvidias_torch_for_jetsons_is_new_enough() -> None:
    """It was not, and pip replaced it by one for processors."""
    name, version, _, tags = parse_wheel_filename(jetson.TORCH_WHEEL.rpartition("/")[2])
    assert name == "torch"
    assert {str(tag) for tag in tags} == {"cp310-cp310-linux_aarch64"}
    assert satisfied(requirements("requirements.txt")["torch"], version)
    assert satisfied(requirements("constraints-jetson.txt")["torch"], version)


def test_versions_for_jetsons_fit_and_keep_what_is_installed() -> None:
    wanted, kept = requirements("requirements.txt"), requirements("constraints-jetson.txt")
    assert satisfied(wanted["torchvision"], "0.20.0") and satisfied(kept["torchvision"], "0.20.0")
    # Whatever else PyPI has or will have, so that pip says it cannot rather than replaces.
    for newer in ("2.5.0", "2.5.1", "2.11.0"):
        assert not satisfied(kept["torch"], newer), newer
    assert satisfied(wanted["numpy"], "1.26.4") and satisfied(kept["numpy"], "1.26.4")
    assert not satisfied(kept["numpy"], "2.0.0")


def test_the_sequence_for_jetsons_is_documented_as_it_is_meant() -> None:
    text = (ROOT / "docs" / "how-to" / "jetson.md").read_text()
    assert jetson.TORCH_WHEEL in text
    assert "BUILD_VERSION=0.20.0" in text
    assert "-c constraints-jetson.txt -r requirements.txt" in text


def test_the_core_imports_no_ros() -> None:
    assert not imported("fcclip_core") & (ros_packages() | {"rclpy"})


def entry_points() -> list[str]:
    """All "module:function" that commands are made of, in the wheel and in the ROS package."""
    from_cmake = re.findall(r"^ *install_entry_point\((\S+) ", CMAKE, re.MULTILINE)
    assert from_cmake
    return [*PROJECT["scripts"].values(), *(f"{module}:main" for module in from_cmake)]


@pytest.mark.parametrize("entry_point", entry_points())
def test_commands_lead_to_a_function(entry_point: str) -> None:
    module, function = entry_point.split(":")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_ros_commands_are_executable() -> None:
    """`colcon build --symlink-install` links to files that inherit the template's permissions."""
    assert os.access(ROOT / "cmake" / "entry_point.in", os.X_OK)


def test_the_interfaces_alone_can_be_imported(tmp_path: Path) -> None:
    """Built with FCCLIP_INSTALL_PYTHON=OFF, the package is its __init__.py and what rosidl generates."""
    (tmp_path / "fcclip_ros" / "msg").mkdir(parents=True)
    (tmp_path / "fcclip_ros" / "msg" / "__init__.py").touch()
    shutil.copy(ROOT / "fcclip_ros" / "__init__.py", tmp_path / "fcclip_ros")
    command = [sys.executable, "-S", "-c", "import fcclip_ros.msg"]  # without site-packages
    subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path, check=True)


class TestConfigPath:
    """config_path, loaded from a copy that lies as each kind of installation lays it."""

    @pytest.mark.parametrize(
        "site_packages",
        ["lib/python3.12/site-packages", "local/lib/python3.10/dist-packages", "Lib/site-packages"],
    )
    def test_installed(self, tmp_path: Path, site_packages: str) -> None:
        resources = self.copy(tmp_path / site_packages)
        config = tmp_path / "share" / "fcclip_ros" / "config"
        config.mkdir(parents=True)
        assert resources.config_path("vocabularies", "a.yaml") == config / "vocabularies" / "a.yaml"

    def test_linked_from_an_install_to_a_checkout(self, tmp_path: Path) -> None:
        checkout, installed = tmp_path / "src", tmp_path / "install" / "lib" / "python3.12" / "site-packages"
        self.copy(checkout)
        (checkout / "config").mkdir()
        (checkout / "package.xml").touch()
        (installed / "fcclip_core" / "files").mkdir(parents=True)
        link = installed / "fcclip_core" / "files" / "resources.py"
        link.symlink_to(checkout / "fcclip_core" / "files" / "resources.py")
        assert load_file(link).config_path("a.yaml") == checkout / "config" / "a.yaml"

    def test_a_folder_called_config_beside_an_installed_package_is_not_ours(self, tmp_path: Path) -> None:
        resources = self.copy(tmp_path / "lib" / "site-packages")
        (tmp_path / "lib" / "site-packages" / "config").mkdir()
        (tmp_path / "share" / "fcclip_ros" / "config").mkdir(parents=True)
        assert resources.config_path() == tmp_path / "share" / "fcclip_ros" / "config"

    def test_incomplete_installation(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="installation of fcclip_ros is incomplete"):
            self.copy(tmp_path / "lib").config_path("a.yaml")

    @staticmethod
    def copy(folder: Path) -> ModuleType:
        place = folder / "fcclip_core" / "files"
        place.mkdir(parents=True)
        return load_file(Path(shutil.copy(ROOT / "fcclip_core" / "files" / "resources.py", place)))


class TestCheckHost:
    """What `make setup` says on a machine that lacks something."""

    check_host = load_file(ROOT / "cmake" / "check_host.py")

    def test_other_processor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
        assert any("colcon" in problem and "aarch64" in problem for problem in self.check_host.missing())

    @pytest.mark.parametrize("version", [(3, 9, 2), (3, 14, 0)])
    def test_other_python(self, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]) -> None:
        monkeypatch.setattr(sys, "version_info", version)
        assert any("make setup PYTHON=" in problem for problem in self.check_host.missing())

    def test_no_venv(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ensurepip", None)
        assert any("-venv" in problem for problem in self.check_host.missing())

    def test_no_headers(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
        assert any("-dev" in problem for problem in self.check_host.missing())

    @pytest.mark.parametrize("variable", ["CC", "CXX"])
    def test_no_compiler(self, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
        monkeypatch.setenv(variable, "no-such-compiler")
        assert any("build-essential" in problem for problem in self.check_host.missing())

    def test_no_gl_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def absent(name: str) -> None:
            raise OSError(name)

        monkeypatch.setattr(self.check_host.ctypes, "CDLL", absent)
        assert ["libegl1" in wish for wish in self.check_host.wanted()] == [True]


@pytest.mark.slow
def test_a_wheel_holds_all_modules_and_configuration(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in ("fcclip_core", "fcclip_ros", "config", "launch", "demo"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {re.sub(r"^[^/]+\.data/data/share/fcclip_ros/", "", name) for name in zipfile.ZipFile(wheel).namelist()}
    expected = {
        str(path.relative_to(source))
        for folder, pattern in (
            ("fcclip_core", "*.py"),
            ("fcclip_ros", "*.py"),
            ("config", "*"),
            ("launch", "*.py"),
            ("demo/drive", "*"),
        )
        for path in (source / folder).rglob(pattern)
        if path.is_file()
    }
    assert expected - packed == set()
