# shellcheck shell=bash disable=SC2034,SC2154  # variables go to and come from the wrapper
# Sourced by the wrappers beside it: how they read their options, set up Python, and run programs. bash 4.2 or newer.
#
#   header_as_help "$0" "$@"   --help of a script without a table of options
#   recipe NAME "$@"           has scripts/recipe.py read and check the call of wrapper NAME; sets the variables of its plan
#   use_python DEVICE [tools]  sets `python`; `tools` adds what scripts/test.sh needs
#   planned_python             sets `python` for a dry run
#   ask PROGRAM ARGUMENT...    runs a program of scripts/ that needs only the standard library; its output is in `answer`
#   choose_launcher            sets `runner`, the words before the Python program: `python`, with several workers also what
#                              starts them, and `launcher`, that alone
#   build_data                 builds the data of the plan where it is missing (sample data, or that of a corpus)
#   can_check                  whether a program can check its input; says why not where that is so in a dry run
#   run_estimate COMMAND...    runs an estimate, and exits
#   running COMMAND...         prints it, ready to be copied into a shell
#   run COMMAND...             runs it and leaves its exit status in `status`
#   run_group COMMAND...       the same, for a command whose own children must end with it
#   run_whole COMMAND...       the same, for one of a moment that no signal may stop half-way
#   run_logged LOG COMMAND...  the same, with the command and a copy of its output added to LOG
#   run_restarting LOG COMMAND RESTART   the same, and again after a crash (restarts.sh)
#
# PYTHON, where it is set, is the interpreter and nothing is installed. Otherwise .venv in the repository's root is created
# (venv.sh), and the pinned requirements of the device are installed there once, and again when they change.
#
# INT, TERM and HUP are trapped: the running command gets TERM and is waited for; `stopped` says that one has come. The
# command starts with INT and HUP ignored: unless it handles them itself, Ctrl-C and a closed terminal reach it once, as
# that TERM. Of several workers those on this machine get it, not the launcher, which would kill them soon after. USR1 is
# passed on too: a training saves a checkpoint and continues.
#
# What run_logged sets for the command: PYTHONUNBUFFERED=1 (its output goes through pipes, and lines must not wait), and
# where standard error is a terminal ELECTRA_PROGRESS=1: draw the progress bar on standard error although it is a pipe,
# for a terminal of $COLUMNS by $LINES. The bar reaches the terminal, not the log.

set -euo pipefail
unset CDPATH
# A closed stream would become the next file that is opened; for bash that was this script.
if [[ /dev/fd/0 -ef $0 ]] || ! { true 9<&0; } 2>/dev/null; then exec </dev/null; fi
if [[ /dev/fd/1 -ef $0 ]] || ! { true 9>&1; } 2>/dev/null; then exec >/dev/null; fi
if [[ /dev/fd/2 -ef $0 ]] || ! { true 9>&2; }; then exec 2>/dev/null; fi

wrapper=${0##*/}
start_dir=${PWD:-/}  # bash leaves it unset in a folder that was deleted
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

rank=0  # with --env=cluster every worker has its own wrapper, and that of rank 0 prints messages

say() { (( rank )) || printf '%s: %s\n' "$wrapper" "$1" 2>/dev/null || true; }  # nobody may read it
die() {
  local who=$wrapper
  if (( rank )); then
    sleep 3  # what all wrappers find is reported by that of rank 0, whose end ends the others
    who="$wrapper (worker $rank)"
  fi
  printf '%s: %s\n' "$who" "$1" >&2
  exit "${2:-2}"
}

# --- Options ---

header_as_help() {  # for scripts without a table of options: with --help prints the comment at their beginning
  [[ " ${*:2} " != *\ --help\ * && " ${*:2} " != *\ -h\ * ]] || { sed -n '2,/^$/s/^# \{0,1\}//p' "$1"; exit 0; }
}

# The plan is a list of assignments, each value quoted: nothing that a user gives is ever interpreted by the shell.
recipe() {
  local plan failed=0
  recipe_call=("$@")
  [[ $1 == @(install_horovod|benchmark_*) ]] || resumable=yes
  find_any_python
  { plan=$("$any_python" "$root/scripts/recipe.py" "$1" "$start_dir" "${@:2}" 3>&1 >&4) || failed=$?; } 4>&1
  [[ -z $stopped ]] || leave
  (( failed == 0 )) || exit "$failed"
  eval "${plan:-die "$any_python does not run scripts/recipe.py" 1}"
  cd "$work_dir"
  # Python ends when a wrapper of this chain was killed (command_line.end_with_wrapper).
  if [[ ${ELECTRA_WRAPPER:-} == "$process_space":* ]]; then
    ELECTRA_WRAPPER+=,$$
  else
    ELECTRA_WRAPPER=$process_space:$$
  fi
  export ELECTRA_WRAPPER
}

# Makes each of `built_folders` with the command in `build_<number>`. A folder appears when it is complete; one without a
# name stands for a command that finds out itself what is done.
build_data() {
  local number command
  (( ${#built_folders[@]} )) || return 0
  if (( rank )); then
    for number in "${!built_folders[@]}"; do
      [[ -z ${built_folders[number]} ]] || await_folder "${built_folders[number]}"
    done
    return
  fi
  [[ -n $dry_run ]] || take_lock "$python"
  for number in "${!built_folders[@]}"; do
    [[ -z ${built_folders[number]} || ! -d ${built_folders[number]} ]] || continue
    command="build_${number}[@]"
    running "$python" "${!command}"
    [[ -z $dry_run ]] || continue
    run "$python" "${!command}"
    (( status != 75 )) || leave
    (( status == 0 )) || die "the data could not be built (status $status)" "$status"
  done
  [[ -n $dry_run ]] || release_lock
}

can_check() {  # every start can that is not a dry run; of several workers that of rank 0 does
  local folder
  (( rank == 0 )) || return
  [[ -n $dry_run ]] || return 0
  for folder in "${built_folders[@]}"; do
    [[ -d $folder ]] || { say "note: $folder is not built yet, so the data was not checked"; return 1; }
  done
  "$any_python" "$root/scripts/interpreters.py" packages "$python" "$python" cpu "$start_dir" >/dev/null ||
    { say "note: $python does not have the packages yet, so data and weights were not checked"; return 1; }
}

run_estimate() {  # of --estimate; a dry run prints it
  if [[ -n $dry_run ]]; then running "$python" "$@"; exit 0; fi
  run "$python" "$@"
  exit "$status"
}

# --- Signals and running ---

resumable=''  # set for a command that ends with 75 when it is stopped
child='' target='' stopped='' signals=0 status=0  # `target` is the process or, with -, the group that gets TERM

on_signal() {
  stopped=$1 signals=$((signals + 1))
  [[ -z $child ]] || signal_child TERM
}
leave() {  # after a signal that came before the command had begun
  [[ -z $resumable ]] || die "stopped: run the same command again" 75
  exit "$stopped"
}
on_usr1() {
  signals=$((signals + 1))
  [[ -z $child ]] || signal_child USR1  # which ignores it unless it handles it
}
trap 'on_signal 130' INT
trap 'on_signal 143' TERM
trap 'on_signal 129' HUP
trap on_usr1 USR1

# Waits for process $1 to end, whatever signals come meanwhile, and leaves its exit status in `status`.
await() {
  local seen last=''
  while :; do
    seen=$signals status=0
    wait "$1" || status=$?
    # A trapped signal ends `wait` too, with a status above 128, and the process may still run.
    (( status > 128 && signals > seen )) || break
    last=$status
  done
  # It had ended, so there was nothing to wait for again: 127, and in bash 5.2 sometimes -1.
  if [[ $status == @(127|-1) && -n $last ]]; then status=$last; fi
}

await_child() {
  [[ -z $stopped ]] || signal_child TERM  # the signal came before `child` was known
  await "$child"
  child=''
}

running() { (( rank )) || { printf 'running:'; printf ' %q' "$@"; printf '\n'; } 2>/dev/null || true; }

run() {
  [[ -z $stopped ]] || leave
  (trap '' INT HUP USR1; exec "$@") &
  target=$! child=$!
  await_child
  if [[ -n $stopped && -n $resumable ]] && (( status > 128 )); then status=75; fi  # it had not yet begun to wait for TERM
}

# Runs the one command of a recipe, and ends.
run_recipe() {
  recipe "$@"
  if [[ -n $dry_run ]]; then planned_python; else use_python "$device"; fi
  running "$python" "${command[@]}"
  [[ -z $dry_run ]] || exit 0
  run "$python" "${command[@]}"
  exit "$status"
}

run_group() {
  [[ -z $stopped ]] || leave
  set -m  # job control gives it a process group of its own
  (trap '' INT HUP USR1; exec "$@") </dev/null &
  target=-$! child=$!
  set +m
  await_child
}

run_whole() {
  (trap '' INT TERM HUP USR1; exec "$@") &
  await $!
}

# Copies the named pipe $1, which it makes, to our output and to the file $2, there without what a carriage return
# overwrites (progress bars).
copy_to_log() {
  local writer
  mkfifo "$1" "$1.log"
  (trap '' INT TERM HUP USR1; LC_ALL=C exec sed -u $'s/.*\r//' <"$1.log" >>"$2") &
  writer=$!
  (trap '' INT TERM HUP USR1; exec tee -i "$1.log" <"$1") &
  copiers+=("$writer $! $1")
}

run_logged() {
  local log=$1 pipes copiers=() copier writer reader pipe ended there reason
  shift
  if (( rank )); then PYTHONUNBUFFERED=1 run "$@"; return; fi
  [[ -z $stopped ]] || leave
  there=$log
  until [[ -e $there ]]; do there=$(dirname "$there"); done
  reason=$(mkdir -p "$(dirname "$log")" 2>&1) ||
    die "$(dirname "$log") could not be created (${reason##*: }): choose another folder for the results"
  if (( ${#launcher[@]} )); then workers=$(cd "$(dirname "$log")" && mktemp -d "$PWD/.workers.tmp-$host-$$-XXXXXX"); fi
  { : >>"$log"; } 2>/dev/null || die "$log could not be written: choose another folder for the results"
  running "$@" >>"$log"
  pipes=$(mktemp -d "${TMPDIR:-/tmp}/electra.tmp-$host-$$-XXXXXX" 2>/dev/null) ||
    die "no temporary folder could be created in ${TMPDIR:-/tmp}: set TMPDIR to a folder that can be written"
  copy_to_log "$pipes/out" "$log"
  # Standard output and error that are one and the same share a pipe, which keeps their order.
  [[ /dev/fd/1 -ef /dev/fd/2 ]] || copy_to_log "$pipes/err" "$log" >&2
  [[ -z $workers ]] || set -m  # a process group of its own, which Ctrl-C does not reach
  (
    trap '' INT HUP USR1
    export PYTHONUNBUFFERED=1
    if [[ -n $workers ]]; then
      export ELECTRA_STATUS_FILE=$workers/rank ELECTRA_PROGRESS=0
    elif [[ -t 2 ]]; then
      export ELECTRA_PROGRESS=1
      read -r LINES COLUMNS < <(stty size <&2 2>/dev/null || echo 24 80)
      export LINES COLUMNS
    fi
    if [[ -p $pipes/err ]]; then exec >"$pipes/out" 2>"$pipes/err"; else exec >"$pipes/out" 2>&1; fi
    if [[ -n $workers ]]; then
      exec > >(of_workers "$workers/launcher.out") 2> >(of_workers "$workers/launcher.err" >&2)
    fi
    exec "$@"
  ) </dev/null &
  target=$! child=$!
  [[ -z $workers ]] || set +m
  await_child
  ended=$status
  # A command stopped before it opened its pipes has left their readers waiting: opening and closing them ends that.
  : <>"$pipes/out"
  if [[ -p $pipes/err ]]; then : <>"$pipes/err"; fi
  for copier in "${copiers[@]}"; do
    read -r writer reader pipe <<<"$copier"
    # A signal that reached one of the two before it ignored signals has left the other waiting.
    { kill -0 "$writer" && kill -0 "$reader"; } 2>/dev/null || : <>"$pipe.log"
    await "$writer"
    await "$reader"
  done
  rm -rf "$pipes"
  status=$ended
  if [[ -n $workers ]]; then
    workers_status
    if (( status && status != 2 && status != 75 )); then cat "$workers"/launcher.* >>"$log" 2>/dev/null || true; fi
    rm -rf "$workers"
    workers=''
  fi
  (( status != 2 )) || remove_new "$log" "$there"
}

output_in() { [[ ! -e $1 ]] || printf '; its output is in %s' "$1"; }

remove_new() {  # remove_new LOG THERE: after a refusal, the log and its folders that are new; THERE was there before
  local folder
  [[ $1 == "$2" ]] || rm -f "$1"
  folder=$(dirname "$1")
  while [[ $1 != "$2" && $folder != "$2" ]] && rmdir "$folder" 2>/dev/null; do folder=$(dirname "$folder"); done
}

# --- Several workers ---
# With num_workers above 1, mpirun or horovodrun (scripts/launcher.py chooses) starts the Python command that many times. Each
# worker leaves its exit status in $ELECTRA_STATUS_FILE.<rank>, because launchers exit with a status of their own. Where
# `cluster` is set, a scheduler has started this wrapper once per worker.

launcher=() workers=''  # `workers` is the folder of their statuses, while they run

choose_launcher() {  # reads device, num_workers, hostfile, cluster, dry_run and python
  runner=("$python")
  (( num_workers > 1 )) || return 0
  # Rank 0 makes features and saves for minutes while the others wait, and a cold start differs from host to host.
  export HOROVOD_STALL_CHECK_TIME_SECONDS=${HOROVOD_STALL_CHECK_TIME_SECONDS:-600}
  export HOROVOD_GLOO_TIMEOUT_SECONDS=${HOROVOD_GLOO_TIMEOUT_SECONDS:-300}
  export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}  # the launcher loads TensorFlow too
  [[ -z $cluster ]] || return 0
  ask launcher.py start "$device" "$num_workers" "$python" "$hostfile" "$dry_run"
  eval "launcher=($answer)"
  runner=("${launcher[@]}" "$python" -u)
}

await_folder() {  # waits for the folder that the wrapper of rank 0 makes
  until [[ -d $1 ]]; do
    [[ -z $stopped ]] || leave
    sleep 1
  done
}

# Copies the lines of workers without the launcher's tags: [rank]<stdout>: (horovodrun), [job,rank]<stdout>: (Open MPI 4,
# also inside a line that was written in pieces), [job@job,rank]<stdout>: and a blank (Open MPI 5). Lines of the launcher
# itself, which have none, go to the file $1.
of_workers() {
  trap '' INT TERM HUP USR1
  LC_ALL=C exec sed -u -e 's/\[[0-9,]*\]<std[a-z]*>://g' -e t -e 's/\[[^]]*@[0-9,]*\]<std[a-z]*>: //g' -e t -e "w $1" -e d
}

# Sends a signal to the workers on this machine; while there are none, to the launcher.
signal_child() {
  local pid pids=() parent
  if [[ -n $workers ]]; then
    while read -r pid; do
      parent=$(sed -n 's/^PPid:\t//p' "/proc/$pid/status" 2>/dev/null) || true
      [[ " ${pids[*]-} " == *" $parent "* ]] || pids+=("$pid")  # a worker stops its own children
    done < <(worker_processes)
  fi
  kill "-$1" -- "${pids[@]-$target}" 2>/dev/null || true
}

# Prints the process ids of the workers on this machine and of their children: those whose environment has our folder and
# a rank.
worker_processes() {
  local pid
  grep -lsxzF "ELECTRA_STATUS_FILE=$workers/rank" /proc/[0-9]*/environ | while IFS=/ read -r _ _ pid _; do
    ! grep -qszE '^(OMPI_COMM_WORLD|HOROVOD)_RANK=' "/proc/$pid/environ" || printf '%s\n' "$pid"
  done | sort -n
}

workers_status() {  # turns the launcher's exit status into that of the workers
  local merged
  merged=$(trap '' INT TERM HUP USR1
    exec "$any_python" "$root/scripts/launcher.py" status "$workers" "$status" "$wrapper" ${stopped:+"$stopped"}) || return 0
  status=$merged
}

# --- Python ---

any_python=''

# Sets `any_python` to a Python for the programs of scripts/ that need only the standard library.
find_any_python() {
  local candidate check='import sys
if sys.version_info < (3, 8): sys.exit(1)
print(sys.executable)'
  if [[ -n ${PYTHON:-} ]]; then
    any_python=$PYTHON
    [[ $any_python != */* || $any_python == /* ]] || any_python=$start_dir/$any_python
    [[ -n $("$any_python" -c "$check" 2>/dev/null) ]] ||
      die "PYTHON=$PYTHON does not run as Python 3.8 or newer: set PYTHON to one that does, or unset it"
    return
  fi
  for candidate in "$root/.venv/bin/python" python3 python3.{11,10,12,13,8,9}; do
    any_python=$("$candidate" -c "$check" 2>/dev/null) || continue  # not a slow script of pyenv, but what it starts
    [[ -z $any_python ]] || return 0
  done
  die "no Python 3.8 or newer is on PATH: install Python 3.11, or set PYTHON to a Python that has the packages"
}

ask() {  # ask PROGRAM ARGUMENT...: leaves what a program of scripts/ prints in `answer`; its error ends the wrapper
  local failed=0
  [[ -n $any_python ]] || find_any_python
  answer=$("$any_python" "$root/scripts/$1" "${@:2}") || failed=$?
  [[ -z $stopped ]] || leave
  (( failed == 0 )) || die "${answer:-scripts/$1 failed, see above}" "$failed"
}

# Sets `python` to what a dry run prints. PYTHON may be a path relative to the folder where the wrapper was started.
planned_python() {
  python=${PYTHON:-.venv/bin/python}
  if [[ -n ${PYTHON:-} ]]; then
    [[ $python != */* || $python == /* || $PWD == "$start_dir" ]] || python=$start_dir/$python
  elif [[ $PWD != "$root" ]]; then
    python=$root/$python
  fi
}

use_python() {  # use_python DEVICE [tools]
  planned_python
  if [[ -n ${PYTHON:-} ]]; then
    ask interpreters.py packages "$PYTHON" "$python" "$1" "$start_dir" ${2:+"$2"}
  else
    use_venv "$@"
  fi
}

# shellcheck source=scripts/venv.sh
source "$root/scripts/venv.sh"
# shellcheck source=scripts/restarts.sh
source "$root/scripts/restarts.sh"
