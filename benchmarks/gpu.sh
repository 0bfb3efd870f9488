#!/usr/bin/env bash
# Everything that needs a GPU, in one resumable command: speed first, then the published studies.
# A second call continues; TIME_LIMIT (seconds) stops it between studies.
set -euo pipefail
cd "$(dirname "$0")/.."
TIME_LIMIT=${TIME_LIMIT:-1500}
RESULTS=${RESULTS:-results/gpu}
PYTHON=${PYTHON:-.venv/bin/python}
mkdir -p "$RESULTS"
start=$(date +%s)
"$PYTHON" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "no GPU is visible to torch here")'
"$PYTHON" -m benchmarks.bench --rounds 3 --json "${RESULTS%/}-speed.json"
for dataset in mnist news cifar10; do
  for study in tension isolation benchmark; do
    used=$(( $(date +%s) - start ))
    if [ "$used" -ge "$TIME_LIMIT" ]; then
      echo "stopped before $study on $dataset after $used s; the same command continues"
      exit 0
    fi
    timeout --signal=INT $(( TIME_LIMIT - used )) \
      "$PYTHON" -m analysis.cli run "$study" --dataset "$dataset" --preset published \
      --device cuda --results "$RESULTS" || echo "$study on $dataset is not finished"
  done
done
