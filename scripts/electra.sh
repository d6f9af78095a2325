#!/usr/bin/env bash
# Pre-trains ELECTRA in two phases: sequence length 128, then 512 from the weights of the first.
#
#   bash scripts/electra.sh cpu
#   bash scripts/electra.sh hpu bf16 176 6e-3 1 xla 2000 10000 ...      the positional order of Habana's electra.sh
#   bash scripts/electra.sh --device=hpu --precision=bf16 --train_batch_size_p1=176 ...
#   bash scripts/electra.sh hpu --num_workers=16 --hostfile=FILE ...           two machines of eight cards
#
# --help lists the options. DATASET_P1, DATASET_P2 and init_checkpoint may also be set in the environment. Checkpoints and
# logs go to results/models/<model_name>/; each phase's console output is added to logs/<job_name>_phase<1|2>.log there.
# Exit status: 0, 2 after a mistake in the call, 75 after an interruption that can be resumed, else that of the training.

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

corpus=/data/tensorflow/bert/books_wiki_en_corpus/tfrecord  # where the full recipe's data is by convention
usage="usage: bash scripts/electra.sh [value ...] [--option=value ...]
Pre-trains ELECTRA in two phases. The defaults are a small trial; README.md has the full recipe.

A data folder that is not named is taken from DATASET_P1 or DATASET_P2 in the environment, else from
$corpus/seq_len_<length>/books_wiki_en_corpus/training/
where that exists; with none of them the bundled sample data is used. A switch may stand without a value."
positional=(
  "device=cpu cpu, gpu or hpu"
  "precision=fp32 fp32; bf16 (or hmp); tf32 on gpu"
  "train_batch_size_p1=2 phase 1: sequences per micro-batch and worker"
  "learning_rate_p1=6e-3 phase 1: peak learning rate"
  "num_workers=0 workers, one device each (also --num_hpu); 0 and 1 are the same"
  "xla=xla compile with XLA: xla or auto (on gpu only), true, false; ignored on hpu"
  "warmup_steps_p1=5 phase 1: updates of linear warm-up"
  "train_steps_p1=20 phase 1: updates"
  "save_checkpoint_steps=20 updates between two checkpoints"
  "resume_training=false go on from the newest checkpoint of this run"
  "optimizer=lamb lamb, adam or adamw"
  "accumulate_gradients=true false: every micro-batch is an update"
  "gradient_accumulation_steps_p1=4 phase 1: micro-batches averaged into one update"
  "seed=100 seed of weights, data order, masks and dropout"
  "job_name=electra_lamb_pretraining begins the names of the log files"
  "train_batch_size_p2=2 phase 2: sequences per micro-batch and worker"
  "learning_rate_p2=4e-3 phase 2: peak learning rate"
  "warmup_steps_p2=5 phase 2: updates of linear warm-up"
  "train_steps_p2=20 phase 2: updates"
  "gradient_accumulation_steps_p2=4 phase 2: micro-batches averaged into one update"
  "electra_model=base model size: tiny, small, base or large"
  "data_dir_p1=DATASET_P1 phase 1: shards, as a folder, a glob or a comma list"
  "data_dir_p2=DATASET_P2 phase 2: shards, as a folder, a glob or a comma list"
  "code_dir=. folder of run_pretraining.py, seen from the repository's root"
  "init_checkpoint=None begin phase 1 at step 0 with these weights: a checkpoint, folder or hub name"
)
by_name=(
  "phase=both both, 1 or 2 (2 needs a finished phase 1 of the same run)"
  "model_name= folder of the run under <results_dir>/models (default: the model size)"
  "results_dir=results folder of all results"
  "overwrite=false delete what an earlier run left in the run's folder and start anew"
  "vocab_file= vocabulary (default: the vocab.txt beside the shards)"
  "model_config= JSON file with fields that replace those of the model size"
  "generator_hidden_size= generator width as a fraction of the discriminator's (default: by size)"
  "objective= electra, or mlm: the encoder as a masked language model (default: electra)"
  "generator= separate, tied or uniform (default: separate)"
  "mask_prob= share of the tokens that is masked (default: 0.15)"
  "max_seq_length_p1=128 phase 1: length of the records, tokens"
  "max_seq_length_p2=512 phase 2: length of the records, tokens"
  "log_freq= updates between two logged lines (default: 1 up to 100 updates, else 10)"
  "eval_freq= updates between two evaluations on the held-out shards, where there are any"
  "num_eval_steps=20 batches of train_batch_size in one evaluation, at most"
  "keep_checkpoint_max= newest checkpoints kept of each phase (default: 5)"
  "hostfile= hosts of the workers, in lines like 'host1 slots=8' (default: this machine)"
  "bf16_config_path= hpu with bf16: JSON file of what is converted (default: ours)"
  "gradient_compression=none gradients travel between workers as none (float32), fp16, bf16"
  "env=interactive interactive or cluster (a scheduler starts the wrapper for each worker)"
  "dry_run=false print the commands and run nothing"
)
read_options "$@"

# --- Values that this wrapper itself acts on; the others are checked by run_pretraining.py ---

choose device cpu gpu hpu
choose xla xla auto true false
choose phase both 1 2
[[ $(option job_name) =~ ^[A-Za-z0-9._-]+$ ]] || die "job_name=$(option job_name) must be a file name: letters, digits, . _ -"
if is phase 2; then
  phases=(2)
  ! is overwrite true || die "--overwrite starts phase 1 anew and cannot go with --phase=2"
  [[ -z ${given[init_checkpoint]:-} ]] || die "init_checkpoint begins phase 1 and cannot go with --phase=2"
elif is phase 1; then
  phases=(1)
else
  phases=(1 2)
fi
check_workers
if is env cluster && (( ${OMPI_COMM_WORLD_SIZE:-1} > 1 && ${#phases[@]} > 1 )); then
  die "one mpirun can start one training: start the wrapper with --phase=1, and after that with --phase=2"
fi
is dry_run true || require_device "$(option device)"

# --- Paths: relative ones belong to the folder where the wrapper was started ---

cd "$root"
cd "$(option code_dir)" 2>/dev/null || die "code_dir=$(option code_dir) is no folder: leave it out, or name the one that \
holds run_pretraining.py"
if is init_checkpoint None || [[ -z $(option init_checkpoint) ]]; then value[init_checkpoint]=${init_checkpoint:-}; fi
if is init_checkpoint None; then value[init_checkpoint]=; fi
for name in vocab_file model_config init_checkpoint bf16_config_path; do
  [[ -z $(option "$name") ]] || value[$name]=$(in_start_dir "$(option "$name")")
done
results_dir=$(option results_dir)
case $results_dir in
  /*) ;;
  '~'/*) results_dir=$HOME/${results_dir#*/} ;;
  *) [[ -z ${given[results_dir]:-} || $PWD == "$start_dir" ]] || results_dir=$start_dir/$results_dir ;;
esac
model_name=$(option model_name)
logs=$results_dir/models/${model_name:-$(option electra_model)}/logs

# --- Data ---

sample=''  # not empty where the bundled sample data is used
declare -A data
for phase in "${phases[@]}"; do
  name=data_dir_p$phase environment=DATASET_P$phase length=$(option "max_seq_length_p$phase")
  folder=$(option "$name")
  case $folder in '' | None | DATASET_P1 | DATASET_P2) folder=${!environment:-} ;; esac
  if [[ -z $folder && -d $corpus/seq_len_$length/books_wiki_en_corpus/training ]]; then
    folder=$corpus/seq_len_$length/books_wiki_en_corpus/training/
  fi
  if [[ -n $folder ]]; then
    data[$phase]=$(in_start_dir "$folder")
  else
    data[$phase]=data/sample/tfrecord/seq_len_$length sample+=$phase
  fi
done
case $sample in
  '') ;;
  "$(printf '%s' "${phases[@]}")")
    say "no data set is named: the bundled sample data is used (data/sample), which shows that everything works and no more;\
 name yours with --data_dir_p1 and --data_dir_p2, or in DATASET_P1 and DATASET_P2" ;;
  *) die "phase $sample has no data while the other phase has: name it with --data_dir_p$sample or DATASET_P$sample, or run\
 one phase with --phase" ;;
esac

if is device hpu && [[ -n ${given[xla]:-} ]] && ! is xla auto && ! is xla false; then
  say "note: xla=$(option xla) is ignored on hpu, where the graph is compiled by the bridge"
fi
if is resume_training true && [[ -n $(option init_checkpoint) ]]; then
  say "note: a resumed run goes on from its own checkpoint, so init_checkpoint is not loaded again"
  value[init_checkpoint]=
fi

# --- The commands ---

phase_command() {  # sets `command` to that of phase $1
  local phase=$1 name accumulation
  accumulation=$(option "gradient_accumulation_steps_p$phase")
  ! is accumulate_gradients false || accumulation=1
  command=("${runner[@]}" run_pretraining.py --device="$(option device)" --precision="$(option precision)")
  worker_flags
  if ! is device hpu; then
    if is xla xla; then command+=(--xla=auto); else command+=(--xla="$(option xla)"); fi
  fi
  command+=(--model_size="$(option electra_model)" --results_dir="$results_dir"
    --pretrain_tfrecords="${data[$phase]}" --max_seq_length="$(option "max_seq_length_p$phase")"
    --train_batch_size="$(option "train_batch_size_p$phase")" --gradient_accumulation_steps="$accumulation"
    --num_train_steps="$(option "train_steps_p$phase")" --num_warmup_steps="$(option "warmup_steps_p$phase")"
    --learning_rate="$(option "learning_rate_p$phase")" --save_checkpoints_steps="$(option save_checkpoint_steps)"
    --seed="$(option seed)" --optimizer="$(option optimizer)" --disc_weight=50)
  if is optimizer lamb; then
    command+=(--skip_adaptive --opt_beta_1=0.878 --opt_beta_2=0.974 --lr_decay_power=0.5)
  else
    command+=(--opt_beta_1=0.9 --opt_beta_2=0.999 --lr_decay_power=1.0)
  fi
  if is electra_model base && [[ -z $(option generator_hidden_size) ]]; then
    command+=(--generator_hidden_size=0.3333333)
  fi
  if [[ $sample && ! -d ${data[$phase]} || -d ${data[$phase]}/eval ]]; then
    command+=(--eval_tfrecords="${data[$phase]%/}/eval" --num_eval_steps="$(option num_eval_steps)")
  fi
  for name in model_name model_config generator_hidden_size objective generator vocab_file mask_prob log_freq eval_freq \
    keep_checkpoint_max bf16_config_path; do
    [[ -z $(option "$name") ]] || command+=("--$name=$(option "$name")")
  done
  if (( phase == 2 )); then
    command+=(--phase2 --restore_checkpoint=latest)
    return
  fi
  [[ -z $(option init_checkpoint) ]] || command+=(--load_weights --weights_dir="$(option init_checkpoint)")
  ! is resume_training true || command+=(--restore_checkpoint=latest)
  ! is overwrite true || command+=(--overwrite)
}

make_sample_data() {  # each folder appears when it is complete
  local phase length
  if (( rank )); then
    for phase in "${phases[@]}"; do await_folder "${data[$phase]}"; done
    return
  fi
  is dry_run true || take_lock "$python"
  [[ -d data/sample/demo ]] ||
    sample_step "$python" data/make_sample_data.py --output_dir=data/sample/demo --size=demo
  for phase in "${phases[@]}"; do
    length=$(option "max_seq_length_p$phase")
    [[ $phase == 2 && $length == "$(option max_seq_length_p1)" && ${#phases[@]} == 2 || -d ${data[$phase]} ]] ||
      sample_step "$python" build_pretraining_dataset.py --corpus_dir=data/sample/demo/corpus \
        --vocab_file=data/sample/demo/vocab.txt --output_dir="${data[$phase]}" --max_seq_length="$length" \
        --num_out_files=4 --eval_fraction=0.05
  done
  is dry_run true || release_lock
}

if is dry_run true; then
  planned_python
  choose_launcher
  [[ -z $sample ]] || make_sample_data
  for phase in "${phases[@]}"; do phase_command "$phase"; running "${command[@]}"; done
  exit 0
fi

for phase in "${phases[@]}"; do  # before days of phase 1, not after
  if [[ -n $sample ]]; then break; fi
  IFS=, read -ra pieces <<<"${data[$phase]}"
  for piece in "${pieces[@]}"; do
    matches "$piece" || die "the data of phase $phase, $piece, does not exist: check --data_dir_p$phase or DATASET_P$phase"
  done
done
use_python "$(option device)"
choose_launcher
[[ -z $sample ]] || make_sample_data

for phase in "${phases[@]}"; do
  log=$logs/$(option job_name)_phase$phase.log
  phase_command "$phase"
  running "${command[@]}"
  run_logged "$log" "${command[@]}"
  next=''
  [[ $phase == 2 || ${#phases[@]} == 1 ]] || next=", phase 2 is not started"
  if (( status == 75 )); then
    die "phase $phase was interrupted$next; the same call with --resume_training=true goes on" 75
  elif (( status != 0 )); then
    die "phase $phase ended with status $status$next; its output is in $log" "$status"
  elif [[ -n $stopped && -n $next ]]; then
    die "phase 1 is finished$next: the same call with --phase=2 goes on" 75
  fi
done
say "finished; checkpoints are in $(dirname "$logs")/checkpoints, logs in $logs"
