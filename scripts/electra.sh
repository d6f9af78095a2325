#!/usr/bin/env bash
# Pre-trains ELECTRA in two phases: sequence length 128, then 512 from the weights of the first.
#
#   bash scripts/electra.sh cpu
#   bash scripts/electra.sh hpu bf16 176 6e-3 1 xla 2000 10000 ...      the positional order of Habana's electra.sh
#   bash scripts/electra.sh --help                                      every option, by position and by name
#
# scripts/recipe.py has the options, their defaults and the two commands, and checks them before anything starts; a dry run
# prints the commands. Checkpoints and logs go to results/models/<name of the run>/, each phase's console output to a log
# file there. Exit status: 0; 2 for an invalid option or input; 75 after an interruption that can be resumed; else that of
# the training.

# shellcheck source=scripts/environment.sh disable=SC2154  # recipe sets variables
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

recipe electra "$@"
if [[ -n $dry_run ]]; then planned_python; else use_python "$device"; fi
choose_launcher
make_sample_data

pretrain() {  # pretrain PHASE
  local phase=$1 log=log_p$1 command="command_p$1[@]" next=''
  running "${runner[@]}" "${!command}"
  [[ -z $dry_run ]] || return 0
  log=${!log}
  run_restarting "$log" "$command" "restart_p$1[@]"
  (( phase == 2 || ${#phases[@]} == 1 )) || next=", phase 2 is not started"
  if (( status == 75 )); then
    die "phase $phase was interrupted$next; the same call with $to_resume resumes it" 75
  elif (( status != 0 )); then
    die "phase $phase ended with status $status$next; its output is in $log" "$status"
  elif [[ -n $stopped && -n $next ]]; then
    die "phase 1 is finished$next: the same call with $to_continue starts it" 75
  fi
}

# run_pretraining.py, in phase 2 with --phase2: from the weights of phase 1
for phase in "${phases[@]}"; do pretrain "$phase"; done
[[ -n $dry_run ]] || say "finished; checkpoints are in $checkpoints, logs in $logs"
