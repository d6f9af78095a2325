#!/usr/bin/env bash
# Fine-tunes ELECTRA on a task of GLUE, or on own data for classification, regression or tagging, and scores it.
#
#   bash scripts/electra_tasks.sh cpu --task=rte --data_dir=GLUE --init_checkpoint=results/models/base/checkpoints
#   bash scripts/electra_tasks.sh gpu --task=classification --train_file=train.csv --out_dir=results/mine
#   bash scripts/electra_tasks.sh --help                                every option, by position and by name
#
# scripts/tasks_recipe.py has the options, their defaults and the command, and checks them before anything starts; a dry
# run prints the command. Checkpoints, predictions and scores go to one folder. Exit status: 0; 2 for an invalid option or
# input; 75 after an interruption (the same call resumes); else that of the command.

# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"
# shellcheck source=scripts/fine_tune.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/fine_tune.sh"

fine_tune electra_tasks "$@"
