#!/usr/bin/env bash
# Build sdist and wheel into _build/dist, install the wheel into an empty environment, and use it
# from an empty folder.  Versions are those of the lock; the newest are tried once a week.
set -euo pipefail
cd "$(dirname "$0")/.."
python="$PWD/${VENV:-.venv}/bin/python"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m pip freeze --exclude-editable >"$work/locked.txt"
"$python" -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check build
rm -rf _build/dist
"$work/env/bin/python" -m build --outdir _build/dist . >"$work/build.log" 2>&1 ||
  { cat "$work/build.log"; exit 1; }

"$python" -m venv --clear "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint "$work/locked.txt" _build/dist/*.whl
mkdir "$work/empty"
cd "$work/empty"
export PATH="$work/env/bin:$PATH" PVSBOOK_DATA="$work/data"
unset PYTHONPATH

set -x
pvsbook --version
pvsbook data list
pvsbook data cite ds000221
pvsbook doctor
for command in pvs alps qsm run simulate rerun "data fetch"; do pvsbook $command --help >/dev/null; done
template=$(python -c "from importlib.resources import files; print(files('nilearn') / 'datasets/data')")
pvsbook pvs "$template/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz" --contrast t1 --out results
pvsbook simulate migraine --first 1 --workers 0 --out study
