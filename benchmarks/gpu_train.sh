#!/usr/bin/env bash
# The bundled model's own training on a GPU, in as many calls as it takes: each goes on where the last one stopped.
#
#   benchmarks/gpu_train.sh --shards DIR --out DIR [--clip FILE] [--resume DIR] [--steps N] [--budget SECONDS]
#                           [--wheels DIR] [--python PYTHON]
#   benchmarks/gpu_train.sh --dry-run [--python PYTHON]
#
# --shards holds frames of `fcclip world render --shards`, rendered beforehand: the machine with the GPU needs no MuJoCo.
# Without --clip the small CLIP is trained (frames of --split all), with it FC-CLIP on top of it (--split train).
# --out gets the run's folder as run.tar.000, run.tar.001, ..., each at most 15 MB; give it as --resume to the next call.
# --dry-run renders two scenes and trains both for a few steps on the processor, stopped and resumed in between.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
shards= out= clip= resume= steps= wheels= budget=540 python=python3 dry=false
while (($#)); do
  case $1 in
    --shards) shards=$2 && shift 2 ;;
    --out) out=$2 && shift 2 ;;
    --clip) clip=$2 && shift 2 ;;
    --resume) resume=$2 && shift 2 ;;
    --steps) steps=$2 && shift 2 ;;
    --budget) budget=$2 && shift 2 ;;
    --wheels) wheels=$2 && shift 2 ;;
    --python) python=$2 && shift 2 ;;
    --dry-run) dry=true && shift ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
    *) echo "unknown option $1; --help lists them" >&2 && exit 2 ;;
  esac
done
[[ $python == */* ]] && python=$(realpath -s "$python")

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if $dry; then
  cd "$here"
  for split in all train; do
    "$python" -m fcclip_core.cli world render "$scratch/$split" --scenes 2 --shards --views 2 --workers 1 --split "$split"
  done
  train() { "${BASH_SOURCE[0]}" --python "$python" "$@"; }
  train --shards "$scratch/all" --out "$scratch/clip.1" --steps 2
  train --shards "$scratch/all" --out "$scratch/clip.2" --resume "$scratch/clip.1" --steps 4
  mkdir "$scratch/clip" && cat "$scratch"/clip.2/run.tar.* | tar -xf - -C "$scratch/clip"
  train --shards "$scratch/train" --out "$scratch/world.1" --clip "$scratch/clip/clip.safetensors" --steps 1
  train --shards "$scratch/train" --out "$scratch/world.2" --clip "$scratch/clip/clip.safetensors" --resume "$scratch/world.1" --steps 2
  files=$(cat "$scratch"/world.2/run.tar.* | tar -tf -)
  [[ $files == *demo.safetensors* ]]
  echo "dry run: trained, stopped and resumed"
  exit
fi

[[ -n $shards && -n $out ]] || { echo "--shards and --out are needed; --help says what they are" >&2 && exit 2; }
mkdir -p "$out" "$scratch/run"
if [[ -n $resume ]]; then
  cat "$resume"/run.tar.* | tar -xf - -C "$scratch/run"
fi
if [[ -n $wheels ]]; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$scratch/site" "$wheels"/*.whl
  export PYTHONPATH="$scratch/site${PYTHONPATH:+:$PYTHONPATH}"
fi
shards=$(realpath "$shards") out=$(realpath "$out") && [[ -z $clip ]] || clip=$(realpath "$clip")
cd "$here"
export PYTHONUNBUFFERED=1

# What is saved every so many steps is enough to go on: the end of the budget needs no ceremony, only time to pack.
options=(--out "$scratch/run" ${steps:+--steps "$steps"})
status=0
if [[ -n $clip ]]; then
  timeout -k 10 "$((budget - 20))" "$python" -m fcclip_core.cli train world "$shards" --clip "$clip" "${options[@]}" || status=$?
else
  timeout -k 10 "$((budget - 20))" "$python" -m fcclip_core.cli train world-clip "$shards" "${options[@]}" || status=$?
fi
rm -f "$out"/run.tar.*
tar -cf - -C "$scratch/run" . | split -b 15000000 -d -a 3 - "$out/run.tar."
ls -l "$out"
# The time was up: that is no failure, and the next call goes on.
((status == 124)) || exit "$status"
