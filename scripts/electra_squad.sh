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
positional=(
  "device=cpu cpu, gpu or hpu"
  "precision=fp32 fp32; bf16 (or hmp); tf32 on gpu"
  "electra_model=google/electra-base-discriminator released weights: a hub name or a model folder"
  "epochs=2 passes over the training questions"
  "batch_size=16 examples per micro-batch and worker in training"
  "infer_batch_size=128 examples per batch in prediction"
  "learning_rate=4e-4 peak learning rate; belongs to a global batch of 128"
  "num_workers=0 workers, one device each; 0 and 1 are the same"
  "seed=RANDOM seed of the head, data order and dropout"
  "squad_version=1.1 1.1 or 2.0"
  "squad_dir=squad_dir folder of train-v1.1.json, dev-v1.1.json (2.0 likewise)"
  "out_dir=results/ folder of checkpoints, predictions and scores"
  "init_checkpoint=None weights in place of electra_model: a checkpoint, its folder, a model folder"
  "mode=train_eval train, eval, train_eval or prediction"
  "env=interactive interactive or cluster (the scheduler starts the workers)"
  "cache_dir=squad_dir folder of the feature cache"
  "max_steps=-1 updates in place of epochs, where above 0"
  "train_iter_per_epoch=-1 updates of an epoch, at most, where above 0"
)
by_name=(
  "vocab_file= vocabulary (default: the one beside the weights)"
  "gradient_accumulation_steps=1 micro-batches averaged into one update"
  "warmup_proportion=0.05 share of the updates with rising learning rate"
  "weight_decay_rate=0.01 decoupled weight decay"
  "layerwise_lr_decay=0.8 factor on the learning rate from one layer to the one below"
  "max_seq_length=384 question and context window, tokens"
  "doc_stride=128 tokens from one window to the next"
  "length_buckets=128,192,256,384 lengths that batches are padded to"
  "beam_size=5 joint head: starts, and ends for each, that are looked at"
  "joint_head=true false: independent start and end"
  "answerability_from_gold=false 2.0: the ancestor's training of answerability"
  "null_score_diff_threshold=-5.6 2.0: null odds above which a question is left unanswered"
  "evaluate_during_training=false score the answers after every epoch"
  "eval_script= official evaluation script to run as well"
  "log_freq=10 updates between two logged lines"
  "xla=auto compile with XLA: auto (on gpu only), true, false; ignored on hpu"
  "skip_checkpoint=false write no checkpoint"
  "overwrite=false delete another fine-tuning's checkpoints in out_dir"
  "dry_run=false print the command and run nothing"
)
read_options "$@"

choose device cpu gpu hpu
choose squad_version 1.1 2.0
choose mode train eval train_eval prediction
choose env interactive cluster
choose xla auto true false
[[ $(option num_workers) =~ ^[0-9]+$ ]] || die "num_workers=$(option num_workers) must be a whole number"
(( 10#$(option num_workers) <= 1 )) || die "num_workers=$(option num_workers): several workers are not supported yet, use 1"
for name in batch_size gradient_accumulation_steps; do
  [[ $(option "$name") =~ ^[1-9][0-9]*$ ]] || die "$name=$(option "$name") must be a whole number above 0"
done
is dry_run true || require_device "$(option device)"

if is init_checkpoint None || [[ -z $(option init_checkpoint) ]]; then value[init_checkpoint]=${init_checkpoint:-}; fi
if is init_checkpoint None; then value[init_checkpoint]=; fi
cd "$root"
for name in vocab_file init_checkpoint eval_script electra_model; do
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

global_batch=$(( $(option batch_size) * $(option gradient_accumulation_steps) ))
if [[ $(option mode) == train* && $(option learning_rate) == 4e-4 && $global_batch -lt 128 ]]; then
  say "note: learning_rate=4e-4 belongs to a global batch of 128, and this one is $global_batch; 1e-4 is usual for 16, 2e-4\
 for 32"
fi
squad_command() {
  command=("$python" run_tf_squad.py --device="$(option device)" --precision="$(option precision)"
    --electra_model="$(option electra_model)" --data_dir="$folder" --output_dir="$(option out_dir)"
    --num_train_epochs="$(option epochs)" --train_batch_size="$(option batch_size)"
    --predict_batch_size="$(option infer_batch_size)" --max_steps="$(option max_steps)")
  local name
  for name in learning_rate train_iter_per_epoch gradient_accumulation_steps warmup_proportion weight_decay_rate \
    layerwise_lr_decay max_seq_length doc_stride length_buckets beam_size joint_head null_score_diff_threshold log_freq; do
    command+=("--$name=$(option "$name")")
  done
  for name in answerability_from_gold evaluate_during_training skip_checkpoint overwrite; do
    ! is "$name" true || command+=("--$name")
  done
  for name in vocab_file init_checkpoint eval_script; do
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
  is dry_run true || take_lock "$python"
  [[ -d data/sample/demo ]] ||
    sample_step "$python" data/make_sample_data.py --output_dir=data/sample/demo --size=demo
  is dry_run true || release_lock
}

if is dry_run true; then
  planned_python
  [[ -z $sample ]] || make_questions
  squad_command
  running "${command[@]}"
  exit 0
fi
use_python "$(option device)"
[[ -z $sample ]] || make_questions
squad_command
running "${command[@]}"
run_logged "$(option out_dir)/console.log" "${command[@]}"
if (( status == 75 )); then
  die "interrupted; the same call goes on from the last checkpoint" 75
elif (( status == 2 )) && [[ -z $(option init_checkpoint) ]]; then
  newest=$(find results/models/*/checkpoints -name 'ckpt-*.index' -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -n 1)
  newest=${newest#* } own="CHECKPOINT, which scripts/electra.sh makes"
  if [[ -n $newest ]]; then own="${newest%.index}, the newest pre-trained one here"; fi
  die "ended with status 2; where released weights cannot be had, name your own with --init_checkpoint=$own" 2
elif (( status != 0 )); then
  die "ended with status $status; its output is in $(option out_dir)/console.log" "$status"
fi
say "finished; results are in $(option out_dir)"
