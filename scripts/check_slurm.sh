#!/usr/bin/env bash
# Long check: a Slurm of one node, started here for the purpose, trains with workers that srun starts.
#
#   apt-get install slurm-wlm munge
#   PYTHON=/path/to/python bash scripts/check_slurm.sh
#
# Needs root and a Python with Horovod. Slurm's files, key and ports are its own; an installed Slurm is left alone.
# Shows: both phases in one job step, a step that is cancelled and resumed, and srun before the Python command. Takes
# a minute or two. DATASET_P1 and DATASET_P2 name other data than the samples. Exit status 0: all of it worked; 1: a step
# failed, the log is named.

set -euo pipefail
if [[ " $* " == *" --help "* || " $* " == *" -h "* ]]; then sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0; fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHON=${PYTHON:-$PWD/.venv/bin/python}
export PATH=$PATH:/usr/sbin

skip() { printf 'check_slurm.sh: skipped: %s\n' "$1"; exit 0; }
(( EUID == 0 )) || skip "only root can start Slurm's daemons"
for program in munged slurmctld slurmd srun scancel; do
  [[ -n $(type -P "$program") ]] || skip "$program is not installed: run 'apt-get install slurm-wlm munge'"
done
"$PYTHON" -c 'import horovod' 2>/dev/null || skip "$PYTHON has no Horovod: run 'bash scripts/install_horovod.sh'"

folder=$(mktemp -d)
chmod 755 "$folder"
end() {
  local name
  [[ -z ${watcher:-} ]] || kill "$watcher" 2>/dev/null || true
  for name in slurmd slurmctld munged; do
    [[ ! -s $folder/$name.pid ]] || kill "$(<"$folder/$name.pid")" 2>/dev/null || true
  done
  if [[ -n ${passed:-} ]]; then
    until rm -rf "$folder" 2>/dev/null; do sleep 0.2; done  # the daemons write until they have ended
  else
    printf 'check_slurm.sh: logs are in %s\n' "$folder"
  fi
}
trap end EXIT

# --- Slurm ---

mkdir "$folder/state" "$folder/spool"
(umask 077; head -c 128 /dev/urandom >"$folder/munge.key")
munged --key-file="$folder/munge.key" --socket="$folder/munge.sock" --pid-file="$folder/munged.pid" \
  --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
export SLURM_CONF=$folder/slurm.conf
cat >"$SLURM_CONF" <<END
ClusterName=check
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.sock
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
KillWait=60
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=check Nodes=ALL Default=YES State=UP
END
slurmctld
slurmd
srun --version

# --- Steps ---

step() {  # step NAME EXPECTED_STATUS PATTERN COMMAND...
  local name=$1 expected=$2 pattern=$3 log=$folder/$1.log status=0
  shift 3
  printf '\n%s:' "$name"; printf ' %s' "$@"; printf '\n'
  timeout 600 "$@" >"$log" 2>&1 || status=$?
  grep -E "^(phase . is|resuming|phase 2 starts|electra.sh:)|stopped by" "$log" || true
  [[ $status == "$expected" ]] || { tail -20 "$log"; echo "FAILED: status $status, not $expected"; exit 1; }
  grep -qE "$pattern" "$log" || { tail -20 "$log"; echo "FAILED: no line matches '$pattern'"; exit 1; }
}

wrapper=(bash scripts/electra.sh --env=cluster --num_workers=2 --electra_model=tiny "--results_dir=$folder/results")
short=(--train_steps_p1=20 --train_steps_p2=10 --warmup_steps_p2=2)

step both_phases 0 'phase 2 is finished' srun -n 2 "${wrapper[@]}" --model_name=both "${short[@]}"
step python 0 'phase 1 is finished: 4 updates' srun -n 2 "$PYTHON" run_pretraining.py --num_workers=2 \
  --model_size=tiny "--pretrain_tfrecords=${DATASET_P1:-data/sample/tfrecord/seq_len_128}" \
  "--results_dir=$folder/results" --model_name=python --num_train_steps=4 --num_warmup_steps=1 --train_batch_size=2

(  # cancelled as soon as it has logged its second update
  until grep -qs '^step 2/' "$folder/cancelled.log"; do sleep 0.5; done
  scancel --signal=TERM --name=cancelled
) &
watcher=$!
step cancelled 75 'stopped by SIGTERM' srun -n 2 --job-name=cancelled "${wrapper[@]}" --phase=1 --model_name=long \
  --train_steps_p1=2000
done_before=$(sed -n 's/.*stopped by SIGTERM at step \([0-9]*\) .*/\1/p' "$folder/cancelled.log" | head -1)
step resumed 0 "resuming from .* at step $done_before\." srun -n 2 "${wrapper[@]}" --phase=1 --model_name=long \
  --resume_training=true "--train_steps_p1=$((done_before + 10))"
passed=yes
printf '\ncheck_slurm.sh: passed\n'
