"""Fine-tunes ELECTRA on SQuAD 1.1 or 2.0, answers questions, and scores the answers.

    python run_tf_squad.py --do_train --do_predict --do_eval --data_dir=SQUAD --output_dir=results/squad \\
        --init_checkpoint=results/models/base/checkpoints
    python run_tf_squad.py --do_predict --predict_file=questions.json --output_dir=results/squad

Writes to --output_dir: checkpoints/ (one per epoch; best.json names the one with the best F1), predictions.json,
nbest_predictions.json, null_odds.json (2.0), results.json, logfile.txt, logs/ (JSON lines, TensorBoard, curves),
the vocabulary. scripts/electra_squad.sh is the recipe.

fine_tuning.py has what every fine-tuning does, with layer-wise learning rates; `Squad` here is what SQuAD adds.
"""
from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
from typing import Dict, List, Optional, Tuple

import command_line
import ensemble
import preflight
from configuration import UserError
from squad_options import SquadConfig

if __name__ == "__main__":  # an invalid call is refused at once, not after the seconds that the other imports take
    command_line.refuse_early(SquadConfig, __doc__, check=ensemble.before_tensorflow, resumable=True)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported; hides its start-up messages

import numpy as np
import tensorflow as tf
from absl import logging

import analysis
import configuration
import fine_tuning
import flops
import modeling
import run_log
import squad_metrics
import squad_results
import squad_utils
import training
import weights
from checkpoints import Checkpoints, find_checkpoint
from curves import Metric
from fine_tuning import Best, Predictor, Split
from tokenization import ElectraTokenizer
from workers import Workers, catch_lost_workers

# --- Data ---


def read_examples(config: SquadConfig, name: str) -> List[squad_utils.Example]:
    needs_answers = name == "train" or config.do_eval or config.evaluates_in_training
    offsets = squad_utils.Offsets.IGNORE
    if name == "train":
        offsets = squad_utils.Offsets.REFUSE if config.strict_answers else squad_utils.Offsets.REPAIR
    return squad_utils.read_squad(config.data_file(name), config.version_2_with_negative, needs_answers, offsets)


def lengths(config: SquadConfig) -> Dict[str, int]:
    """Arguments of `squad_utils.build_features`."""
    return dict(max_seq_length=config.max_seq_length, doc_stride=config.doc_stride,
                max_query_length=config.max_query_length)


def read_split(config: SquadConfig, name: str, tokenizer: ElectraTokenizer) -> Split:
    path, examples = config.data_file(name), read_examples(config, name)
    if config.skip_cache:
        features = squad_utils.build_features(examples, tokenizer, **lengths(config))
    else:
        features = squad_utils.cached_features(path, examples, tokenizer, config.features_dir,
                                               config.version_2_with_negative, **lengths(config))
    logging.info("%s: %d questions, %d windows of %.0f tokens on average.", path, len(examples),
                 len(features.lengths), features.lengths.mean())
    return Split(path, examples, features)


# --- Answers ---


def predict(config: SquadConfig, answers: Predictor, dev: Split, workers: Workers,
            stop: Optional[training.StopRequest] = None, write: bool = False) -> Tuple[Optional[dict], Optional[dict]]:
    """Answers the questions of `dev`. Returns: its part of results.json, and the scores (None without gold answers).

    Both are None when stopped. With `write` the predictions go to output_dir. Only rank 0 searches for answers; the
    others return an empty dict and None.
    """
    outputs, interval = fine_tuning.run_model(SQUAD, config, answers, dev.features, workers, stop,
                                              None if answers.model.joint_head else config.max_seq_length)
    if outputs is None:
        return None, None
    if not workers.is_chief:
        return {}, None

    def search(temperature: float) -> squad_utils.Found:
        return squad_utils.search_answers(
            answers.model.joint_head, dev.examples, dev.features, outputs, config.n_best_size, config.max_answer_length,
            config.version_2_with_negative, temperature)

    found = search(answers.temperature)
    result = squad_results.Answers(found.nbest, found.null_odds)
    calibration, scores = {}, None
    if config.do_eval or config.evaluates_in_training:
        calibration = calibrate(config, answers, dev, outputs, found, result.predictions(config))
        scores = squad_results.scores_of(config, dev.examples, result)
    if write and config.do_eval:
        if calibration:
            result = result._replace(nbest=search(calibration["temperature"]).nbest)
            keep_temperature(newest_prefix(config, answers), calibration)
        analysis.write_after_evaluation(config, dev.examples, result)
    if write:
        squad_results.write(config, result)
    return {**interval.results(config.predict_batch_size), **calibration}, scores


def calibrate(config: SquadConfig, answers: Predictor, dev: Split, outputs: Dict[str, np.ndarray],
              found: squad_utils.Found, predicted: Dict[str, str]) -> dict:
    """Finds the temperature of the probabilities. Returns: its part of results.json; empty where there are too few
    right or wrong answers to find one."""
    metric = squad_metrics.named(config.metric, config.language)
    right, _ = squad_metrics.score_each(dev.examples, predicted, config.version_2_with_negative, metric)
    calibration = squad_utils.calibrate(answers.model.joint_head, dev.examples, dev.features, outputs, found, predicted,
                                        right, config.max_answer_length)
    if calibration is None:
        return {}
    logging.info("probabilities: expected calibration error %.3f at temperature %.2f, %.3f without.", calibration.error,
                 calibration.temperature, calibration.error_uncalibrated)
    return {"temperature": calibration.temperature, "expected_calibration_error": calibration.error,
            "expected_calibration_error_uncalibrated": calibration.error_uncalibrated}


def newest_prefix(config: SquadConfig, answers: Predictor) -> Optional[str]:
    """Where the temperature of the model that has answered is kept: its checkpoint or folder; None if nowhere."""
    if not config.do_train:
        return answers.path
    newest = None if config.skip_checkpoint else Checkpoints(config.checkpoint_dir).newest(1, quiet=True)
    return newest and newest.prefix


def keep_temperature(path: Optional[str], calibration: dict):
    """Keeps what `calibrate` has found with the weights that it was found for."""
    if not path or "temperature" not in calibration:
        return
    try:
        weights.keep_temperature(path, calibration["temperature"])
    except OSError as error:
        logging.warning("the temperature could not be kept with the model: %s could not be written (%s).",
                        error.filename, error.strerror)


def run_eval_script(config: SquadConfig, dev: Split, scores: Dict[str, float]):
    """Runs an official script on the written predictions and logs whether it agrees."""
    command = [sys.executable, config.eval_script, dev.path, os.path.join(config.output_dir, "predictions.json")]
    result = subprocess.run(command, capture_output=True, text=True)
    try:
        theirs = configuration.parse_json_object(result.stdout, config.eval_script)
    except UserError:
        logging.warning("--eval_script=%s printed no JSON object (status %d): %s", config.eval_script,
                        result.returncode, (result.stderr.strip().splitlines() or ["nothing"])[-1])
        return
    differ = [name for name in ("exact_match", "exact", "f1") if name in theirs and name in scores
              and abs(theirs[name] - scores[name]) > 1e-9]
    if differ:
        logging.warning("--eval_script disagrees: %s is %s there and %s here.", differ[0], theirs[differ[0]],
                        scores[differ[0]])
    else:
        logging.info("--eval_script agrees.")


EVALUATED_ON = ("predict_file", "metric", "language")  # what scores in results.json depend on besides the model

METRICS = (
    Metric("loss", "loss {:.4f}", "loss {loss:#.4g}", panel="loss"),
    Metric("start_accuracy", "start {:.1%}", "start {start_accuracy:.1%} end {end_accuracy:.1%}",
           panel="start accuracy"),
    Metric("end_accuracy", "end {:.1%}", panel="end accuracy"),
    Metric("answerability_accuracy", "answerability {:.1%}", "answerable {answerability_accuracy:.1%}",
           panel="answerability accuracy"),
    Metric("exact_match", "EM {:.2f}", "EM {exact_match:.2f}"),
    Metric("exact", "EM {:.2f}", "EM {exact:.2f}"),
    Metric("f1", "F1 {:.2f}", "F1 {f1:.2f}", panel="F1"),
    Metric("null_score_diff_threshold", "at the fixed threshold {:g}", "at threshold {null_score_diff_threshold:g}"),
    Metric("best_exact", "EM {:.2f}", "EM {best_exact:.2f}"),
    Metric("best_f1", "F1 {:.2f}", "F1 {best_f1:.2f}"),
    Metric("best_f1_thresh", "at the best threshold {:.3f}", "at the best, {best_f1_thresh:.3f}"),
    Metric("learning_rate", "rate {:.2e}", "lr {learning_rate:.2e}", panel="learning rate", is_mean=False),
    Metric("gradient_norm", "gradient norm {:.2f}", panel="gradient norm"))


def accuracies(sums: Dict[str, float], answerability: bool) -> Dict[str, float]:
    """Shares of correct examples, 0 to 1, from the sums of `QuestionAnswering.loss`."""
    names = ("start", "end", "answerability") if answerability else ("start", "end")
    return {f"{name}_accuracy": sums[f"{name}_correct"] / sums["examples"] for name in names}


# --- The task ---


class Squad(fine_tuning.Task):
    """SQuAD 1.1 or 2.0, see `fine_tuning.Task`."""

    name = log_name = "squad"
    title = "ELECTRA on SQuAD"
    unit = "question"
    doing = "answering"
    splits = {"train": "train_file", "dev": "predict_file"}
    resumable = ("version_2_with_negative", "joint_head", "answerability_from_gold", "doc_stride", "max_query_length")
    evaluated_on = EVALUATED_ON
    metrics = METRICS
    way_out = weights.SQUAD_WAY_OUT

    def best(self, config: SquadConfig) -> Best:
        return Best("f1", "F1", "{:.2f}")

    def describe(self, config: SquadConfig) -> str:
        return f"ELECTRA on SQuAD {'2.0' if config.version_2_with_negative else '1.1'}"

    def preflight(self, config: SquadConfig):
        preflight.check_squad(config)

    def data_file(self, config: SquadConfig, split: str) -> str:
        return config.data_file(split)

    def trained(self, config: SquadConfig, source: weights.Source, tokenizer: ElectraTokenizer, compute_dtype
                ) -> Predictor:
        model = weights.question_answering(source, tokenizer, config.beam_size, compute_dtype)
        if model.joint_head and model.version_2 != config.version_2_with_negative:
            raise UserError(f"{source.name} was trained for SQuAD {'2.0' if model.version_2 else '1.1'}: "
                            f"{'add' if model.version_2 else 'omit'} --version_2_with_negative.")
        local = os.path.exists(source.name) or find_checkpoint(source.name)  # else it lies in the cache of the Hub
        return Predictor(model, model.answers, source.temperature, source.path if local else None)

    def log_fitted(self, config: SquadConfig):
        logging.info("windows of %d tokens, one every %d (doc_stride); questions of up to %d.", config.max_seq_length,
                     config.doc_stride, config.max_query_length)

    def read_splits(self, config: SquadConfig, tokenizer: ElectraTokenizer) -> Tuple[Optional[Split], Optional[Split]]:
        return (read_split(config, "train", tokenizer) if config.do_train else None,
                read_split(config, "dev", tokenizer) if config.predicts else None)

    def check_data(self, config: SquadConfig, tokenizer: Optional[ElectraTokenizer]):
        for split in config.splits:
            examples = read_examples(config, split)
            if tokenizer:
                squad_utils.tokenize_questions(examples, tokenizer, **lengths(config))

    def about(self, config: SquadConfig, model: str) -> dict:
        return {"version_2": config.version_2_with_negative, "model": model,
                **(squad_results.evaluated_on(config) if config.do_predict or config.do_eval else {})}

    def new_model(self, config: SquadConfig, source: weights.Source, tokenizer: ElectraTokenizer, compute_dtype,
                  seed: int) -> modeling.QuestionAnswering:
        encoder = dataclasses.replace(source.config, vocab_size=tokenizer.vocab_size)
        return modeling.QuestionAnswering(encoder, config.joint_head, config.version_2_with_negative,
                                          config.beam_size or modeling.BEAM_SIZE, config.answerability_from_gold,
                                          compute_dtype, seed)

    def predictor(self, model: modeling.QuestionAnswering) -> Predictor:
        return Predictor(model, model.answers)

    def feed(self, *batch, **options) -> Dict[str, tf.Tensor]:
        return squad_utils.feed(*batch, **options)

    def flops(self, config: SquadConfig, encoder, length: int, training: bool = True) -> float:
        return flops.of_squad(config, encoder, length, training)

    def ratios(self, config: SquadConfig, sums: Dict[str, float]) -> Dict[str, float]:
        return accuracies(sums, config.joint_head and config.version_2_with_negative)

    def predict(self, *inputs) -> Tuple[Optional[dict], Optional[Dict[str, float]]]:
        return predict(*inputs)

    def note_best(self, prefix: str, found: dict):
        keep_temperature(prefix, found)

    def new_run(self, config: SquadConfig):
        with contextlib.suppress(FileNotFoundError):  # the temperatures of checkpoints that are replaced
            os.remove(os.path.join(config.output_dir, weights.CALIBRATION))

    def answer(self, config: SquadConfig, answers: Predictor, dev: Split, tokenizer: ElectraTokenizer,
               workers: Workers, stop: training.StopRequest) -> dict:
        newest = newest_prefix(config, answers)
        if newest:  # of a finished run, which may have been evaluated before
            answers.temperature = weights.read_temperature(newest)
        timing, scores = predict(config, answers, dev, workers, stop, write=True)
        if timing is None:
            raise fine_tuning.stopped(self, stop)
        if not workers.is_chief:
            return {}
        if config.do_eval:
            run_log.log_metrics("", scores, METRICS)
            if config.eval_script:
                run_eval_script(config, dev, scores)
        fine_tuning.log_timing(timing)
        return {**timing, **(scores if config.do_eval else {})}

    def finish(self, config: SquadConfig, results: dict):
        if config.do_predict and "f1" not in results:
            analysis.remove(config.output_dir)  # of other answers

    def reached(self, config: SquadConfig, results: dict) -> str:
        return run_log.format_metrics(results, METRICS[4:-2], short=True) if "f1" in results else ""


SQUAD = Squad()


# --- The command ---


def run(config: SquadConfig, stop: training.StopRequest):
    """See `fine_tuning.run`."""
    fine_tuning.run(SQUAD, config, stop)


def main(argv):
    config = command_line.parse(SquadConfig, argv, __doc__)
    if config.ensemble:
        ensemble.before_tensorflow(config)
        return
    if config.check_only:
        fine_tuning.check_only(SQUAD, config)
        return
    with training.StopRequest() as stop, catch_lost_workers():
        run(config, stop)


if __name__ == "__main__":
    command_line.run_command(main)
