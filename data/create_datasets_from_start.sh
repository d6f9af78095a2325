#!/usr/bin/env bash
# Makes a dataset for pre-training from its beginning: downloads, prepares the text, trains a vocabulary, builds records.
#
#   bash data/create_datasets_from_start.sh wiki --language=de --data_dir=data/dewiki
#   bash data/create_datasets_from_start.sh corpus mytexts --data_dir=data/mine
#   bash data/create_datasets_from_start.sh --help                      every option
#
# scripts/datasets_recipe.py has the options. Exit status: 0; 2 for an invalid option or input; 75 after an interruption
# (the same command continues); else that of the step that failed.

# shellcheck source=scripts/environment.sh disable=SC2154  # recipe sets variables
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../scripts/environment.sh"

recipe create_datasets_from_start "$@"
if [[ -n $dry_run ]]; then planned_python; else use_python "$device"; fi
build_data
[[ -n $dry_run ]] || say "finished: $finished"
