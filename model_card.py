"""The model card of an exported folder: README.md with the metadata that the Hugging Face Hub reads.

Everything in it comes from the checkpoint and the logs of its run. What the run cannot know (language of the text,
licence, intended use) is asked for in the text, in paragraphs that begin with "To fill in". The last line holds a
checksum: a card that was edited has another one, and is kept by later exports and uploads.
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import configuration
import files
import run_log
from configuration import UserError

FILE = "README.md"
SEAL = "<!-- written by postprocess_pretrained_ckpt.py, checksum {}; a card that was edited is kept -->"
TAGS = {"discriminator": ["electra", "pretraining", "replaced-token-detection"],
        "generator": ["electra", "pretraining", "masked-language-modeling"],
        "question_answering": ["electra", "question-answering", "extractive-qa"],
        "sequence_classification": ["electra", "text-classification"],
        "token_classification": ["electra", "token-classification", "sequence-tagging"]}
PIPELINES = {"discriminator": "feature-extraction", "generator": "fill-mask",
             "question_answering": "question-answering", "sequence_classification": "text-classification",
             "token_classification": "token-classification"}
TASKS = {"discriminator": "Replaced-token detection", "generator": "Masked language modeling",
         "question_answering": "Question answering", "sequence_classification": "Text classification",
         "token_classification": "Token classification"}
# By kind: the metrics of an evaluation that a card has, with their names.
SCORES = {
    "discriminator": {"discriminator_loss": "loss", "discriminator_accuracy": "accuracy",
                      "discriminator_precision": "precision", "discriminator_recall": "recall",
                      "discriminator_auc": "area under the ROC curve"},
    "generator": {"generator_loss": "loss", "generator_perplexity": "perplexity", "generator_accuracy": "accuracy"},
    "question_answering": {"exact_match": "exact match", "exact": "exact match", "f1": "F1", "HasAns_f1":
                           "F1 of answerable questions", "NoAns_f1": "F1 of unanswerable questions"},
    "sequence_classification": {"accuracy": "accuracy", "f1": "F1", "macro_f1": "macro F1", "micro_f1": "micro F1",
                                "matthews": "Matthews correlation", "pearson": "Pearson correlation",
                                "spearman": "Spearman correlation", "mean_squared_error": "mean squared error"},
    "token_classification": {"f1": "F1", "precision": "precision", "recall": "recall", "accuracy": "accuracy",
                             "macro_f1": "macro F1"}}
FINE_TUNING_SCORES = list(dict.fromkeys(name for kind in SCORES if kind not in ("discriminator", "generator")
                                        for name in SCORES[kind]))
# The options of a run that a card has.
SETTINGS = ("model_size", "task", "objective", "generator", "generator_hidden_size", "share_embeddings", "mask_prob",
            "max_seq_length", "doc_stride", "joint_head", "class_weights", "num_train_steps", "num_train_epochs",
            "num_warmup_steps", "warmup_proportion", "train_batch_size", "gradient_accumulation_steps", "optimizer",
            "learning_rate", "lr_decay_power", "layerwise_lr_decay", "weight_decay_rate", "disc_weight", "precision",
            "seed")


class Facts(NamedTuple):
    """What a card says, beside what follows from the kind of network."""

    kind: str  # see weights.ARCHITECTURES
    name: str  # of the run
    state: dict  # of the checkpoint
    parameters: int
    vocabulary: str  # in words
    scores: Dict[str, float]  # by the names of SCORES; empty: the checkpoint was not evaluated
    scored_on: str  # held-out shards or file of questions or examples; empty: a held-out part
    loads_in_transformers: bool = True
    language: Optional[str] = None
    license: Optional[str] = None
    repository: Optional[str] = None  # on the Hub


# --- From a run ---


def scores_of(run_folder: str, state: dict) -> Tuple[Dict[str, float], str]:
    """The metrics of an evaluation of a checkpoint, and what it was evaluated on; empty where there was none."""
    config, step, task = state.get("config", {}), state.get("step"), state.get("task")
    logs = config.get("log_dir") or os.path.join(run_folder, "logs")
    own = os.path.join(logs, {None: f"pretraining_phase{state.get('phase')}", "squad": "squad"}.get(task, "tasks")
                       + ".jsonl")
    log = next((path for path in (own, config.get("json_summary")) if path and os.path.exists(path)), own)
    entries = [entry for entry in run_log.read_metrics_log(log) if entry["kind"] == "eval" and entry["step"] == step]
    if entries:
        return entries[-1], scored_on(config, task)
    with contextlib.suppress(UserError):  # without a readable results.json there are no scores
        content = configuration.read_json_object(os.path.join(run_folder, "results.json"))
        if task and content.get("train_steps") == step and any(name in content for name in FINE_TUNING_SCORES):
            return content, content.get("predict_file") or scored_on({**config, **content}, task)
    return {}, ""


def scored_on(config: dict, task: Optional[str]) -> str:
    """The data of the evaluations in training; empty: a held-out part of the training data."""
    if not task:
        return config.get("eval_tfrecords")
    if task == "squad":
        return config.get("predict_file") or dev_file(config)
    path = config.get("dev_file") or ""
    if not path and config.get("data_dir"):
        path = os.path.join("GLUE", config.get("task", ""))
    return "" if path == config.get("train_file") else path


def dev_file(config: dict) -> str:
    version = "2.0" if config.get("version_2_with_negative") else "1.1"
    return os.path.join(config["data_dir"], f"dev-v{version}.json") if config.get("data_dir") else ""


# --- The text ---


def metadata(facts: Facts):
    """The front matter of a card, as huggingface_hub's ModelCardData."""
    from huggingface_hub import EvalResult, ModelCardData
    kind = facts.kind
    dataset = dataset_of(facts.scored_on) or "held-out data"
    results = [EvalResult(task_type=PIPELINES[kind], task_name=TASKS[kind], dataset_type=slug(dataset),
                          dataset_name=dataset, metric_type=slug(label), metric_name=label, metric_value=value)
               for label, value in scores(facts)]
    return ModelCardData(
        language=facts.language, license=facts.license or "unknown", pipeline_tag=PIPELINES[kind],
        library_name="transformers" if facts.loads_in_transformers else "tensorflow", tags=TAGS[kind],
        **({"model_name": title(facts), "eval_results": results} if results else {}))


def scores(facts: Facts) -> List[Tuple[str, float]]:
    """Those metrics of a card that there are, with their names."""
    there = [(label, facts.scores[name]) for name, label in SCORES[facts.kind].items() if name in facts.scores]
    return [(label, round(float(value), 4)) for label, value in there]


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "unknown"


def dataset_of(path: str) -> str:
    """The last two parts of a path, which say what it is and not on whose machine."""
    return ", ".join("/".join(part.rstrip("/").split("/")[-2:]) for part in path.split(",") if part)


def title(facts: Facts) -> str:
    return (facts.repository or "").rpartition("/")[2] or f"{facts.name} {facts.kind.replace('_', ' ')}"


def text(facts: Facts) -> str:
    """A card, with its checksum."""
    parts = [f"---\n{metadata(facts).to_yaml()}\n---", f"# {title(facts)}", summary(facts), *to_fill_in(facts),
             "## How to load it", *how_to_load(facts), "## Training data", training_data(facts),
             "## Training", table(("setting", "value"), settings(facts)), *evaluation(facts)]
    body = "\n\n".join(parts) + "\n"
    return f"{body}\n{SEAL.format(checksum(body))}\n"


def checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def is_edited(card: str) -> bool:
    """Whether a card differs from what `text` once returned."""
    body, _, seal = card.replace("\r\n", "\n").rstrip("\n").rpartition("\n\n<!--")
    return "<!--" + seal != SEAL.format(checksum(body + "\n"))


def summary(facts: Facts) -> str:
    state, encoder = facts.state, facts.state.get("encoder", {})
    shape = (f"{encoder.get('num_hidden_layers')} layers of width {encoder.get('hidden_size')}"
             if encoder else "unknown size")
    is_about = {
        "discriminator": "The discriminator of [ELECTRA](https://arxiv.org/abs/2003.10555): an encoder that was "
                         "pre-trained to find the words of a text that a generator had replaced",
        "generator": "The generator of [ELECTRA](https://arxiv.org/abs/2003.10555): a masked language model",
        "question_answering": "[ELECTRA](https://arxiv.org/abs/2003.10555), fine-tuned to find the answer to a "
                              "question in a text",
        "sequence_classification": "[ELECTRA](https://arxiv.org/abs/2003.10555), fine-tuned to classify texts",
        "token_classification": "[ELECTRA](https://arxiv.org/abs/2003.10555), fine-tuned to tag words in texts",
    }[facts.kind]
    if facts.kind == "discriminator" and state.get("config", {}).get("objective") == "mlm":
        is_about = "An encoder that was pre-trained as a masked language model"
    size = f"{shape} (the discriminator's)" if facts.kind == "generator" else shape
    return (f"{is_about}. {facts.parameters / 1e6:.2f} M parameters; {size}; {facts.vocabulary}. It is update "
            f"{state.get('step')} of {updates(state)}, trained with ELECTRA for TensorFlow.")


def updates(state: dict) -> str:
    config = state.get("config", {})
    count = state.get("updates") or config.get("num_train_steps") or "an unknown number"
    return f"{count}" if state.get("task") else f"{count} in phase {state.get('phase')}"


def to_fill_in(facts: Facts) -> List[str]:
    language = "" if facts.language else " Name the language of the text in the metadata above (`language: en`)."
    parts = ["## Intended use", f"**To fill in:** who should use this model for what, and who should not.{language}",
             "## Limitations", "**To fill in:** what it gets wrong, and what its training data lacks or contains that "
             "its users must know.", "## Licence"]
    return [*parts, f"`{facts.license}`." if facts.license else
            "**To fill in:** the licence under which the model may be used (`license:` in the metadata above), which "
            "that of the training data may restrict."]


def how_to_load(facts: Facts) -> List[str]:
    name = facts.repository or "path/to/this/folder"
    ours = {"discriminator": f"bash scripts/electra_squad.sh cpu --init_checkpoint={name}",
            "generator": f"bash scripts/electra.sh cpu --init_checkpoint=DISCRIMINATOR,{name}"
            }.get(facts.kind, f"python run_inference.py --init_checkpoint={name} --serve")
    purpose = {"discriminator": "To fine-tune it on SQuAD", "generator": "To continue pre-training",
               "question_answering": "To ask questions on a page"}.get(facts.kind, "To try it on a page")
    theirs = {
        "discriminator": f'''from transformers import AutoTokenizer, ElectraForPreTraining

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = ElectraForPreTraining.from_pretrained("{name}")
logits = model(**tokenizer("A sentence.", return_tensors="pt")).logits
replaced = logits.sigmoid()  # for each token, the probability that it was replaced''',
        "generator": f'''from transformers import pipeline

fill = pipeline("fill-mask", model="{name}")
print(fill(f"The first word of a {{fill.tokenizer.mask_token}}."))''',
        "question_answering": f'''from transformers import pipeline

answer = pipeline("question-answering", model="{name}")
print(answer(question="Who built it?", context="Mara built it."))''',
        "sequence_classification": f'''from transformers import pipeline

classify = pipeline("text-classification", model="{name}")
print(classify("A sentence."))''',
        "token_classification": f'''from transformers import pipeline

tag = pipeline("token-classification", model="{name}", aggregation_strategy="first")
print(tag("A sentence."))'''}[facts.kind]
    parts = [f"With `transformers`:\n\n```python\n{theirs}\n```"] if facts.loads_in_transformers else [
        "Its joint head has no class in `transformers`: it is for ELECTRA for TensorFlow, and for TensorFlow Serving "
        "where it was exported with `--savedmodel`."]
    return [*parts, f"{purpose} with ELECTRA for TensorFlow:\n\n```bash\n{ours}\n```"]


def training_data(facts: Facts) -> str:
    config = facts.state.get("config", {})
    if facts.kind == "question_answering":
        path, what = config.get("train_file") or dev_file(config).replace("dev-v", "train-v"), "Questions"
    elif facts.kind.endswith("_classification"):
        path, what = config.get("train_file") or config.get("data_dir") or "", "Examples"
    else:
        path, what = config.get("pretrain_tfrecords") or "", "Records"
    where = f"{what} of `{dataset_of(path)}`." if path else "Unknown."
    return f"{where} **To fill in:** where the text comes from."


def settings(facts: Facts) -> List[Tuple[str, str]]:
    config = facts.state.get("config", {})
    rows = [(f"`{name}`", str(config[name])) for name in SETTINGS if config.get(name) is not None]
    batch = config.get("train_batch_size", 0) * config.get("gradient_accumulation_steps", 1)
    workers = facts.state.get("world_size", 1)
    environment = facts.state.get("environment", {})
    device = facts.state.get("device") or "unknown"
    return [*rows, ("global batch", f"{batch * workers} ({workers} worker{'s' if workers != 1 else ''})"),
            ("device", device), ("TensorFlow", str(environment.get("tensorflow", "unknown")))]


def evaluation(facts: Facts) -> Sequence[str]:
    found = scores(facts)
    if not found:
        return "## Evaluation", "This checkpoint was not evaluated."
    dataset = dataset_of(facts.scored_on)
    return ("## Evaluation", f"On {f'`{dataset}`' if dataset else 'held-out data'}, which was not trained on:",
            table(("metric", "value"), [(label, f"{value:g}") for label, value in found]))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *escaped))


# --- Files ---


def edited(folder: str) -> Optional[str]:
    """The card in a folder if somebody edited or wrote it, else None. Raises: UserError: it cannot be read."""
    path = os.path.join(folder, FILE)
    try:
        with files.open_regular(path, encoding="utf-8") as file:
            card = file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({configuration.in_short(error)}): fix it or move it away.") from error
    return card if is_edited(card) else None


def write(folder: str, card: str):
    """Raises: OSError."""
    files.write_text(os.path.join(folder, FILE), card)
