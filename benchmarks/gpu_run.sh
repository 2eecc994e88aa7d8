#!/usr/bin/env bash
# Everything that is to be known of a machine with a GPU, in one call of about five minutes.
#
#   benchmarks/gpu_run.sh OUT               # folder of what it finds, written as it goes
#   benchmarks/gpu_run.sh OUT --failed      # again, only the steps that did not pass
#   benchmarks/gpu_run.sh OUT --cpu-check   # every step on a CPU with a tiny model, to see that it works
#
# PYTHON is the interpreter (default: .venv/bin/python, else python3); WHEELS a folder of wheels to install first,
# into OUT/site, Corolla's own among them, for a machine without a package index; the code is this checkout's.
# Exit code 0: every step passed.
# Steps: versions; tests of the forward, the server, training and real images side by side; memory and figures (with a
# profile) alone.
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
export PYTHONUNBUFFERED=1
if [ -n "${WHEELS:-}" ]; then
    [ -d "$out/site" ] || "$python" -m pip install -q --no-index --no-deps --no-compile --target "$out/site" "$WHEELS"/*.whl || exit 1
    PYTHONPATH="$out/site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

if [ "$check" = yes ]; then
    # Tests of a GPU are skipped on a CPU; collecting them shows that their imports work with these versions.
    tests=("-m" pytest -q -p no:cacheprovider --collect-only) workers=() bench=(--cpu-check)
else
    # Warnings of libraries of other versions than ours are no failures.
    tests=("-m" pytest -q --maxfail=20 -W default -p no:cacheprovider -m gpu) workers=(-n 6) bench=(--quick)
    export TRITON_INTERPRET=0
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
    return $code
}

step versions 120 "$python" - <<'PYTHON' || passed=no
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
beside=()
step forward 200 "$python" "${tests[@]}" "${workers[@]}" tests/gpu/test_forward.py & beside+=($!)
step server 200 "$python" "${tests[@]}" tests/gpu/test_server.py & beside+=($!)
step training 200 "$python" "${tests[@]}" tests/gpu/test_training.py & beside+=($!)
step images 200 "$python" "${tests[@]}" tests/gpu/test_real_images.py & beside+=($!)
for process in "${beside[@]}"; do
    wait "$process" || passed=no
done
step memory 60 "$python" "${tests[@]}" tests/gpu/test_memory.py || passed=no
step figures 260 "$python" -m benchmarks.gpu "${bench[@]}" --out "$out/figures" --only mixed profile served hotload ensemble count peft train || passed=no

[ $passed = yes ]
