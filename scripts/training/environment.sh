# Sourced by scripts/train and scripts/evaluate: makes .venv-train (torch and friends) where it is missing. A second run takes
# a fraction of a second. On Linux PyPI's torch brings CUDA along; for the small CPU build set
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu before the first run.
TRAINING_PACKAGES=("torch==2.13.0" "numpy>=2" "opencv-python-headless>=4.11,<6" "onnx>=1.17" "onnxscript>=0.5" "onnxruntime>=1.20")

training_fail() { printf 'training environment: %s\n' "$*" >&2; exit 1; }

training_python() { # the first Python >= 3.11 that really runs
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && { printf '%s' "$name"; return; }
  done
  return 1
}

training_environment() { # training_environment ROOT: leaves the interpreter's path in TRAINING_PYTHON
  local root=$1 venv=$1/.venv-train stamp wanted
  TRAINING_PYTHON=$venv/bin/python
  stamp=$venv/.made-from
  # what the project itself needs decides too: its dependencies are imported by the training code
  wanted="${TRAINING_PACKAGES[*]} $root $(cksum < "$root/pyproject.toml" 2> /dev/null || true)"
  if [ -x "$TRAINING_PYTHON" ] && [ "$(cat "$stamp" 2> /dev/null)" = "$wanted" ]; then return; fi
  mkdir -p "$root/.setup"
  exec 8> "$root/.setup/train.lock"
  flock 8
  if [ -x "$TRAINING_PYTHON" ] && [ "$(cat "$stamp" 2> /dev/null)" = "$wanted" ]; then exec 8>&-; return; fi
  echo "making the training environment in .venv-train (torch: some minutes the first time)" >&2
  if ! "$TRAINING_PYTHON" -m pip --version > /dev/null 2>&1; then
    local python
    python=$(training_python) || training_fail "no Python >= 3.11 with venv found; install python3.11 and python3.11-venv or newer and run this again"
    "$python" -m venv --clear "$venv"
  fi
  "$TRAINING_PYTHON" -m pip install --quiet --disable-pip-version-check "${TRAINING_PACKAGES[@]}" ||
    training_fail "pip could not install ${TRAINING_PACKAGES[*]}; see its message above and run this again"
  if [ -f "$root/pyproject.toml" ]; then
    "$TRAINING_PYTHON" -m pip install --quiet --disable-pip-version-check -e "$root" ||
      training_fail "pip could not install the project itself; see its message above and run this again"
  fi
  printf '%s' "$wanted" > "$stamp"
  exec 8>&-
}
