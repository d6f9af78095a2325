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

# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
# shellcheck source=scripts/fine_tune.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/fine_tune.sh"

fine_tune electra_squad "$@"
