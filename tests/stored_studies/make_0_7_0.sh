#!/usr/bin/env bash
# Make 0.7.0.tar.xz, a study as version 0.7.0 stores it. Run it with that version installed:
#     git checkout 8bfda0a && bash make_0_7_0.sh OUTPUT.tar.xz
set -euo pipefail
out=$(realpath "$1")
folder=$(mktemp -d)
cd "$folder"
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=
nas() { python -m "nas.$@" --quiet; }

cat > stored.toml <<'TOML'
name = "stored"
space = "hourglass"
width_scale = 0.125
baselines = ["hg2"]
[data]
input_size = 64
file = "people.h5"
[schedule]
images = 1536
epochs = 4
batch = 16
learning_rate = 1e-2
[full]
images = 2048
epochs = 4
[budget]
max_params = 6000
[sampler]
startup = 4
pool = 100
[stopping]
least = 3
[reference]
params = [1_000, 200_000]
madds = [500_000, 50_000_000]
TOML

nas prepare synthetic --out people.h5 --box 64 --people 28 --holdout 12 --valid 8 --jpeg 60 --seed 7
nas search --study stored.toml --trials 14 --workers 1
nas search --study stored.toml --confirm 1 --workers 1
nas retrain --study stored --pick knee --device cpu
nas evaluate runs/stored/full/*/checkpoint.pt --data people.h5

# A trial that is requeued after a SIGTERM. Most trials are pruned soon, so that this may need several attempts.
state() { python - "$1" <<'PY'
import sys, optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
trials = optuna.load_study(study_name="stored", storage="sqlite:///runs/stored/study.db").get_trials(deepcopy=False)
found = [t.number for t in trials if t.state.name == sys.argv[1]]
print(found[0] if found else "")
PY
}
total=14
until [ -n "$(state WAITING)" ]; do
    total=$((total + 1))
    [ "$total" -le 30 ]
    python -m nas.search --study stored.toml --trials "$total" --workers 1 --quiet & search=$!
    until ls runs/stored/checkpoints/trial-*.pt >/dev/null 2>&1 || ! kill -0 "$search" 2>/dev/null; do sleep 0.01; done
    kill -TERM "$search" 2>/dev/null || true
    wait "$search" || true
done
# It is resumed, and its worker is killed.
waiting=$(state WAITING)
setsid python -m nas.search --study stored.toml --trials "$total" --workers 1 --quiet & search=$!
until [ -e "runs/stored/checkpoints/trial-$waiting.pt" ]; do sleep 0.01; done
kill -KILL -- "-$search"
wait "$search" || true
[ "$(state RUNNING)" = "$waiting" ]
ls runs/stored/checkpoints

sqlite() { python -c "import sqlite3, sys; c = sqlite3.connect('runs/stored/study.db', isolation_level=None); [c.execute(s).fetchall() for s in sys.argv[1:]]" "$@"; }
sqlite 'PRAGMA wal_checkpoint(TRUNCATE)' 'PRAGMA journal_mode=DELETE' VACUUM
rm -rf runs/stored/study.db.lock runs/stored/full/*/events*
# Images of people take most of the room: those of the first trial stay.
python - <<'PY'
from pathlib import Path
images = sorted((p for p in Path("runs").rglob("artifacts/*") if p.read_bytes()[:2] == b"\xff\xd8"), key=lambda p: p.stat().st_mtime)
for path in images[2:]:
    path.unlink()
PY
du -a . | sort -n | tail -40
tar --sort=name --owner=0 --group=0 --numeric-owner -cf - people.h5 stored.toml runs | xz -9e > "$out"
ls -l "$out"
