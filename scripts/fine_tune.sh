# shellcheck shell=bash disable=SC2154  # recipe sets variables
# The wrappers of fine-tuning, electra_squad.sh and electra_tasks.sh. They source environment.sh first.

fine_tune() {  # fine_tune NAME [ARGUMENT ...]: what the wrapper of this name does
  recipe "$@"
  if [[ -n $dry_run ]]; then planned_python; else use_python "$device"; fi
  choose_launcher
  build_data

  (( ${#estimate[@]} == 0 )) || run_estimate "${estimate[@]}" -- "${command[@]}"
  running "${runner[@]}" "${command[@]}"
  if [[ -n $dry_run ]]; then
    ! can_check || run "$python" "${command[@]}" --check_only
    exit "$status"
  fi
  run_restarting "$log" "command[@]" "command[@]"
  if (( status == 2 )); then
    exit 2  # the program has said why
  elif (( status == 75 )); then
    die "interrupted: run the same command to resume from the last checkpoint" 75
  elif (( status != 0 )); then
    die "ended with status $status$(output_in "$log")" "$status"
  fi
  say "finished; results are in $results"
}
