#!/usr/bin/env bash
# Everything that needs a GPU, in one resumable command: whether its numbers are right, how fast it
# is, the published studies, and what lower precision does to results. A second call continues;
# TIME_LIMIT (seconds) stops it between studies.
set -euo pipefail
cd "$(dirname "$0")/.."
TIME_LIMIT=${TIME_LIMIT:-1500}
RESULTS=${RESULTS:-results/gpu}
PYTHON=${PYTHON:-.venv/bin/python}
mkdir -p "$RESULTS"
start=$(date +%s)
"$PYTHON" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "no GPU is visible to torch here")'

"$PYTHON" -m pytest -q tests/test_gpu.py || echo "a GPU's numbers differ from a CPU's here: see above"
# Graphs are used where they give the same numbers as ordinary steps.
graphs=()
if "$PYTHON" -m pytest -q tests/test_gpu.py -k graphs; then graphs=(--graphs); fi
if [ ! -e "${RESULTS%/}-speed.json" ]; then
  "$PYTHON" -m benchmarks.bench --only gpu --rounds 3 --json "${RESULTS%/}-speed.json"
fi

run() {  # study, data set, preset, further arguments
  local used=$(( $(date +%s) - start ))
  if [ "$used" -ge "$TIME_LIMIT" ]; then
    echo "stopped before $1 on $2 after $used s; the same command continues"
    exit 0
  fi
  timeout --signal=INT $(( TIME_LIMIT - used )) "$PYTHON" -m analysis.cli run "$1" --dataset "$2" \
    --preset "$3" --device cuda --results "$RESULTS" "${graphs[@]}" "${@:4}" \
    || echo "$1 on $2 is not finished"
}
for dataset in mnist news cifar10; do
  # A run of vgg16 on CIFAR-10 is 1600 TFLOP (vgg11 on MNIST: 95): 225 of them in full precision
  # would take hours.
  precision=full
  if [ "$dataset" = cifar10 ]; then precision=${CIFAR10_PRECISION:-bf16}; fi
  for study in tension isolation benchmark benchmark-bn; do
    run "$study" "$dataset" published --set precision="$precision"
  done
done
for precision in full tf32 bf16; do
  run tension digits standard --set precision="$precision"
done
