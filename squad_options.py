"""Options of fine-tuning on SQuAD, of answering questions, of the error analysis and of exports.

See configuration.py for what a field means. Only the standard library is imported: scripts/recipe.py reads the options
before any environment exists.
"""
from __future__ import annotations

import dataclasses
import math
import os
import re
import typing

import files
from configuration import (
    UserError,
    check_options,
    like,
    option,
    require_options,
    user_cache,
)
from fine_tuning_options import FineTuningOptions

# Peak learning rates of fine-tuning by global batch, those of NVIDIA's ELECTRA recipe for SQuAD.
FINE_TUNING_RATES = ((16, 1e-4), (32, 2e-4), (128, 4e-4))


def fine_tuning_rate(global_batch: int) -> float:
    """The learning rate for a global batch: FINE_TUNING_RATES, between two of them along a straight line in log-log
    coordinates (square-root scaling above 32), and constant outside. Rounded to three digits, as it is logged."""
    batches, rates = zip(*FINE_TUNING_RATES)
    if global_batch <= batches[0]:
        return rates[0]
    for (low, rate), (high, next_rate) in zip(FINE_TUNING_RATES, FINE_TUNING_RATES[1:]):
        if global_batch <= high:
            share = math.log(global_batch / low) / math.log(high / low)
            return float(f"{rate * (next_rate / rate) ** share:.2e}")
    return rates[-1]


def window_lengths(max_seq_length: int, doc_stride: typing.Optional[int] = None,
                   max_query_length: typing.Optional[int] = None) -> typing.Tuple[int, int]:
    """doc_stride and max_query_length for windows of `max_seq_length` tokens; where not given, 128 and 64, or what fits
    a shorter window.

    Raises: UserError: a stride that skips tokens even if the question is empty.
    """
    query_length = max_query_length or min(64, max_seq_length // 4)
    room = max_seq_length - 3  # [CLS] and two [SEP]
    if doc_stride and doc_stride > room:
        raise UserError(f"--doc_stride={doc_stride} skips tokens: a window of --max_seq_length={max_seq_length} holds "
                        f"at most {room} tokens of context: lower --doc_stride, or omit it.")
    return doc_stride or min(128, max_seq_length // 2 - 1, max(room - query_length, max_seq_length // 4)), query_length


@dataclasses.dataclass(frozen=True)
class SquadConfig(FineTuningOptions):
    """A fine-tuning, evaluation or prediction on SQuAD. Lengths are in tokens; a step is one optimizer update.

    The global batch of an update is train_batch_size x gradient_accumulation_steps x workers.
    """

    init_checkpoint: typing.Optional[str] = option(
        None, "weights to start from in place of --electra_model: a checkpoint of this project (a prefix, or its "
        "folder), a model folder, a TF1 checkpoint, or a model on the Hugging Face hub; evaluation and prediction need "
        "one with a question-answering head (their default: the newest checkpoint in --output_dir)")
    # Model
    joint_head: bool = option(
        True, "joint head (the end depends on the start, plus answerability); false: independent start and end")
    beam_size: typing.Optional[int] = option(
        None, "joint head: beam size of the answer search, for starts and for the ends of each (default: 5 in "
        "training, else that of the trained model)", minimum=1)
    answerability_from_gold: bool = option(
        False, "joint head, 2.0: train answerability on the gold start, as NVIDIA's recipe does")
    # Data
    data_dir: typing.Optional[str] = option(None, "folder of the SQuAD files")
    train_file: typing.Optional[str] = option(None, "default: <data_dir>/train-v1.1.json or train-v2.0.json")
    predict_file: typing.Optional[str] = option(None, "default: <data_dir>/dev-v1.1.json or dev-v2.0.json")
    version_2_with_negative: bool = option(False, "SQuAD 2.0: some questions have no answer")
    strict_answers: bool = option(
        False, "refuse training data in which an answer is not at its answer_start (default: the answer is found by "
        "its text where that occurs once, else the question is skipped, with a warning)")
    max_seq_length: int = option(384, "maximum length of question and context window together, in tokens", minimum=8)
    doc_stride: typing.Optional[int] = option(
        None, "stride between the windows of a long context, in tokens (default: 128, or what fits a max_seq_length "
        "below 258)", minimum=1)
    max_query_length: typing.Optional[int] = option(
        None, "maximum length of a question, in tokens; longer ones are truncated (default: 64, or a quarter of a "
        "max_seq_length below 256)", minimum=1)
    cache_dir: typing.Optional[str] = option(
        None, "folder of the feature cache (default: electra/features in $XDG_CACHE_HOME, or in "
        "~/.cache)")
    skip_cache: bool = option(False, "neither read nor write the feature cache")
    # Answers
    n_best_size: int = option(20, "number of answers kept per question", minimum=1)
    max_answer_length: int = option(30, "maximum length of an answer, in tokens", minimum=1)
    null_score_diff_threshold: float = option(
        0.0, "2.0: null-odds threshold above which a question is left unanswered (the -5.6 of NVIDIA's recipe belongs "
        "to --answerability_from_gold)")
    metric: str = option(
        "squad", "how answers are scored: squad, mlqa (all languages of MLQA, see --language) or cmrc (CMRC 2018, "
        "Chinese)", choices=("squad", "mlqa", "cmrc"))
    language: typing.Optional[str] = option(
        None, "language of the answers, for --metric=mlqa", choices=("ar", "de", "en", "es", "hi", "vi", "zh"))
    ensemble: typing.Optional[str] = option(
        None, "answer as an ensemble, with --do_predict or --do_eval: two or more output folders of evaluations on the "
        "same questions, separated by commas; no model is loaded")
    eval_script: typing.Optional[str] = option(
        None, "official evaluation script to run on the predictions and compare with")
    # Output
    json_summary: typing.Optional[str] = option(
        None, "file for the metrics, one JSON line per logged step (default: <output_dir>/logs/squad.jsonl)")

    def __post_init__(self):
        self.check()
        wanted = {"train_file": self.do_train, "predict_file": self.predicts}
        for name, needed in wanted.items():
            if needed and not (getattr(self, name) or self.data_dir):
                raise UserError(f"--{name} is missing: name it, or the folder of the SQuAD files as --data_dir.")
        if (self.beam_size or 1) > self.buckets[0]:
            raise UserError(f"--beam_size={self.beam_size} exceeds the shortest batch length, {self.buckets[0]}: "
                            "choose a smaller beam or longer --length_buckets.")
        if self.ensemble and self.do_train:
            raise UserError("--ensemble and --do_train are both given: omit one of them.")
        if (self.metric == "mlqa") != (self.language is not None):
            raise UserError(f"--metric={self.metric} and --language={self.language} do not fit: --metric=mlqa needs "
                            "the language of the answers, and the other metrics have none.")
        window_lengths(self.max_seq_length, self.doc_stride, self.max_query_length)

    FITTED = ("learning_rate", "doc_stride", "max_query_length")

    def fitted(self, world_size: int, encoder=None) -> SquadConfig:
        stride, query_length = window_lengths(self.max_seq_length, self.doc_stride, self.max_query_length)
        rate = self.learning_rate
        if rate is None:
            rate = fine_tuning_rate(self.global_batch(world_size))
        return dataclasses.replace(self, learning_rate=rate, doc_stride=stride, max_query_length=query_length)

    def rate_follows(self, world_size: int) -> str:
        return f"for a global batch of {self.global_batch(world_size)} examples"

    @property
    def shortest_batch(self) -> int:
        return self.beam_size or 1

    @property
    def splits(self) -> typing.List[str]:
        """The SQuAD files that are read: of `train` and `dev`."""
        return ["train"] * self.do_train + ["dev"] * self.predicts

    def data_file(self, split: str) -> str:
        """The file of `train` or `dev`."""
        named = self.train_file if split == "train" else self.predict_file
        return named or os.path.join(self.data_dir, f"{split}-v{'2.0' if self.version_2_with_negative else '1.1'}.json")

    @property
    def features_dir(self) -> str:
        """Folder of the feature cache."""
        return self.cache_dir or os.path.join(user_cache(), "features")

    @property
    def folders(self) -> typing.List[str]:
        return [*super().folders, self.features_dir]


@dataclasses.dataclass(frozen=True)
class PredictorConfig:
    """A fine-tuned model to predict with. Lengths are in tokens."""

    init_checkpoint: typing.Optional[str] = option(
        None, "fine-tuned model: the output folder of run_tf_squad.py or run_tf_tasks.py, one of its checkpoints, an "
        "exported folder, or the name of an ELECTRA model for question answering, sequence classification or token "
        "classification on the Hugging Face Hub (name or name@revision)")
    vocab_file: typing.Optional[str] = option(None, "vocabulary file (default: the one of the model)")
    max_seq_length: typing.Optional[int] = option(
        None, "length of a window including the question, in tokens; a classifier truncates longer texts (default: "
        "384, or the model's max_position_embeddings if that is smaller)", minimum=8)
    doc_stride: typing.Optional[int] = option(
        None, "stride between overlapping windows, in tokens (default: 128, or just under half of a window shorter "
        "than 258 tokens; for a tagger, three quarters of a window)", minimum=1)
    device: str = option("cpu", "device to run on", choices=("cpu", "gpu", "hpu"))
    precision: str = option("fp32", "numerical precision: fp32, bf16 (hmp is its old name), or tf32 (gpu only)",
                            choices=("fp32", "bf16", "hmp", "tf32"))

    def __post_init__(self):
        check_options(self)
        if not self.init_checkpoint:
            raise UserError("--init_checkpoint is required: set it to a model fine-tuned with run_tf_squad.py or "
                            "run_tf_tasks.py.")


@dataclasses.dataclass(frozen=True)
class ReaderConfig(PredictorConfig):
    """A model that answers questions."""

    n_best_size: int = option(3, "number of answers to a question", minimum=1)
    max_answer_length: int = option(30, "maximum length of an answer, in tokens", minimum=1)
    version_2_with_negative: bool = option(
        False, "the model was fine-tuned on unanswerable questions too (SQuAD 2.0); only needed for models from other "
        "projects")
    null_score_diff_threshold: float = option(
        0.0, "SQuAD 2.0: null odds above which a question is predicted to be unanswerable; for the best threshold on "
        "the dev set see best_f1_thresh in the results.json of the fine-tuning run")


@dataclasses.dataclass(frozen=True)
class InferenceConfig(ReaderConfig):
    """Questions about a text, a text to classify or tag, a file of these, or a page to try the model on."""

    question: typing.Optional[str] = option(
        None, "question (default: read questions from standard input, one per line)")
    context: typing.Optional[str] = option(None, "text that contains the answer, or that is classified or tagged")
    context_file: typing.Optional[str] = option(None, "UTF-8 file with the text")
    pair: typing.Optional[str] = option(None, "second text, for a classifier of pairs")
    input_file: typing.Optional[str] = option(
        None, "file of questions and texts: JSON lines with `question`, `context` (default: --context or "
        "--context_file) and optionally `id`, or a file in SQuAD's format (.json); for a classifier or tagger, a .tsv, "
        ".csv or .jsonl file with `text`, and optionally `text_pair` and `id`")
    output_file: typing.Optional[str] = option(
        None, "file for the predictions for --input_file, in JSON lines; an interrupted call continues when it is "
        "repeated")
    overwrite: bool = option(False, "replace --output_file")
    serve: bool = option(
        False, "serve a page to try the model on, until Ctrl-C; --context or --context_file is the text that it shows")
    host: str = option(
        "127.0.0.1", "address to serve at; 0.0.0.0 lets other machines use the model, without a password")
    port: int = option(8000, "port to serve at; 0 for any free one", minimum=0, maximum=65535)
    disable_progress_bar: bool = option(False, "hide the progress bar")

    def __post_init__(self):
        super().__post_init__()
        if self.question is not None and not self.question.strip():
            raise UserError(f"--question={self.question!r} is empty: pass a question, or omit the option to read "
                            "questions from standard input.")
        if self.context and self.context_file:
            raise UserError("--context and --context_file are both given: pass one of them.")
        if bool(self.input_file) != bool(self.output_file):
            raise UserError("--input_file and --output_file belong together: pass both.")
        given = [name for name in ("question", "pair", "input_file") if getattr(self, name)]
        if self.input_file and len(given) > 1:
            raise UserError(f"--{given[0]} and --input_file are both given: pass one of them.")
        if self.serve and given:
            raise UserError(f"--serve and --{given[0]} are both given: pass one of them.")
        if self.question and self.pair:
            raise UserError("--question and --pair are both given: --pair is for a classifier of pairs of texts.")
        if not (self.serve or self.input_file or self.has_context):
            raise UserError("exactly one of --context and --context_file is required: pass the text or a file with it.")

    def read_context(self) -> str:
        """The text. Raises: UserError: it cannot be read, or is empty."""
        text = self.context or self._read_file()
        if not text.strip():
            raise UserError("the context is empty: pass a text with --context or --context_file.")
        return text

    @property
    def has_context(self) -> bool:
        return bool(self.context or self.context_file)

    def _read_file(self) -> str:
        try:
            with files.open_regular(self.context_file, encoding="utf-8-sig") as file:
                return file.read()
        except OSError as error:
            raise UserError(f"--context_file={self.context_file} cannot be read ({error.strerror}): correct the "
                            "path.") from error
        except UnicodeDecodeError as error:
            raise UserError(f"--context_file={self.context_file} is not UTF-8 (byte {error.start}): convert "
                            "it.") from error


@dataclasses.dataclass(frozen=True)
class AnalysisConfig:
    """An error analysis of one evaluation, or a comparison of two."""

    runs: typing.Optional[str] = option(
        None, "output folder of run_tf_squad.py or run_tf_tasks.py, or two separated by a comma, which are compared")
    predict_file: typing.Optional[str] = option(
        None, "file of the questions (default: the one in results.json of the run)")
    version_2_with_negative: bool = like(SquadConfig, "version_2_with_negative")
    null_score_diff_threshold: typing.Optional[float] = option(
        None, "2.0: null-odds threshold above which a question is left unanswered (default: that of the run)")
    metric: typing.Optional[str] = option(
        None, "metric: squad, mlqa or cmrc (default: that of the run)", choices=("squad", "mlqa", "cmrc"))
    language: typing.Optional[str] = like(SquadConfig, "language")

    def __post_init__(self):
        check_options(self)
        require_options(self, "runs")
        if not 1 <= len(self.folders) <= 2:
            raise UserError(f"--runs={self.runs} must name one folder, or two separated by a comma.")

    @property
    def folders(self) -> typing.List[str]:
        return [folder.strip() for folder in self.runs.split(",") if folder.strip()]


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """An export of a checkpoint to Hugging Face's formats, and to those of other runtimes."""

    pretrained_checkpoint: typing.Optional[str] = option(
        None, "checkpoint to export: a prefix such as .../checkpoints/ckpt-1000, or a folder of checkpoints (its "
        "newest)")
    output_dir: typing.Optional[str] = option(None, "folder to create")
    savedmodel: bool = option(False, "also write a TensorFlow SavedModel with a serving signature")
    onnx: bool = option(
        False, "also write model.onnx, for onnxruntime and others (not for the joint head); needs the packages of "
        "requirements-export.txt")
    tflite: bool = option(False, "also write model.tflite, for TensorFlow Lite (not for the joint head)")
    int8: bool = option(
        False, "with --onnx or --tflite: also write model_int8.onnx or model_int8.tflite, with weights quantized to "
        "int8 (dynamic quantization)")
    vocab_file: typing.Optional[str] = option(None, "vocabulary (default: the one in the run's folder)")
    overwrite: bool = option(
        False, "replace the export of an earlier call in output_dir; a README.md that was edited is kept")
    license: typing.Optional[str] = option(
        None, "licence for the model card, as the Hugging Face Hub names it, such as apache-2.0 (default: unknown, to "
        "be filled in)")
    language: typing.Optional[str] = option(
        None, "language of the text for the model card, as ISO 639, such as en (default: to be filled in)")
    push_to_hub: typing.Optional[str] = option(
        None, "upload the export to the Hugging Face Hub too, as owner/name: a fine-tuned model to the repository of "
        "this name, a pre-trained one to owner/name-discriminator and owner/name-generator; needs HF_TOKEN or a login")
    public: bool = option(False, "with --push_to_hub: repositories that are created are public (default: private)")

    def __post_init__(self):
        check_options(self)
        require_options(self, "pretrained_checkpoint", "output_dir")
        if self.int8 and not (self.onnx or self.tflite):
            raise UserError("--int8 quantizes a model for another runtime: add --onnx, --tflite or both.")
        if self.public and not self.push_to_hub:
            raise UserError("--public needs --push_to_hub: give both, or omit --public.")
        for name, pattern in (("license", "[a-z0-9][a-z0-9.+-]*"), ("language", "[a-z]{2,3}(-[A-Za-z0-9]+)*")):
            value = getattr(self, name)
            if value and not re.fullmatch(pattern, value):
                known = {"license": "an identifier of the Hub, such as apache-2.0", "language": "a code such as en"}
                raise UserError(f"--{name}={value} must be {known[name]}.")
