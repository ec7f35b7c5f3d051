# Sets up, tests and runs fcclip_ros in a virtual environment, without a ROS installation. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.ONESHELL:

PYTHON ?= python3
VENV ?= .venv
prefix := $(abspath $(VENV))
python := $(prefix)/bin/python
interfaces := $(prefix)/build/fcclip_ros
# Test modules are shared out among processes; each takes about 2 GB, and has one thread: more of them than cores wait for
# each other, which doubled the time of tests that compute.
pytest := OMP_NUM_THREADS=1 $(python) -m pytest --strict-skips --numprocesses auto --maxprocesses 4 --dist loadfile
test_interfaces := vision_msgs tf2_msgs ffmpeg_image_transport_msgs

.PHONY: help setup test lint test-fast test-all demo fuzz docs clean

help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14
	@echo "  PYTHON=$(PYTHON) makes the virtual environment VENV=$(VENV)"

setup: $(prefix)/.interfaces $(prefix)/.test_interfaces ## Make the virtual environment and build the messages; again only what changed

test: lint test-fast ## Lint and the fast tests

lint: setup ## ruff, codespell and mypy
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(prefix)/bin/codespell
	$(python) -m mypy

test-fast: setup ## The fast tests
	$(pytest)

test-all: lint ## Lint and all tests, slow ones too
	$(pytest) -m ""

demo: setup ## Drive a simulated robot, label its camera, ask where things were; film and report go to demo_output/
	$(python) -m demo

fuzz: setup ## Ten minutes of inputs that nobody made on purpose: messages, vocabularies, checkpoints, cache, bags
	$(python) test/fuzz

docs: setup $(prefix)/.docs ## Build the documentation into site/; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict

clean: ## Remove the virtual environment and everything that was built
	rm -rf $(VENV) build install log site demo_output *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(prefix)/.packages: pyproject.toml requirements.txt setup.py
	@$(PYTHON) cmake/check_host.py
	$(PYTHON) -m venv $(prefix)
	$(python) -m pip install --upgrade pip
	$(python) -m pip install --editable '.[ros,ros-build,evaluation,simulation,view,video,cpu,test]'
	$(python) -m pip install --editable '.[rtx]' || echo 'TensorRT-RTX is not installed (above is why): its tests are skipped, which `make test` allows only where NVIDIA has no wheel'
	@touch $@

$(prefix)/.docs: $(prefix)/.packages
	$(python) -m pip install --editable '.[docs]'
	@touch $@

# The generated interfaces go into the virtual environment, where the ROS wheels are. AMENT_PREFIX_PATH is that
# environment alone: a sourced ROS installation would be mixed in. Launch and configuration files are linked.
$(prefix)/.interfaces: $(prefix)/.packages CMakeLists.txt package.xml $(wildcard action/* msg/* srv/* cmake/*)
	rm -rf $(interfaces)
	export PATH=$(prefix)/bin:$$PATH AMENT_PREFIX_PATH=$(prefix)
	unset PYTHONPATH
	cmake -S . -B $(interfaces) -G Ninja -DBUILD_TESTING=OFF -DFCCLIP_INSTALL_PYTHON=OFF -DAMENT_CMAKE_SYMLINK_INSTALL=ON \
		-DCMAKE_PREFIX_PATH=$(prefix) -DCMAKE_INSTALL_PREFIX=$(prefix) -DPython3_EXECUTABLE=$(python) \
		-DCMAKE_PROJECT_fcclip_ros_INCLUDE=$(CURDIR)/cmake/ros_wheels.cmake
	cmake --build $(interfaces)
	cd $(interfaces)
	cmake --install . >install.log
	@touch $@

# Messages of packages that are not on PyPI, with the same fields, for the tests that ask for them; in a folder of their
# own, because the other tests are about what happens without.
$(prefix)/.test_interfaces: $(prefix)/.packages $(wildcard test/interfaces/*/* test/interfaces/*/msg/* cmake/ros_wheels.cmake)
	rm -rf $(test_interfaces:%=$(prefix)/build/%) $(prefix)/test_interfaces
	export PATH=$(prefix)/bin:$$PATH AMENT_PREFIX_PATH=$(prefix)
	unset PYTHONPATH
	for package in $(test_interfaces); do
		build=$(prefix)/build/$$package
		cmake -S test/interfaces/$$package -B $$build -G Ninja -DBUILD_TESTING=OFF \
			-DCMAKE_PREFIX_PATH=$(prefix) -DCMAKE_INSTALL_PREFIX=$(prefix)/test_interfaces -DPython3_EXECUTABLE=$(python) \
			-DCMAKE_PROJECT_INCLUDE=$(CURDIR)/cmake/ros_wheels.cmake
		cmake --build $$build
		cmake --install $$build >$$build/install.log
	done
	@touch $@
