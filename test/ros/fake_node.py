"""The perception node with a fake model, as a program: fake_node.py SECONDS ENCODING_SECONDS [ROS arguments]."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

from fake_segmenter import fake_loader  # noqa: E402

from fcclip_ros.perception import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv, fake_loader(float(sys.argv[1]), float(sys.argv[2]))))
