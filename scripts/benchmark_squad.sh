#!/usr/bin/env bash
# Measures the speed of fine-tuning on SQuAD and inference on this machine.
#
#   bash scripts/benchmark_squad.sh cpu
#   bash scripts/benchmark_squad.sh gpu bf16 base 32
#   bash scripts/benchmark_squad.sh --help
#
# scripts/benchmark_recipe.py has the options and their defaults, scripts/benchmark.py measures. Exit status: 0; 2 for an
# invalid option or input; else that of scripts/benchmark.py.

# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

run_recipe benchmark_squad "$@"
