#!/usr/bin/env bash
# Everything that is asked of a machine with a GPU, in stages of less than nine minutes each.
#
#   benchmarks/gpu.sh STAGE [FOLDER]     STAGE: parity graphs kernels speed mnist rest, or all
#
# Results go to FOLDER (default: $OUT, else results/gpu), with the studies' runs packed into
# results.tar.gz there every minute. A second call goes on: from what FOLDER holds, or from a
# results.tar.gz and the stages' .json in a folder `previous` in the kit. DEVICE=cpu rehearses at
# tiny sizes. Ends with 0 when all that was asked is done, with 3 when the same command has more to
# do. The stages are untried on a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
STAGE=${1:?give a stage: parity, graphs, kernels, speed, mnist, rest, or all}
FOLDER=${2:-${OUT:-results/gpu}}
DEVICE=${DEVICE:-cuda}
LIMIT=${LIMIT:-520}
PYTHON=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
export ABA_DATA_MIRROR=${ABA_DATA_MIRROR:-$PWD/data/mirror}
WORK=${WORK:-$(mktemp -d)}  # what is unpacked and not packed again
RESULTS=$WORK/results
mkdir -p "$FOLDER" "$WORK"

# Wheels that the kit brings for packages missing here.
if compgen -G "wheels/*.whl" >/dev/null && [ ! -e "$WORK/site" ]; then
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$WORK/site" wheels/*.whl
fi
if [ -d "$WORK/site" ]; then export PYTHONPATH=$PYTHONPATH:$WORK/site; fi
"$PYTHON" -m benchmarks.needs wheels

if [ -d previous ]; then find previous -maxdepth 1 -name '*.json' -exec cp -n {} "$FOLDER/" \;; fi
for before in previous "$FOLDER"; do
  if [ -e "$before/results.tar.gz" ]; then tar xzf "$before/results.tar.gz" -C "$WORK"; fi
done

keep() {
  if [ -d "$RESULTS" ]; then
    tar czf "$WORK/results.tmp" -C "$WORK" results && cp "$WORK/results.tmp" "$FOLDER/results.tmp" \
      && mv "$FOLDER/results.tmp" "$FOLDER/results.tar.gz"
  fi
}
# A call that is killed keeps what it had a minute before.
while sleep 60; do keep; done >/dev/null 2>&1 &
keeper=$!
trap 'kill $keeper 2>/dev/null || true; wait $keeper 2>/dev/null || true; keep' EXIT

began=$(date +%s)
unfinished=0  # 3 where a stage has more to do
stages=$STAGE
if [ "$STAGE" = all ]; then stages="parity graphs kernels speed mnist rest"; fi
for stage in $stages; do
  left=$(( LIMIT - ($(date +%s) - began) ))
  if [ "$left" -lt 15 ]; then echo "stopped before $stage; the same command goes on"; exit 3; fi
  if [ "$stage" = kernels ] && [ "$left" -gt 60 ]; then left=60; fi
  code=4
  again=--again  # what failed in an earlier call; what broke the device in this one is left alone
  until=$(( $(date +%s) + left ))
  while [ "$code" -eq 4 ] && [ "$left" -gt 0 ]; do
    code=0
    # A case that does not come back is ended, so that the results are kept.
    timeout --kill-after=10 $((left + 40)) "$PYTHON" -m benchmarks.on_gpu "$stage" --out "$FOLDER" \
      --results "$RESULTS" --device "$DEVICE" --limit "$left" $again || code=$?
    if [ "$code" -eq 134 ] || [ "$code" -eq 139 ]; then code=4; fi  # it aborted, or broke off
    again=
    left=$(( until - $(date +%s) ))
  done
  case $code in
    0 | 3) ;;
    4 | 124 | 137) code=3 ;;
    *) exit "$code" ;;
  esac
  unfinished=$(( code > unfinished ? code : unfinished ))
done
exit "$unfinished"
