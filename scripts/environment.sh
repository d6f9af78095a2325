# shellcheck shell=bash disable=SC2034,SC2154  # variables go to and come from the wrapper
# Sourced by the wrappers beside it: how they read their options, set up Python, and run programs. bash 4.2 or newer.
#
#   recipe NAME "$@"           has scripts/recipe.py read and check the call of wrapper NAME; sets the variables of its plan
#   use_python DEVICE [tools]  sets `python`; `tools` adds what scripts/test.sh needs
#   planned_python             sets `python` for a dry run
#   choose_launcher            sets `runner`, the words before the Python program: `python`, with several workers also what
#                              starts them, and `launcher`, that alone
#   make_sample_data           makes the sample data of the plan where it is missing
#   running COMMAND...         prints it, ready to be copied into a shell
#   run COMMAND...             runs it and leaves its exit status in `status`
#   run_group COMMAND...       the same, for a command whose own children must end with it
#   run_whole COMMAND...       the same, for one of a moment that no signal may stop half-way
#   run_logged LOG COMMAND...  the same, with the command and a copy of its output added to LOG
#
# PYTHON, where it is set, is the interpreter and nothing is installed. Otherwise .venv in the repository's root is made,
# and the pinned requirements of the device are installed there once, and again when the requirements files change.
#
# INT, TERM and HUP are trapped: the running command gets TERM and is waited for; `stopped` says that one has come. The
# command starts with INT and HUP ignored: unless it handles them itself, Ctrl-C and a closed terminal reach it once, as
# that TERM. Of several workers those on this machine get it, not the launcher, which would kill them soon after.
#
# What run_logged sets for the command: PYTHONUNBUFFERED=1 (its output goes through pipes, and lines must not wait), and
# where standard error is a terminal ELECTRA_PROGRESS=1: draw the progress bar on standard error although it is a pipe,
# for a terminal of $COLUMNS by $LINES. The bar reaches the terminal, not the log.

set -euo pipefail
unset CDPATH

wrapper=${0##*/}
start_dir=$PWD
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

rank=0  # with --env=cluster every worker has its own wrapper, and that of rank 0 prints messages

say() { (( rank )) || printf '%s: %s\n' "$wrapper" "$1"; }
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

# The plan is a list of assignments, each value quoted: nothing that a user gives is ever interpreted by the shell.
recipe() {
  local name=$1 plan
  shift
  find_any_python
  { plan=$("$any_python" "$root/scripts/recipe.py" "$name" "$start_dir" "$@" 3>&1 >&4) || exit; } 4>&1
  eval "$plan"
  cd "$work_dir"
}

# Sets `any_python` to a Python for the programs of this folder that need no packages.
find_any_python() {
  local candidate found
  if [[ -n ${PYTHON:-} ]]; then
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null ||
      die "PYTHON=$PYTHON does not run as a Python of 3.8 or newer: set PYTHON to one that does, or unset it"
    any_python=$PYTHON
    return
  fi
  for candidate in "$root/.venv/bin/python" python3 python3.{8..13}; do
    found=$("$candidate" -c 'import sys; print(sys.executable); sys.exit(sys.version_info < (3, 8))' 2>/dev/null) &&
      [[ -n $found ]] || continue
    any_python=$found  # the interpreter itself: the candidate may be a slow script that starts it
    return
  done
  device=cpu
  find_python  # says what is missing
}

make_sample_data() {  # makes each of `sample_folders` with the command in `sample_<number>`; a folder appears when complete
  local number command
  (( ${#sample_folders[@]} )) || return 0
  if (( rank )); then
    for number in "${!sample_folders[@]}"; do await_folder "${sample_folders[number]}"; done
    return
  fi
  [[ -n $dry_run ]] || take_lock "$python"
  for number in "${!sample_folders[@]}"; do
    [[ ! -d ${sample_folders[number]} ]] || continue
    command="sample_${number}[@]"
    running "$python" "${!command}"
    [[ -z $dry_run ]] || continue
    run "$python" "${!command}"
    (( status == 0 )) || die "the sample data could not be made (status $status)" "$status"
  done
  [[ -n $dry_run ]] || release_lock
}

# --- Signals and running ---

child='' target='' stopped='' signals=0 status=0  # `target` is the process or, with -, the group that gets TERM

on_signal() {
  stopped=$1 signals=$((signals + 1))
  [[ -z $child ]] || stop_child
}
trap 'on_signal 130' INT
trap 'on_signal 143' TERM
trap 'on_signal 129' HUP

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
  if [[ $status == 127 && -n $last ]]; then status=$last; fi  # it had ended: there was nothing to wait for again
}

await_child() {
  [[ -z $stopped ]] || stop_child  # the signal came before `child` was known
  await "$child"
  child=''
}

running() { (( rank )) || { printf 'running:'; printf ' %q' "$@"; printf '\n'; }; }

run() {
  [[ -z $stopped ]] || exit "$stopped"
  (trap '' INT HUP; exec "$@") &
  target=$! child=$!
  await_child
}

run_group() {
  [[ -z $stopped ]] || exit "$stopped"
  set -m  # job control gives it a process group of its own
  (trap '' INT HUP; exec "$@") </dev/null &
  target=-$! child=$!
  set +m
  await_child
}

run_whole() {
  (trap '' INT TERM HUP; exec "$@") &
  await $!
}

# Copies the named pipe $1, which it makes, to our output and to the file $2, there without what a carriage return
# overwrites (progress bars).
copy_to_log() {
  mkfifo "$1" "$1.log"
  (trap '' INT TERM HUP; LC_ALL=C exec sed -u $'s/.*\r//' <"$1.log" >>"$2") &
  copiers+=($!)
  (trap '' INT TERM HUP; exec tee -i "$1.log" <"$1") &
  copiers+=($!)
}

run_logged() {
  local log=$1 pipes copiers=() copier ended
  shift
  if (( rank )); then PYTHONUNBUFFERED=1 run "$@"; return; fi
  [[ -z $stopped ]] || exit "$stopped"
  mkdir -p "$(dirname "$log")"
  if (( ${#launcher[@]} )); then workers=$(cd "$(dirname "$log")" && mktemp -d "$PWD/.workers.XXXXXX"); fi
  running "$@" >>"$log"
  pipes=$(mktemp -d)
  copy_to_log "$pipes/out" "$log"
  # Standard output and error that are one and the same share a pipe, which keeps their order.
  [[ /dev/fd/1 -ef /dev/fd/2 ]] || copy_to_log "$pipes/err" "$log" >&2
  [[ -z $workers ]] || set -m  # a process group of its own, which Ctrl-C does not reach
  (
    trap '' INT HUP
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
  for copier in "${copiers[@]}"; do await "$copier"; done
  rm -rf "$pipes"
  status=$ended
  if [[ -n $workers ]]; then
    workers_status
    if (( status && status != 2 && status != 75 )); then cat "$workers"/launcher.* >>"$log" 2>/dev/null || true; fi
    rm -rf "$workers"
    workers=''
  fi
}

# --- Several workers ---
# With num_workers above 1 a launcher starts the Python command that many times: mpirun where Horovod was built with MPI,
# else horovodrun. Each worker leaves its exit status in $ELECTRA_STATUS_FILE.<rank>, since launchers end with one of
# their own. With env=cluster the launcher has started the wrappers.

launcher=() hosts='' workers=''  # `workers` is the folder of their statuses, while they run

read_hostfile() {  # sets `hosts` to those of the file, as host:slots,...
  local file=$1 line words slots=0
  local form='^([A-Za-z0-9._-]+)[[:blank:]]+slots[[:blank:]]*=[[:blank:]]*([1-9][0-9]*)([[:blank:]].*)?$'
  [[ -f $file && -r $file ]] || die "hostfile=$file is no file that can be read: name one with lines like 'host1 slots=8'"
  while read -r line || [[ -n $line ]]; do
    words=${line%%#*}
    [[ $words == *[![:space:]]* ]] || continue
    [[ $words =~ $form ]] || die "hostfile=$file has the line '$line': each must be like 'host1 slots=8'"
    hosts+=,${BASH_REMATCH[1]}:${BASH_REMATCH[2]} slots=$((slots + BASH_REMATCH[2]))
  done <"$file"
  hosts=${hosts#,}
  (( slots >= $2 )) || die "hostfile=$file has $slots slots, and num_workers=$2 needs as many: add hosts to it, or lower \
num_workers"
}

# Prints absent, broken with the reason, mpi or gloo. habana-horovod, for hpu, is always built with MPI, and imported where
# the card is.
horovod_code='import importlib.util, sys
if importlib.util.find_spec("horovod") is None:
    found = "absent"
elif sys.argv[1] == "hpu":
    found = "mpi"
else:
    try:
        import horovod.tensorflow as horovod
        found = "mpi" if horovod.mpi_built() else "gloo"
    except Exception as error:
        found = "broken " + (str(error).splitlines() or [type(error).__name__])[0]
print(found)'

choose_launcher() {  # `python` is known; a dry run does not ask for what is not there
  local number=$num_workers found build name
  [[ -z $hostfile ]] || read_hostfile "$hostfile" "$number"
  runner=("$python")
  (( number > 1 )) || return 0
  # Rank 0 makes features and saves for minutes while the others wait, and a cold start differs from host to host.
  export HOROVOD_STALL_CHECK_TIME_SECONDS=${HOROVOD_STALL_CHECK_TIME_SECONDS:-600}
  export HOROVOD_GLOO_TIMEOUT_SECONDS=${HOROVOD_GLOO_TIMEOUT_SECONDS:-300}
  export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}  # the launcher loads TensorFlow too
  [[ -z $cluster ]] || return 0
  build="bash scripts/install_horovod.sh $device"
  found=$(TF_CPP_MIN_LOG_LEVEL=3 "$python" -c "$horovod_code" "$device" 2>/dev/null) || true
  [[ -z $stopped ]] || exit "$stopped"
  found=${found##*$'\n'}
  if [[ -z $dry_run ]]; then
    case $found in
      mpi | gloo) ;;
      absent) die "num_workers=$number needs Horovod, which is not installed in $python: run '$build', or use one worker" ;;
      *) found=${found#broken}
        die "Horovod does not load in $python${found:+ (${found# })}: build it again with '$build', or use one worker" ;;
    esac
  fi
  if [[ $device == hpu ]] || [[ $found == mpi ]]; then
    [[ -n $dry_run ]] || [[ -n $(type -P mpirun) ]] || die "num_workers=$number is started with mpirun, which is not there: \
install Open MPI ('apt-get install openmpi-bin' on Debian), or use one worker"
    # Workers keep all cores of their host; Python shares them out where that helps.
    launcher=(mpirun -np "$number" --allow-run-as-root --tag-output --bind-to none --map-by slot)
    if [[ -z $hostfile ]]; then
      launcher+=(-H "localhost:$number")
    else
      # By its full path mpirun finds its helpers on the other hosts without their PATH.
      launcher[0]=$(type -P mpirun) || launcher[0]=mpirun
      launcher+=(--hostfile "$hostfile" -x ELECTRA_STATUS_FILE -x ELECTRA_PROGRESS)
      for name in $(compgen -e); do  # what else the other hosts should know; which cards they see is their own affair
        case $name in
          *_VISIBLE_* | ELECTRA_STATUS_FILE | ELECTRA_PROGRESS) ;;
          PATH | LD_LIBRARY_PATH | LD_PRELOAD | PYTHON* | ELECTRA_* | TF_* | XLA_* | OMP_* | KMP_* | HABANA_* | HCCL_* | \
            HCL_* | SYN* | GC_* | NCCL_* | HOROVOD_* | HF_* | FI_* | RDMAV_* | MLX5_* | UCX_* | *_proxy | *_PROXY)
            launcher+=(-x "$name") ;;
        esac
      done
    fi
  else
    launcher=("$python" -m horovod.runner.launch --gloo -np "$number" --disable-cache -H "${hosts:-localhost:$number}")
  fi
  runner=("${launcher[@]}" "$python" -u)
}

await_folder() {  # waits for what the wrapper of rank 0 makes
  until [[ -d $1 ]]; do
    [[ -z $stopped ]] || exit "$stopped"
    sleep 1
  done
}

# Copies the lines of workers without the launcher's tags: [rank]<stdout>: (horovodrun), [job,rank]<stdout>: (Open MPI 4,
# also inside a line that was written in pieces), [job@job,rank]<stdout>: and a blank (Open MPI 5). Lines of the launcher
# itself, which have none, go to the file $1.
of_workers() {
  trap '' INT TERM HUP
  LC_ALL=C exec sed -u -e 's/\[[0-9,]*\]<std[a-z]*>://g' -e t -e 's/\[[^]]*@[0-9,]*\]<std[a-z]*>: //g' -e t -e "w $1" -e d
}

# The workers on this machine; while there is none, the launcher.
stop_child() {
  local pid pids=() parent
  if [[ -n $workers ]]; then
    while read -r pid; do
      parent=$(sed -n 's/^PPid:\t//p' "/proc/$pid/status" 2>/dev/null) || true
      [[ " ${pids[*]-} " == *" $parent "* ]] || pids+=("$pid")  # a worker's own children are its own affair
    done < <(worker_processes)
  fi
  kill -TERM -- "${pids[@]-$target}" 2>/dev/null || true
}

# Prints the process ids of the workers on this machine and of their children: what they were started with names our
# folder, and a rank.
worker_processes() {
  local file
  grep -lsxzF "ELECTRA_STATUS_FILE=$workers/rank" /proc/[0-9]*/environ | while IFS=/ read -r _ _ pid _; do
    ! grep -qszE '^(OMPI_COMM_WORLD|HOROVOD)_RANK=' "/proc/$pid/environ" || printf '%s\n' "$pid"
  done | sort -n
}

# Turns the launcher's exit status into the workers': 2 where one made that its own, else 75, else that of the first one to
# end badly.
workers_status() {
  local said first
  said=$(cat "$workers"/rank.* 2>/dev/null) || true
  if [[ $'\n'$said$'\n' == *$'\n2\n'* ]]; then
    status=2
  elif [[ $'\n'$said$'\n' == *$'\n75\n'* ]]; then
    status=75
  elif (( status )); then
    first=$(cat "$workers"/launcher.* 2>/dev/null | sed -n "
      s/^Process \([0-9]*\) exit with status code \([0-9]*\)\.\$/\1 \2/p
      s/^mpirun noticed that process rank \([0-9]*\) .*/\1 $status/p
      s/^ *Process name: \[.*,\([0-9]*\)\]\$/\1 $status/p" | head -n 1) || true
    if [[ -n $stopped ]]; then
      status=$stopped
    elif [[ -n $first ]]; then
      status=${first#* }
      printf '%s: worker %s was the first to end, with status %s\n' "$wrapper" "${first% *}" "$status" >&2
    elif [[ -z $said ]]; then
      cat "$workers"/launcher.* >&2 2>/dev/null || true  # the launcher itself has failed and says why
    fi
  fi
}

# --- Python ---

packages=(absl google_crc32c h5py huggingface_hub matplotlib safetensors sentencepiece tensorflow tokenizers tqdm)

# What a dry run prints for the interpreter.
planned_python() {
  if [[ -n ${PYTHON:-} ]]; then named_python; elif [[ $PWD == "$root" ]]; then python=.venv/bin/python
  else python=$root/.venv/bin/python; fi
}

named_python() {  # PYTHON may be a path relative to the folder where the wrapper was started
  python=$PYTHON
  if [[ $python == */* && $python != /* && $PWD != "$start_dir" ]]; then python=$start_dir/$python; fi
}

use_python() {
  planned_python
  if [[ -n ${PYTHON:-} ]]; then check_packages "$1" "${2:-}"; else use_venv "$1" "${2:-}"; fi
}

check_packages() {
  local device=$1 tools=${2:-} modules=("${packages[@]}") answer version missing names line=requirements.txt more=''
  [[ $device != hpu ]] || modules+=(habana_frameworks)
  [[ -z $tools ]] || modules+=(pytest ruff)
  answer=$("$python" -c 'import importlib.util, sys
assert sys.version_info >= (3, 8)
print("%d.%d" % sys.version_info[:2], *[m for m in sys.argv[1:] if importlib.util.find_spec(m) is None])' \
    "${modules[@]}" 2>/dev/null) ||
    die "PYTHON=$PYTHON does not run as a Python of 3.8 or newer: set PYTHON to one that does, or unset it"
  [[ $answer == *' '* ]] || return 0
  version=${answer%% *} missing=${answer#* }
  case " $missing " in
    *" tensorflow "* | *" habana_frameworks "*)
      if [[ -n $tools ]]; then line=requirements-dev.txt; else line=$(requirements_for "$device"); fi ;;
    *" pytest "* | *" ruff "*) more=" pytest ruff" ;;
  esac
  [[ $start_dir == "$root" ]] || line=$root/$line
  names=${missing// /, }; names=${names/absl/absl-py}; names=${names/google_crc32c/google-crc32c}
  die "PYTHON=$PYTHON lacks $names: run $PYTHON -m pip install -r $line$more"
}

# .venv/.electra-made says that this file made the folder, .venv/.electra-ready that all of it is installed: the
# requirements file, its checksum, and that of the tools (or -).

use_venv() {
  local device=$1 tools=${2:-} venv=$root/.venv
  if [[ -e $venv || -L $venv ]] && [[ ! -e $venv/.electra-made && ! ( -d $venv && -z $(ls -A "$venv") ) ]]; then
    die ".venv was not made by this script and is left alone: PYTHON=.venv/bin/python uses it, removing it makes a new one"
  fi
  ! venv_serves || return 0
  find_python
  [[ -w $root ]] || die "$root is not writable, so no .venv can be made there: set PYTHON to a Python with the packages"
  take_lock "$base"
  venv_serves || fill_venv
  release_lock
}

venv_serves() {
  local file key tools_key
  [[ -e $venv/.electra-ready ]] && read -r file key tools_key <"$venv/.electra-ready" || return 1
  # TensorFlow for gpu or hpu runs on the CPU as well.
  [[ $device == cpu || $file == requirements-${device}[.-]* ]] && [[ $key == "$(checksum "$file")" ]] &&
    [[ -z $tools || $tools_key == "$(checksum requirements-dev.txt)" ]] && "$venv/bin/python" -c '' 2>/dev/null
}

checksum() { cat "$root/requirements.txt" "$root/$1" 2>/dev/null | cksum | tr ' ' -; }

fill_venv() {
  local file='' key='' tools_key=- reason='' install
  if [[ -e $venv/.electra-ready ]]; then
    read -r file key tools_key <"$venv/.electra-ready"
    if ! "$venv/bin/python" -c '' 2>/dev/null; then
      reason="its Python does not run any more"
    elif [[ $device != cpu && $file != requirements-${device}[.-]* ]]; then
      reason="it holds $file, and this start needs the packages for $device"
    elif [[ $key != "$(checksum "$file")" || ( $tools_key != - && $tools_key != "$(checksum requirements-dev.txt)" ) ]]
    then
      say "the requirements have changed since .venv was filled"
    fi
  elif [[ -e $venv ]]; then
    reason="an earlier start did not finish it"
  fi
  if [[ -n $reason || ! -e $venv ]]; then
    if [[ -n $reason ]]; then say "making .venv again: $reason"; else say "making .venv with $base (Python $version)"; fi
    file=$(requirements_for "$device") tools_key=-
    rm -rf "$venv"
    mkdir "$venv"
    : >"$venv/.electra-made"
    run "$base" -m venv "$venv"
    (( status == 0 )) || set_up_failed "making .venv failed with status $status, its reason is above"
  fi
  rm -f "$venv/.electra-ready"
  install=("$venv/bin/python" -m pip install --disable-pip-version-check -r "$root/$file")
  if [[ -n $tools || $tools_key != - ]]; then
    sed '/^-r /d' "$root/requirements-dev.txt" >"$venv/.electra-tools.txt"
    install+=(-r "$venv/.electra-tools.txt")
    tools_key=$(checksum requirements-dev.txt)
    say "installing $file and the tools of requirements-dev.txt into .venv, once; this takes a minute or more"
  else
    say "installing $file into .venv, once; this takes a minute or more"
  fi
  [[ -t 1 ]] || install+=(--quiet)
  run "${install[@]}"
  (( status == 0 )) || set_up_failed "pip could not install $file (status $status, its reason is above): check the network \
connection and pip's index settings; the next start tries again"
  printf '%s %s %s\n' "$file" "$(checksum "$file")" "$tools_key" >"$venv/.electra-ready.tmp"
  mv "$venv/.electra-ready.tmp" "$venv/.electra-ready"
}

set_up_failed() {
  [[ -z $stopped ]] || die "stopped while setting up .venv: the next start makes it again" "$stopped"
  die "$1" "$status"
}

# The version of the SynapseAI driver, e.g. 1.14.0-9e8ecf8; nothing where it cannot be read.
synapse_version() {
  local file
  for file in /sys/class/accel/accel[0-9]*/device/driver_ver /sys/class/habanalabs/hl[0-9]*/driver_ver; do
    if [[ -r $file ]]; then head -n 1 "$file"; return; fi
  done
}

requirements_for() {
  if [[ $1 != hpu ]]; then printf 'requirements-%s.txt' "$1"; return; fi
  case $(synapse_version) in
    1.6.*) printf requirements-hpu-1.6.1.txt ;;
    1.14.*) printf requirements-hpu-1.14.txt ;;
    *) if [[ $version == 3.8 ]]; then printf requirements-hpu-1.6.1.txt; else printf requirements-hpu-1.14.txt; fi ;;
  esac
}

# Sets `base` to a Python that can make .venv for $device, and `version` to its version.
find_python() {
  local supported=(3.11 3.10 3.12 3.13) synapse candidate answer seen='' without_venv=''
  if [[ $device == hpu ]]; then
    synapse=$(synapse_version)
    case $synapse in
      1.6.*) supported=(3.8 3.10) ;;
      1.14.*) supported=(3.10) ;;
      '') supported=(3.10 3.8) ;;
      *) die "no requirements file fits SynapseAI $synapse (there are 1.6.1 and 1.14): set PYTHON to the Python of the \
vendor's image" ;;
    esac
  fi
  for candidate in python3 "${supported[@]/#/python}"; do
    answer=$("$candidate" -c 'import importlib.util, sys
print("%d.%d" % sys.version_info[:2], *[m for m in ("venv", "ensurepip") if importlib.util.find_spec(m) is None])' \
      2>/dev/null) || continue
    version=${answer%% *} base=$candidate
    seen=${seen:-$version}
    case " ${supported[*]} " in *" $version "*) ;; *) continue ;; esac
    [[ $answer == *' '* ]] || return 0
    without_venv=${without_venv:-$version}
  done
  [[ -z $without_venv ]] || die "Python $without_venv here cannot make a virtual environment: install the package \
python$without_venv-venv ('apt-get install python$without_venv-venv' on Debian), or set PYTHON to a Python with the packages"
  seen=${seen:+python3 is $seen, and }
  die "${seen}a Python of version $(printf '%s\n' "${supported[@]}" | sort -V | paste -sd ' ') is needed: install \
one, or set PYTHON to a Python with the packages"
}

# --- One set-up at a time ---
# The lock is on the open file 9 of this shell, taken through Python because flock(1) is not everywhere; it ends with the
# processes that hold the file open.

lock_code='import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | (fcntl.LOCK_NB if sys.argv[1] == "try" else 0))
except BlockingIOError:
    sys.exit(75)
except OSError:
    pass  # a file system without locks'

take_lock() {
  exec 9>"$root/.setup.lock"
  run "$1" -c "$lock_code" try
  if (( status == 75 )); then
    say "another start is setting things up here: waiting for it"
    run "$1" -c "$lock_code" wait
  fi
  [[ -z $stopped ]] || exit "$stopped"
}

release_lock() { exec 9>&-; }
