#!/usr/bin/env bash
# Everything that is to be known of a machine with a GPU, in one call of about eight minutes.
#
#   benchmarks/gpu_run.sh OUT               # folder of what it finds, written as it goes
#   benchmarks/gpu_run.sh OUT --failed      # again, only the steps that did not pass
#   benchmarks/gpu_run.sh OUT --cpu-check   # every step on a CPU with a tiny model, to see that it works
#
# PYTHON is the interpreter (default: .venv/bin/python, else python3); WHEELS a folder of wheels to install first,
# into OUT/site, for a machine without a package index. Exit code 0: every step passed.
# Steps, those that tell most first: versions, forward, server, memory, figures (with a profile), images, training.
set -uo pipefail
cd "$(dirname "$0")/.."

out=${1:?name the folder for results: benchmarks/gpu_run.sh OUT [--failed] [--cpu-check]}
shift
failed=no check=no
for flag in "$@"; do
    case $flag in
        --failed) failed=yes ;;
        --cpu-check) check=yes ;;
        *) echo "$flag is no flag; there is --failed and --cpu-check" >&2; exit 2 ;;
    esac
done
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ -n "${WHEELS:-}" ]; then
    [ -d "$out/site" ] || "$python" -m pip install -q --no-index --no-deps --no-compile --target "$out/site" "$WHEELS"/*.whl || exit 1
    export PYTHONPATH="$out/site:$PYTHONPATH"
fi

if [ "$check" = yes ]; then
    # Tests of a GPU are skipped on a CPU; collecting them shows that their imports work with these versions.
    tests=("-m" pytest -q -p no:cacheprovider --collect-only) bench=(--cpu-check)
else
    tests=("-m" pytest -q -x -p no:cacheprovider -m gpu) bench=(--quick)
fi

passed=yes
# step NAME SECONDS COMMAND...: its output goes to OUT/NAME.log and its exit code to OUT/NAME.code.
step() {
    local name=$1 limit=$2
    shift 2
    if [ $failed = yes ] && [ "$(cat "$out/$name.code" 2>/dev/null)" = 0 ]; then
        return
    fi
    local started=$SECONDS
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1
    local code=$?
    echo $code >"$out/$name.code"
    echo "$name: exit code $code after $((SECONDS - started)) s, at most $limit: $(tail -n 1 "$out/$name.log" | cut -c1-300)" | tee -a "$out/summary.txt"
    [ $code = 0 ] || passed=no
}

step versions 60 "$python" - <<'PYTHON'
import importlib.metadata as metadata
import platform

import torch

print(platform.platform(), platform.python_version())
for name in ("torch", "triton", "timm", "peft", "transformers", "grpcio", "numpy"):
    try:
        print(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        print(name, "is not installed")
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")
PYTHON
step forward 120 "$python" "${tests[@]}" tests/gpu/test_forward.py
step server 60 "$python" "${tests[@]}" tests/gpu/test_server.py
step memory 60 "$python" "${tests[@]}" tests/gpu/test_memory.py
step figures 240 "$python" -m benchmarks.gpu "${bench[@]}" --out "$out/figures" --only mixed profile ensemble count peft train served hotload
step images 60 "$python" "${tests[@]}" tests/gpu/test_real_images.py
step training 60 "$python" "${tests[@]}" tests/gpu/test_training.py

[ $passed = yes ]
