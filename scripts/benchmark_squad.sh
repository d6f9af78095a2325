#!/usr/bin/env bash
# Measures the speed of fine-tuning on SQuAD and inference on this machine.
#
#   bash scripts/benchmark_squad.sh cpu
#   bash scripts/benchmark_squad.sh gpu bf16 base 32
#   bash scripts/benchmark_squad.sh --help
#
# scripts/recipe.py has the options and their defaults, scripts/benchmark.py measures. Exit status: 0; 2 for an invalid option
# or input; else that of scripts/benchmark.py.

# shellcheck source=scripts/environment.sh disable=SC2154  # recipe sets variables
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

recipe benchmark_squad "$@"
if [[ -n $dry_run ]]; then planned_python; else use_python "$device"; fi
running "$python" "${command[@]}"
[[ -z $dry_run ]] || exit 0
run "$python" "${command[@]}"
exit "$status"
