#!/usr/bin/env bash
# Fine-tunes ELECTRA on SQuAD, answers the questions of the development set, and scores the answers.
#
#   bash scripts/electra_squad.sh cpu
#   bash scripts/electra_squad.sh hpu bf16 google/electra-base-discriminator 2 16 128 1e-4 ...    Habana's positional order
#   bash scripts/electra_squad.sh --help                                 every option, by position and by name
#
# scripts/squad_recipe.py has the options, their defaults and the command, and checks them before anything starts; a dry run
# prints the command. Checkpoints, predictions and scores go to one folder. Exit status: 0; 2 for an invalid option or
# input; 75 after an interruption (the same call resumes); else that of the command.

# shellcheck source=scripts/environment.sh disable=SC2154  # recipe sets variables
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

recipe electra_squad "$@"
if [[ -n $dry_run ]]; then planned_python; else use_python "$device"; fi
choose_launcher
build_data

(( ${#estimate[@]} == 0 )) || run_estimate "${estimate[@]}" -- "${command[@]}"
running "${runner[@]}" "${command[@]}"  # run_tf_squad.py
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
