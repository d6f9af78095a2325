#!/usr/bin/env bash
# Pre-trains ELECTRA in two phases: sequence length 128, then 512 from the weights of the first.
#
#   bash scripts/electra.sh cpu
#   bash scripts/electra.sh hpu bf16 176 6e-3 1 xla 2000 10000 ...      the positional order of Habana's electra.sh
#   bash scripts/electra.sh --help                                      every option, by position and by name
#
# scripts/pretraining_recipe.py has the options and their defaults, checks a call as a whole, and turns it into the flags of
# each phase; a dry run prints the commands. Checkpoints and logs go to results/models/<name of the run>/, each phase's
# console output to a log file there. Exit status: 0; 2 for an invalid option or input; 75 after an interruption that can be
# resumed; else that of the training.

# shellcheck source=scripts/environment.sh disable=SC2154  # recipe sets variables
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

recipe electra "$@"
if [[ -n $dry_run ]]; then planned_python; else use_python "$device"; fi
choose_launcher
build_data

# NVIDIA's settings, the same in both phases.
settings=(--disc_weight=50)
case $optimizer in
  lamb) settings+=(--skip_adaptive --opt_beta_1=0.878 --opt_beta_2=0.974 --lr_decay_power=0.5) ;;
  *) settings+=(--opt_beta_1=0.9 --opt_beta_2=0.999 --lr_decay_power=1.0) ;;
esac
phase_1=(run_pretraining.py "${settings[@]}")
phase_2=(run_pretraining.py --phase2 --restore_checkpoint=latest "${settings[@]}")

# Also called by restarts, which may change the options.
# shellcheck disable=SC2034  # restarts.sh reads `restart`
compose() {
  case $phase in
    1) command=("${phase_1[@]}" "${options_p1[@]}") restart=("${phase_1[@]}" "${restart_p1[@]}") log=$log_p1 ;;
    2) command=("${phase_2[@]}" "${options_p2[@]}") restart=("${phase_2[@]}" "${restart_p2[@]}") log=$log_p2 ;;
  esac
}

pretrain() {  # pretrain PHASE LOG: runs `command`, after a crash `restart`
  local next=''
  running "${runner[@]}" "${command[@]}"
  [[ -z $dry_run ]] || return 0
  # The last lines of phase 1 announce what follows (console.py).
  export ELECTRA_THEN=''
  (( $1 == 2 || ${#phases[@]} == 1 )) || ELECTRA_THEN='phase 2'
  run_restarting "$2" 'command[@]' 'restart[@]'
  (( $1 == 2 || ${#phases[@]} == 1 )) || next=", phase 2 was not started"
  if (( status == 2 )); then
    exit 2  # the program has said why
  elif (( status == 75 )); then
    [[ -n $(list_checkpoints) ]] || die "phase $1 was interrupted before its first checkpoint$next: run the same command \
again" 75
    die "phase $1 was interrupted$next: run the same command with $to_resume to resume" 75
  elif (( status != 0 )); then
    die "phase $1 ended with status $status$next$(output_in "$2")" "$status"
  elif [[ -n $stopped && -n $next ]]; then
    die "phase 1 finished$next: run the same command with $to_continue" 75
  fi
}

if (( ${#estimate[@]} )); then
  for phase in "${phases[@]}"; do
    compose
    estimate+=(-- "${command[@]}")
  done
  run_estimate "${estimate[@]}"
fi
if can_check; then  # days of phase 1 must not end at a mistake in phase 2
  for phase in "${phases[@]}"; do
    compose
    run "$python" "${command[@]}" --check_only
    [[ -z $stopped ]] || leave
    (( status == 0 )) || die "phase $phase would fail (its reason is above); nothing was trained" "$status"
  done
fi
for phase in "${phases[@]}"; do
  compose
  pretrain "$phase" "$log"
done
[[ -n $dry_run ]] || say "finished; checkpoints are in $checkpoints, logs in $logs"
