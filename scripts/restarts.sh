# shellcheck shell=bash disable=SC2034,SC2154  # variables of environment.sh, which sources this file
# Restarts after a crash: --max_restarts, and --min_workers where hosts of --hostfile no longer answer.

# Runs the words of array $2 after `runner`; after a crash again, those of $3 if checkpoints have been written since.
# Invalid input (2), an interruption (75) and signals to this wrapper end it. $2 and $3 are such as `command[@]`.
run_restarting() {
  local log=$1 words=$2 restarts=0 pause=${ELECTRA_RESTART_SECONDS:-5} before saved
  before=$(list_checkpoints)
  while :; do
    run_logged "$log" "${runner[@]}" "${!words}"
    if [[ -n $stopped ]] && (( status == stopped )); then status=75; fi  # it had not yet begun to wait for signals
    if (( status == 0 || status == 2 || status == 75 || restarts >= max_restarts )) || [[ -n $stopped ]]; then return; fi
    restarts=$((restarts + 1))
    say "ended with status $status: restart $restarts of $max_restarts in $pause s" | tee -ai "$log"
    sleep "$pause" &
    target=$! child=$!
    await_child
    if [[ -n $stopped ]]; then status=75; return; fi
    pause=$((pause < 150 ? 2 * pause : 300))
    saved=$(list_checkpoints)
    [[ -z $saved || $saved == "$before" ]] || words=$3
    [[ -z $min_workers ]] || leave_out_hosts "$log"
  done
}

list_checkpoints() { (shopt -s nullglob; stat -c '%i %y %n' -- "$checkpoints"/ckpt-*.index) 2>/dev/null || true; }

# Makes the plan again for the hosts that answer, those of the first call.
leave_out_hosts() {
  local left call=("${recipe_call[@]}")
  first_hostfile=${first_hostfile:-$hostfile} first_num_workers=${first_num_workers:-$num_workers}
  ask launcher.py answering "$first_hostfile" "$first_num_workers" "$min_workers" "$(dirname "$1")/hosts_left"
  eval "left=($answer)"
  [[ ${left[0]} != "$num_workers" || ${left[1]} != "$hostfile" ]] || return 0
  say "restarting with ${left[0]} workers on the hosts of ${left[1]}" | tee -ai "$1"
  recipe "${call[@]}" "--num_workers=${left[0]}" "--hostfile=${left[1]}"
  recipe_call=("${call[@]}")
  choose_launcher
  ! declare -F compose >/dev/null || compose  # the command has options of the plan
}
