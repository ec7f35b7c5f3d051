"""All tests that launch kernels, in one process with Triton's interpreter, where there is no GPU."""

from __future__ import annotations

from gpu_kernels import interpret, needs_triton, starts_interpreter


@needs_triton
@starts_interpreter
def test_kernels_in_the_interpreter() -> None:
    interpret("kernels/test_deformable_triton.py", "inference/test_postprocess_gpu.py", "kernels/test_gpu_network.py")
