# shellcheck shell=bash disable=SC2154  # variables come from environment.sh, which sources this file
# Virtual environments: .venv for the wrappers, and with make_venv.sh those of matrix.py. In the folder $venv, .electra-made
# says that we created it, and .electra-ready that it is complete: what was installed, with checksums.

use_venv() {  # creates or completes .venv where necessary; tools that were once installed stay
  local device=$1 tools=${2:-} venv=$root/.venv base file held='' reason=''
  require_own_venv "set PYTHON=.venv/bin/python to use it, or remove it"
  ! venv_serves || return 0
  ask interpreters.py find "$device"
  eval "$answer"  # base and file
  [[ -w $root ]] || die "$root is not writable, so .venv cannot be created: set PYTHON to a Python that has the packages"
  take_lock "$base"
  if ! venv_serves; then
    create_venv
    [[ -n $reason ]] || file=${held:-$file}
    sed '/^-r /d' "$root/requirements-dev.txt" >"$venv/requirements-tools.txt"  # without the TensorFlow for cpu
    fill_venv "$(checksums "$file")" "$root/$file" ${tools:+"$venv/requirements-tools.txt"}
  fi
  release_lock
}

venv_serves() {  # else sets `held`, the requirements file installed there, and `reason`, if it must be created again
  local ready
  held='' reason=''
  [[ -e $venv ]] || return 1
  reason="an earlier start did not finish it"
  [[ -e $venv/.electra-ready ]] || return 1
  ready=$(<"$venv/.electra-ready")
  if [[ $ready =~ requirements-(cpu|gpu|hpu-[0-9.]+)\.txt ]]; then held=${BASH_REMATCH[0]}; fi
  if [[ $ready == *requirements-dev.txt* ]]; then tools=tools; fi
  reason="its Python no longer runs"
  venv_runs || return 1
  reason="it has the packages of $held, and this start needs those for $device"
  [[ $device == cpu || $held == requirements-${device}[.-]* ]] || return 1  # TensorFlow for gpu or hpu also runs on a CPU
  reason=''
  [[ $ready == "$(checksums "$held")" ]]
}

checksums() { (cd "$root" && cksum requirements.txt "$1" ${tools:+requirements-dev.txt} 2>&1) || true; }

venv_runs() { "$venv/bin/python" -c '' 2>/dev/null; }

require_own_venv() {  # require_own_venv WAY_OUT
  [[ -e $venv/.electra-made || ! -e $venv && ! -L $venv || -d $venv && -z $(ls -A "$venv") ]] ||
    die "$venv was not created by this script and is left unchanged: $1"
}

create_venv() {  # with $base, unless it is there and there is no reason to create it again
  if [[ -e $venv && -z $reason ]]; then say "the requirements of ${venv##*/} have changed"; return; fi
  say "creating ${venv##*/}${reason:+ again} with $base${reason:+: $reason}"
  rm -rf "$venv"
  mkdir -p "$venv"
  : >"$venv/.electra-made"
  run "$base" -m venv "$venv"
  (( status == 0 )) || set_up_failed "${venv##*/} could not be created (status $status, see above)"
}

fill_venv() {  # fill_venv READY REQUIREMENTS_FILE...: installs the files, then writes READY to .electra-ready
  local ready=$1 file install=("$venv/bin/python" -m pip install --disable-pip-version-check)
  shift
  rm -f "$venv/.electra-ready"
  for file; do install+=(-r "$file"); done
  [[ -t 1 ]] || install+=(--quiet)
  say "installing ${*##*/} into ${venv##*/}, once; this takes a minute or more"
  run "${install[@]}"
  (( status == 0 )) || set_up_failed "pip could not install ${*##*/} (status $status, see above): check the network \
connection and pip's index settings; the next start tries again"
  printf '%s\n' "$ready" >"$venv/.electra-ready.tmp"
  mv "$venv/.electra-ready.tmp" "$venv/.electra-ready"
}

set_up_failed() {
  local ends=$stopped
  [[ -z $resumable ]] || ends=75
  [[ -z $stopped ]] || die "stopped while setting up ${venv##*/}: the next start creates it again" "$ends"
  die "$1" "$status"
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

take_lock() {  # take_lock PYTHON
  [[ -w $root ]] || die "$root is not writable: use a copy of the repository that is"
  exec 9>"$root/.setup.lock"
  run "$1" -c "$lock_code" try
  if (( status == 75 )); then
    say "another set-up is running here: waiting for it"
    run "$1" -c "$lock_code" wait
  fi
  [[ -z $stopped ]] || leave
}

release_lock() { exec 9>&-; }
