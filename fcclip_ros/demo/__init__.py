"""`python -m fcclip_ros.demo`: the whole line on real photographs, watched and checked from a process of its own."""
