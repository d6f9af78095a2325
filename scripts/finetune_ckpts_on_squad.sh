#!/usr/bin/env bash
# Fine-tunes every pre-trained checkpoint of a run on SQuAD: how good was it, after how many updates?
#
#   checkpoints=./results/models/base/checkpoints bash scripts/finetune_ckpts_on_squad.sh
#   checkpoints=... bash scripts/finetune_ckpts_on_squad.sh --squad_dir=SQUAD --batch_size=32 --learning_rate=2e-4
#
# Every option of scripts/electra_squad.sh passes through by name. Finished fine-tunings are skipped when the sweep is
# started again. Exit status: 0; 1 when one failed (the others were done); 2 after a mistake in the call, also one that only
# the first fine-tuning finds; 75 after an interruption (the same call goes on).

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

usage="usage: checkpoints=FOLDER[,FOLDER...] bash scripts/finetune_ckpts_on_squad.sh [--option=value ...]
Exports and fine-tunes each checkpoint in its own folder under out_dir, in the order of training, and writes a table
(sweep.txt, sweep.csv) and a plot (sweep.png). The options below the first six are those of scripts/electra_squad.sh."
# shellcheck source=scripts/squad_options.sh
source "$root/scripts/squad_options.sh"
own=(
  "checkpoints= folders of checkpoints, by commas or blanks (also from the environment)"
  "seeds= seeds, by commas: median and spread of each checkpoint (default: 1)"
  "device= cpu, gpu or hpu (default: the one that the checkpoint was trained on)"
  "out_dir=results/squad_sweep folder of the sweep"
  "keep_checkpoint_max= fine-tuned checkpoints kept of each, 0 to 2 (default: 1)"
  "dry_run=false print the command and run nothing"
)
passed=()
for row in "${positional[@]}" "${by_name[@]}"; do
  case ${row%%=*} in device | out_dir | init_checkpoint | electra_model | mode | seed | env | dry_run | overwrite) ;;
    *) passed+=("$row") ;; esac
done
positional=() by_name=("${own[@]}" "${passed[@]}")
read_options "$@"

if [[ -z $(option checkpoints) ]]; then value[checkpoints]=${checkpoints:-}; fi
folders=$(option checkpoints)
read -rd '' -a folders <<<"${folders//,/ }" || true  # its status says that the text has ended
(( ${#folders[@]} )) || die "checkpoints is not set: name the folder, as in checkpoints=results/models/base/\
checkpoints bash scripts/$wrapper"
if [[ -z $(option seeds) ]]; then value[seeds]=1; fi
[[ $(option seeds) =~ ^[0-9]+(,[0-9]+)*$ ]] || die "seeds=$(option seeds) must be whole numbers separated by commas"
[[ -z $(option device) ]] || known_device "$(option device)"
if [[ -z ${given[squad_dir]:-} && -n ${squad_dir:-} ]]; then value[squad_dir]=$squad_dir given[squad_dir]=yes; fi
cd "$root"
folders=$(in_start_dir "$(IFS=,; printf '%s' "${folders[*]}")")
case $(option out_dir) in
  /*) ;;
  '~'/*) value[out_dir]=$HOME/$(option out_dir | cut -c3-) ;;
  *) [[ -z ${given[out_dir]:-} || $PWD == "$start_dir" ]] || value[out_dir]=$start_dir/$(option out_dir) ;;
esac
for name in squad_dir cache_dir vocab_file eval_script hostfile bf16_config_path; do
  [[ -z ${given[$name]:-} ]] || value[$name]=$(in_start_dir "$(option "$name")")
done
planned_python
arguments=()
for row in "${passed[@]}"; do
  name=${row%%=*}
  [[ -z ${given[$name]:-} ]] || arguments+=("--$name=$(option "$name")")
done
# What electra_squad.sh refuses is refused once and now, not after the export of every checkpoint.
bash scripts/electra_squad.sh --dry_run=true ${arguments+"${arguments[@]}"} >/dev/null || exit
command=("$python" scripts/sweep_squad.py --checkpoints="$folders" --seeds="$(option seeds)"
  --out_dir="$(option out_dir)")
[[ -z $(option device) ]] || command+=(--device="$(option device)")
[[ -z $(option keep_checkpoint_max) ]] || command+=(--keep_checkpoint_max="$(option keep_checkpoint_max)")
command+=(-- ${arguments+"${arguments[@]}"})
running "${command[@]}"
! is dry_run true || exit 0
device=$(option device)
use_python "${device:-cpu}"
run "${command[@]}"
exit "$status"
