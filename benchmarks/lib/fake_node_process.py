"""As node_process.py, with the tests' fake model, which answers at once: what is left is the node's own work."""

import sys
from importlib import import_module

from benchmarks.lib.node_process import main

if __name__ == "__main__":
    sys.exit(main(import_module("fake_segmenter").fake_loader()))
