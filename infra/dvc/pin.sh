#!/usr/bin/env bash
# Maintainers: pins data/ as it is now in data.dvc and makes the embedded remote hold exactly those objects.
set -euo pipefail
cd "$(dirname "$0")/../.."
dvc=$PWD/.venv/bin/dvc
budget_mb=80

[ -d data ] || { echo "data-pin: no data/ folder to pin" >&2; exit 1; }
"$dvc" add --quiet data
rm -rf infra/dvc/embedded
"$dvc" push --quiet --remote embedded
"$dvc" gc --quiet --workspace --force
size=$(du -sm infra/dvc/embedded | cut -f1)
echo "data-pin: data.dvc written, embedded remote holds ${size} MB; commit data.dvc and infra/dvc/embedded together"
# Objects that this pin dropped are still in git's index: du cannot find them and says so by its exit status.
committed=$( (git ls-files -z --cached --others --exclude-standard | xargs -0 du -cm 2>/dev/null || true) | tail -1 | cut -f1)
[ "$committed" -le "$budget_mb" ] || echo "data-pin: tracked files are ${committed} MB, over the budget of ${budget_mb} MB" >&2
