#!/usr/bin/env bash
# Fine-tunes ELECTRA on SQuAD, answers the questions of the development set, and scores the answers.
#
#   bash scripts/electra_squad.sh cpu --init_checkpoint=results/models/base/checkpoints
#   bash scripts/electra_squad.sh hpu bf16 google/electra-base-discriminator 2 16 128 1e-4 ...    Habana's positional order
#
# --help lists the options. squad_dir and init_checkpoint may also be set in the environment. Checkpoints, predictions and
# scores go to out_dir. Exit status: 0, 2 after a mistake in the call, 75 after an interruption (the same call goes on),
# else that of the command.

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

usage="usage: bash scripts/electra_squad.sh [value ...] [--option=value ...]
Fine-tunes ELECTRA on SQuAD 1.1 or 2.0, answers, and scores. Without squad_dir (named here or in the environment) the
bundled sample questions are used. A switch may stand without a value."
# shellcheck source=scripts/squad_options.sh
source "$root/scripts/squad_options.sh"
read_options "$@"

choose device cpu gpu hpu
choose squad_version 1.1 2.0
choose mode train eval train_eval prediction
choose xla auto true false
for name in batch_size gradient_accumulation_steps; do
  [[ $(option "$name") =~ ^[1-9][0-9]*$ ]] || die "$name=$(option "$name") must be a whole number above 0"
done
check_workers
is dry_run true || require_device "$(option device)"

if is init_checkpoint None || [[ -z $(option init_checkpoint) ]]; then value[init_checkpoint]=${init_checkpoint:-}; fi
if is init_checkpoint None; then value[init_checkpoint]=; fi
cd "$root"
for name in vocab_file init_checkpoint eval_script electra_model bf16_config_path; do
  [[ -z $(option "$name") ]] || value[$name]=$(in_start_dir "$(option "$name")")
done
case $(option out_dir) in
  /*) ;;
  '~'/*) value[out_dir]=$HOME/$(option out_dir | cut -c3-) ;;
  *) [[ -z ${given[out_dir]:-} || $PWD == "$start_dir" ]] || value[out_dir]=$start_dir/$(option out_dir) ;;
esac

# --- Data ---

folder=$(option squad_dir) sample=''
case $folder in '' | None | squad_dir) folder=${squad_dir:-} ;; esac
if [[ -n $folder ]]; then
  folder=$(in_start_dir "$folder")
  [[ -d $folder ]] || die "squad_dir=$folder is no folder: name the one that holds the SQuAD files"
else
  folder=data/sample/demo/squad sample=yes
  say "no squad_dir is named: the bundled sample questions are used ($folder), which show that everything works and no more"
fi
cache=$(option cache_dir)
case $cache in
  '' | None | squad_dir) if [[ -w $folder ]]; then cache=$folder; else cache=''; fi ;;
  *) cache=$(in_start_dir "$cache") ;;
esac

# --- The command ---

global_batch=$(( $(option batch_size) * $(option gradient_accumulation_steps) * ($(option num_workers) ? $(option \
num_workers) : 1) ))
if [[ $(option mode) == train* && $(option learning_rate) == 4e-4 && $global_batch -lt 128 ]]; then
  say "note: learning_rate=4e-4 belongs to a global batch of 128, and this one is $global_batch; 1e-4 is usual for 16, 2e-4\
 for 32"
fi
squad_command() {
  command=("${runner[@]}" run_tf_squad.py --device="$(option device)" --precision="$(option precision)"
    --electra_model="$(option electra_model)" --data_dir="$folder" --output_dir="$(option out_dir)"
    --num_train_epochs="$(option epochs)" --train_batch_size="$(option batch_size)"
    --predict_batch_size="$(option infer_batch_size)" --max_steps="$(option max_steps)")
  worker_flags
  local name
  for name in learning_rate train_iter_per_epoch gradient_accumulation_steps warmup_proportion weight_decay_rate \
    layerwise_lr_decay max_seq_length doc_stride length_buckets beam_size joint_head null_score_diff_threshold log_freq; do
    command+=("--$name=$(option "$name")")
  done
  for name in answerability_from_gold evaluate_during_training skip_checkpoint overwrite; do
    ! is "$name" true || command+=("--$name")
  done
  for name in vocab_file init_checkpoint eval_script bf16_config_path; do
    [[ -z $(option "$name") ]] || command+=("--$name=$(option "$name")")
  done
  is device hpu || command+=("--xla=$(option xla)")
  [[ -z $cache ]] || command+=("--cache_dir=$cache")
  is seed RANDOM || command+=("--seed=$(option seed)")
  is squad_version 1.1 || command+=(--version_2_with_negative)
  case $(option mode) in
    train) command+=(--do_train) ;;
    eval) command+=(--do_predict --do_eval) ;;
    train_eval) command+=(--do_train --do_predict --do_eval) ;;
    prediction) command+=(--do_predict) ;;
  esac
}

make_questions() {
  if (( rank )); then await_folder data/sample/demo; return; fi
  is dry_run true || take_lock "$python"
  [[ -d data/sample/demo ]] ||
    sample_step "$python" data/make_sample_data.py --output_dir=data/sample/demo --size=demo
  is dry_run true || release_lock
}

if is dry_run true; then
  planned_python
  choose_launcher
  [[ -z $sample ]] || make_questions
  squad_command
  running "${command[@]}"
  exit 0
fi
use_python "$(option device)"
choose_launcher
[[ -z $sample ]] || make_questions
squad_command
running "${command[@]}"
run_logged "$(option out_dir)/console.log" "${command[@]}"
no_weights() {  # whether the command has just said so; where the chief alone has a log, it alone knows
  local said
  said=$(tail -n 50 "$(option out_dir)/console.log" 2>/dev/null) || return
  [[ ${said##*running: } == *"$(option electra_model) is no folder here"* ]]
}
if (( status == 75 )); then
  die "interrupted; the same call goes on from the last checkpoint" 75
elif (( status == 2 )) && no_weights; then
  newest=$(find results/models/*/checkpoints -name 'ckpt-*.index' -printf '%T@ %p\n' 2>/dev/null | sort -n |
    tail -n 1) || true  # there may be no such folder
  newest=${newest#* } own="CHECKPOINT, which scripts/electra.sh makes"
  if [[ -n $newest ]]; then own="${newest%.index}, the newest pre-trained one here"; fi
  die "ended with status 2; where released weights cannot be had, name your own with --init_checkpoint=$own" 2
elif (( status != 0 )); then
  die "ended with status $status; its output is in $(option out_dir)/console.log" "$status"
fi
say "finished; results are in $(option out_dir)"
