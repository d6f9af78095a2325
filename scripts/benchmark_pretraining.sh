#!/usr/bin/env bash
# Measures the speed of pre-training and inference on this machine.
#
#   bash scripts/benchmark_pretraining.sh cpu
#   bash scripts/benchmark_pretraining.sh gpu bf16 base 32 --max_seq_length=512
#   bash scripts/benchmark_pretraining.sh --help
#
# scripts/recipe.py has the options and their defaults, scripts/benchmark.py measures. Exit status: 0; 2 for an invalid option
# or input; else that of scripts/benchmark.py.

# shellcheck source=scripts/environment.sh disable=SC2154  # recipe sets variables
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

recipe benchmark_pretraining "$@"
if [[ -n $dry_run ]]; then planned_python; else use_python "$device"; fi
running "$python" "${command[@]}"
[[ -z $dry_run ]] || exit 0
run "$python" "${command[@]}"
exit "$status"
