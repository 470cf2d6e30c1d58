#!/usr/bin/env bash
set -euo pipefail
HERE="$(cd "$(dirname "$0")" && pwd)"
RECON=/opt/pvsbook/recon.py # in the container, where only this folder is mounted
if [ -f "$HERE/../_base/recon.py" ]; then RECON="$HERE/../_base/recon.py"; fi
exec python3 "$RECON" "$HERE" "${1:-/input}" "${2:-/output}"
