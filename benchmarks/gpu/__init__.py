"""What only a GPU can tell: `python -m benchmarks.gpu`, or `benchmarks/gpu.sh` on a bare machine."""
