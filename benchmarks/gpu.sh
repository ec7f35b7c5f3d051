#!/usr/bin/env bash
# Everything that only a GPU can tell, inside ten minutes: that our GPU code gives the right answers, then how fast it is.
#
#   benchmarks/gpu.sh [--wheels DIR] [--out FILE] [--budget SECONDS] [--python PYTHON] [--dry-run] [options of benchmarks.gpu]
#
# A bare x86-64 machine with Python 3.12, torch 2.11 (CUDA 13), timm, onnx and triton is enough: what else is missing is
# installed from the wheels in DIR into a temporary folder (see README.md for how to fill one). Nothing is downloaded.
# --dry-run needs no GPU: the same program with a tiny model on the CPU, to see that it works.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
wheels= out= budget=570 python=python3 dry=false
options=()
while (($#)); do
  case $1 in
    --wheels) wheels=$2 && shift 2 ;;
    --out) out=$2 && shift 2 ;;
    --budget) budget=$2 && shift 2 ;;
    --python) python=$2 && shift 2 ;;
    --dry-run) dry=true && options+=(--dry-run) && shift ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
    *) options+=("$1") && shift ;;
  esac
done

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
left() { echo $((budget - SECONDS)); }

if [[ -n $wheels ]]; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$scratch/site" "$wheels"/*.whl
  export PYTHONPATH="$scratch/site${PYTHONPATH:+:$PYTHONPATH}"
fi
cd "$here"
if ! said=$("$python" -c 'import fcclip_core, rich' 2>&1); then
  echo "the core cannot be imported by $python: ${said##*$'\n'}" >&2
  echo "put what is missing into a folder as wheels, and give that as --wheels (benchmarks/README.md says how)" >&2
  exit 2
fi
export TORCHINDUCTOR_CACHE_DIR="$scratch/inductor" TRITON_CACHE_DIR="$scratch/triton" PYTHONUNBUFFERED=1

status=0
if ! $dry; then
  name=$("$python" -c 'import torch; print(torch.cuda.get_device_name().lower().replace(" ", "_"))' 2>/dev/null || echo gpu)
  out=${out:-benchmarks/results/gpu_$name.json}
fi

# What is measured last must not cost what was measured before: the program writes after each part, and knows the time.
timeout -k 10 "$(left)" "$python" -m benchmarks.gpu --budget "$(($(left) - 15))" ${out:+--json "$out"} ${options[@]+"${options[@]}"} || status=$?

# In a process of its own: a kernel that reads where it must not takes its process's GPU with it.
if ! $dry && (($(left) <= 30)); then
  echo "no time is left for the kernels' own tests" >&2
elif ! $dry; then
  if "$python" -c 'import pytest' 2>/dev/null; then
    limit=$(($(left) - 10))
    timeout -k 10 "$((limit < 90 ? limit : 90))" "$python" -m pytest -q -p no:cacheprovider -m "" -k "not compiles_for" \
      test/core/kernels/test_deformable_triton.py test/core/kernels/test_gpu_network.py test/core/inference/test_preprocess_gpu.py \
      test/core/inference/test_postprocess_gpu.py test/core/inference/test_decoder.py || ((status)) || status=1
  else
    echo "pytest is not installed: the kernels' own tests are left out" >&2
  fi
fi
exit "$status"
