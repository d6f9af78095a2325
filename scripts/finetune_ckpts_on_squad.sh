#!/usr/bin/env bash
# Fine-tunes every pre-trained checkpoint of a run on SQuAD: how good was it, after how many updates?
#
#   checkpoints=./results/models/base/checkpoints bash scripts/finetune_ckpts_on_squad.sh
#   bash scripts/finetune_ckpts_on_squad.sh --help       every option, also those of scripts/electra_squad.sh
#
# Finished fine-tunings are skipped when the sweep is started again. Exit status: 0; 1 if one failed (the others were done);
# 2 for an invalid option or input, also one that only the first fine-tuning finds; 75 after an interruption (the same call
# resumes).

# shellcheck source=scripts/environment.sh disable=SC2154  # recipe sets variables
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

recipe finetune_ckpts_on_squad "$@"
planned_python
running "$python" "${command[@]}"  # scripts/sweep_squad.py
if [[ -n $dry_run ]]; then
  if "$python" -c 'import importlib.util as i, sys; sys.exit(i.find_spec("tensorflow") is None)' 2>/dev/null; then
    run "$python" "${command[@]:0:1}" --check_only "${command[@]:1}"
  else
    say "note: $python has no TensorFlow yet: the checkpoints, the questions and the disk space were not checked"
  fi
  exit "$status"
fi
use_python "$device"
run "$python" "${command[@]}"
exit "$status"
