"""Released weights in, our weights out.

In (`read`): Hugging Face folders or hub names (model.safetensors, tf_model.h5, or with torch pytorch_model.bin) of
ELECTRA and, as an encoder, BERT; TF1 checkpoints of google-research/electra and bert; tf_model.h5 of NVIDIA's and
Habana's recipes; this project's checkpoints and exported folders. Everything becomes arrays under the names of this
project's variables, which are those of the released TF1 checkpoints; `MODULES` is the one table between them and
Hugging Face's. A generator's folder has its encoder under `generator/` and its embeddings under
`generator/embeddings/`, whether shared or not.

`load` assigns them to a model. Every tensor is accounted for: a missing, unexpected or misshapen encoder tensor is
refused; a head, or the whole generator, may be newly initialised, which is logged. Vocabulary rows are matched by
token. `open_checkpoint` is the one way to open a checkpoint of this project.

Out (`save_folder`): a folder that transformers 4 and 5 load without a missing or unexpected key, and a SavedModel.
"""
from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
import shutil
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf
from absl import logging

import configuration
import electra_config
import files
import fused
import hub
import modeling
from checkpoints import STATE_KEY, damage, find_checkpoint, read_state, readable, restore, unreadable
from configuration import UserError, in_short
from electra_config import ElectraConfig
from pretraining_options import PretrainingConfig
from tokenization import ElectraTokenizer

# --- Names ---

# Our module (under `electra/` for encoders), Hugging Face's, and its kind; {} is the layer number.
MODULES = (
    ("electra/embeddings/word_embeddings", "electra.embeddings.word_embeddings", "table"),
    ("electra/embeddings/position_embeddings", "electra.embeddings.position_embeddings", "table"),
    ("electra/embeddings/token_type_embeddings", "electra.embeddings.token_type_embeddings", "table"),
    ("electra/embeddings/LayerNorm", "electra.embeddings.LayerNorm", "norm"),
    ("electra/embeddings_project", "electra.embeddings_project", "dense"),
    ("electra/encoder/layer_{}/attention/self/query", "electra.encoder.layer.{}.attention.self.query", "dense"),
    ("electra/encoder/layer_{}/attention/self/key", "electra.encoder.layer.{}.attention.self.key", "dense"),
    ("electra/encoder/layer_{}/attention/self/value", "electra.encoder.layer.{}.attention.self.value", "dense"),
    ("electra/encoder/layer_{}/attention/output/dense", "electra.encoder.layer.{}.attention.output.dense", "dense"),
    ("electra/encoder/layer_{}/attention/output/LayerNorm", "electra.encoder.layer.{}.attention.output.LayerNorm",
     "norm"),
    ("electra/encoder/layer_{}/intermediate/dense", "electra.encoder.layer.{}.intermediate.dense", "dense"),
    ("electra/encoder/layer_{}/output/dense", "electra.encoder.layer.{}.output.dense", "dense"),
    ("electra/encoder/layer_{}/output/LayerNorm", "electra.encoder.layer.{}.output.LayerNorm", "norm"),
    ("discriminator_predictions/dense", "discriminator_predictions.dense", "dense"),
    ("discriminator_predictions/dense_1", "discriminator_predictions.dense_prediction", "dense"),
    ("generator_predictions/dense", "generator_predictions.dense", "dense"),
    ("generator_predictions/LayerNorm", "generator_predictions.LayerNorm", "norm"),
    ("generator_predictions", "generator_lm_head", "output bias"),
    ("qa_outputs", "qa_outputs", "dense"),
    ("classifier/dense", "classifier.dense", "dense"),
    ("classifier/out_proj", "classifier.out_proj", "dense"),
    ("classifier", "classifier", "dense"),
    # The joint head has no counterpart in Hugging Face; these are the names in NVIDIA's recipe.
    ("start_logits/start_logit_pooler_dense", "start_logits.start_logit_pooler_dense", "dense"),
    ("end_logits/end_logit_pooler_dense_0", "end_logits.end_logit_pooler_dense_0", "dense"),
    ("end_logits/end_logit_pooler/LayerNorm", "end_logits.end_logit_pooler_LayerNorm", "norm"),
    ("end_logits/end_logit_pooler_dense_1", "end_logits.end_logit_pooler_dense_1", "dense"),
    ("answer_class/pooler_answer_class_dense_0", "answer_class.pooler_answer_class_dense_0", "dense"),
    ("answer_class/pooler_answer_class_dense_1", "answer_class.pooler_answer_class_dense_1", "dense"),
)
# Parameters of a module by kind: our name, PyTorch's, Keras'. A kernel is transposed in PyTorch.
PARAMETERS = {
    "table": (("", ("weight",), ("weight", "embeddings")),),
    "dense": (("kernel", ("weight",), ("kernel",)), ("bias", ("bias",), ("bias",))),
    "norm": (("gamma", ("weight", "gamma"), ("gamma",)), ("beta", ("bias", "beta"), ("beta",))),
    "output bias": (("output_bias", ("bias",), ("bias",)),),
}
ENCODERS = ("electra/", "generator/")  # prefixes of encoder variables; everything else belongs to a head
VOCABULARY_TENSORS = ("embeddings/word_embeddings", "generator_predictions/output_bias")  # suffixes of their names
_NO_WEIGHTS = re.compile(  # buffers, counters and optimizer slots: not part of the network
    r".*embeddings\.position_ids|global_step|.*/adam_[mv](_1)?|beta[12]_power|.*/Adam(_1)?|checkpoint_initialized.*")


class Tensor(NamedTuple):
    """One row of the table, for one layer."""

    name: str  # ours
    torch: Tuple[str, ...]  # Hugging Face's; all are read, the first is written
    keras: Tuple[str, ...]
    transposed: bool


def table(num_layers: int) -> List[Tensor]:
    """Every tensor of an encoder of `num_layers` and of the heads, with all its names."""
    rows = []
    for ours, theirs, kind in MODULES:
        for layer in range(num_layers) if "{}" in ours else (0,):
            ours_i, theirs_i = ours.format(layer), theirs.format(layer)
            keras_i = theirs.replace(".", "/").replace("layer/{}", f"layer_._{layer}")
            for parameter, torch, keras in PARAMETERS[kind]:
                rows.append(Tensor(f"{ours_i}/{parameter}".rstrip("/"), tuple(f"{theirs_i}.{part}" for part in torch),
                                   tuple(f"{keras_i}/{part}" for part in keras), parameter == "kernel"))
    return rows


def as_generator(name: str) -> str:
    """The name of an encoder variable within a generator."""
    return re.sub("^electra/", "generator/", name)


def as_encoder(name: str) -> str:
    """The inverse of `as_generator`."""
    return re.sub("^generator/", "electra/", name)


# --- In ---


class Source(NamedTuple):
    """Weights as they were read."""

    name: str  # as given by the user
    tensors: Dict[str, np.ndarray]  # float32, by our names; without vocabulary padding unless from our checkpoints
    unused: List[str]  # tensors that this project does not use, by their original names
    config: Optional[ElectraConfig]  # of the encoder; TF1 checkpoints may come without one
    tokenizer: Optional[ElectraTokenizer]  # if a vocabulary lies beside the weights
    head: Optional[dict] = None  # settings of this project's head: joint_head, version_2, beam_size; num_labels ...
    state: Optional[dict] = None  # of this project's checkpoints
    path: Optional[str] = None  # the checkpoint prefix or folder that was read
    temperature: float = 1.0  # of the probabilities of answers, see `keep_temperature`


def read(name: str, vocab_file: Optional[str] = None) -> Source:
    """Reads weights in any supported format.

    Args:
        name: a checkpoint prefix (of this project or TF1), a folder (checkpoints, Hugging Face, exported, TF1), or a
            model on the Hugging Face hub, such as google/electra-small-discriminator, which is downloaded once.
        vocab_file: of a checkpoint of this project without a vocabulary in its run's folder.
    Raises: UserError: there are no such weights, or they are damaged or incomplete.
    """
    path = find_weights(name)
    return _read(name, path, vocab_file)._replace(path=path, temperature=read_temperature(path))


def _read(name: str, path: str, vocab_file: Optional[str]) -> Source:
    try:
        if os.path.isdir(path):
            return _read_folder(name, path)
        if not os.path.exists(path + ".index"):
            raise UserError(f"{name} is neither a folder of weights nor the prefix of a checkpoint: name one, or a "
                            "model on the Hugging Face hub.")
        with readable(path) as alias:
            try:
                reader = tf.train.load_checkpoint(alias)
                own = reader.has_tensor(STATE_KEY)
            except damage() as error:
                raise unreadable(path, error) from error
            return _read_own(name, path, vocab_file) if own else _read_tf1(name, path, reader)
    except (tf.errors.OpError, RuntimeError) as error:
        raise unreadable(path, error) from error


def find_weights(name: str) -> str:
    """The folder or checkpoint prefix that `name` stands for: the newest checkpoint of a folder, or a download."""
    checkpoint = find_checkpoint(name)
    if checkpoint:
        return checkpoint
    if not os.path.exists(name):
        hub.check_name(name)
        return hub.download(name)
    if os.path.isdir(name) and not any(os.path.exists(os.path.join(name, file)) for file in hub.WEIGHT_FILES):
        indices = glob.glob(os.path.join(glob.escape(name), "*.ckpt*.index"))  # a released TF1 archive, unpacked
        if len(indices) == 1:
            return indices[0][:-len(".index")]
    return name


def _read_own(name: str, prefix: str, vocab_file: Optional[str]) -> Source:
    in_folder = configuration.find_vocabulary(run_folder(prefix))
    saved = open_checkpoint(prefix, None if in_folder else vocab_file)
    named = ((variable.name.split(":")[0], variable.numpy()) for variable in saved.model().trainable_variables)
    tensors = {ours: as_float32(value, ours, prefix) for ours, value in named}
    return Source(name, tensors, [], saved.encoder, saved.tokenizer, saved.state.get("head"), saved.state)


class SavedRun(NamedTuple):
    """A checkpoint that this project wrote, with the vocabulary and encoder that belong to it."""

    prefix: str
    state: dict
    tokenizer: ElectraTokenizer
    encoder: ElectraConfig

    @property
    def kind(self) -> Optional[str]:
        """What it was fine-tuned for, a key of HEADS; None: pre-training."""
        return TASKS.get(self.state.get("task"))

    @property
    def labels(self) -> Optional[Labels]:
        """Of a classifier or tagger; None for others. Raises: UserError: they are damaged."""
        if self.kind in (None, "question_answering"):
            return None
        return saved_labels(self.state, self.prefix, self.state["head"]["num_labels"])

    def model(self, compute_dtype=tf.float32) -> tf.Module:
        """The saved network, a PretrainingModel or one of HEADS, as its own settings build it.

        Raises: UserError: the checkpoint is damaged, or its variables do not match its settings.
        """
        with modeling.without_initial_values():
            if self.kind:
                model = HEADS[self.kind](self.encoder, compute_dtype=compute_dtype, **self.state["head"])
            else:
                config = PretrainingConfig.from_saved(self.state["config"])
                model = modeling.pretraining_model(self.encoder, config, self.tokenizer, compute_dtype)
        self.restore(model)
        return model

    def restore(self, model: tf.Module, optimizer: Optional[tf.Module] = None):
        """Restores the variables of a model built elsewhere, and of its optimizer where given.

        Raises: UserError: the model's encoder has other settings, or a variable is missing, left over, or of another
            shape.
        """
        free = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range")  # matter in training alone
        for name, ours in model.config.to_dict().items():
            theirs = self.encoder.to_dict()[name]
            if ours != theirs and name not in free:
                raise UserError(f"checkpoint {self.prefix} does not fit this model ({name} is {theirs} there and "
                                f"{ours} here): give one of the same size and settings.")
        restore(self.prefix, model, optimizer)


def run_folder(prefix: str) -> str:
    """The folder of the run that wrote a checkpoint, also of one that was moved aside (`Checkpoints.set_aside`)."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(prefix)))
    if not configuration.find_vocabulary(folder) and os.path.basename(folder) == "checkpoints":
        return os.path.dirname(folder)
    return folder


def open_checkpoint(name: str, vocab_file: Optional[str] = None, tokenizer: Optional[ElectraTokenizer] = None,
                    pretraining: bool = False) -> SavedRun:
    """Opens a checkpoint of this project: the one way to it, for resuming, evaluating, exporting, and fine-tuning.

    Args:
        name: see `find_checkpoint`.
        vocab_file: its vocabulary (default: the one in the run's folder).
        tokenizer: the vocabulary of the data in use, in place of both.
        pretraining: refuse a checkpoint of a fine-tuning.
    Raises: UserError: no such checkpoint, no vocabulary or another one than it was trained on.
    """
    prefix = find_checkpoint(name) or name
    state = read_state(prefix)
    if pretraining and state.get("task") in TASKS:
        what = "SQuAD fine-tuning" if state["task"] == "squad" else "fine-tuning"
        raise UserError(f"checkpoint {prefix} is a {what}, not a pre-training checkpoint: give one from "
                        "results/models/<model_name>/checkpoints.")
    if tokenizer is None:
        folder = run_folder(prefix)
        if not vocab_file and not configuration.find_vocabulary(folder):
            raise UserError(f"{folder} has no vocabulary (vocab.txt or tokenizer.json) beside checkpoints/: keep "
                            "the run's folder together, or give the vocabulary as --vocab_file.")
        tokenizer = ElectraTokenizer.from_folder(folder, vocab_file)
    if tokenizer.fingerprint != state.get("tokenizer_fingerprint"):
        raise UserError(f"checkpoint {prefix} was trained on another vocabulary than {tokenizer.vocab_file}: give the "
                        "data and --vocab_file that belong to it.")
    encoder = ElectraConfig.from_content(state.get("encoder", {}), f"the state in checkpoint {prefix}")
    return SavedRun(prefix, state, tokenizer, encoder)


def _read_tf1(name: str, prefix: str, reader) -> Source:
    tensors, unused = {}, []
    known = re.compile(r"(electra|generator)/(embeddings|encoder|embeddings_project)/|(discriminator|generator)"
                       r"_predictions/")
    for theirs in sorted(reader.get_variable_to_shape_map()):
        ours = re.sub("^bert/", "electra/", theirs)
        if known.match(ours) and not _NO_WEIGHTS.fullmatch(ours):
            try:
                value = reader.get_tensor(theirs)
            except damage() as error:
                raise unreadable(prefix, error) from error
            tensors[ours] = as_float32(value, theirs, prefix)
        elif not _NO_WEIGHTS.fullmatch(ours):
            unused.append(theirs)
    if not tensors:
        raise UserError(f"checkpoint {prefix} does not contain an ELECTRA or BERT encoder: give another.")
    return _beside(name, os.path.dirname(prefix), tensors, unused)


def _read_folder(name: str, folder: str) -> Source:
    parts = [os.path.join(folder, part) for part in ("discriminator", "generator")]
    parts = [part for part in parts if os.path.isdir(part)]
    if parts and not os.path.exists(os.path.join(folder, "config.json")):
        return merge([_read_folder(part, part) for part in parts])._replace(name=name)
    for file, load in (("model.safetensors", _load_safetensors), (hub.SHARDS, _load_sharded),
                       ("tf_model.h5", _load_keras), ("pytorch_model.bin", _load_torch)):
        path = os.path.join(folder, file)
        if os.path.lexists(path):
            try:
                files.open_regular(path, "rb").close()
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error.strerror}): fix that or name another model.") from error
            found = dict(load(path))
            break
    else:
        raise UserError(f"{folder} contains none of {', '.join(hub.WEIGHT_FILES)} and no checkpoint: name a model "
                        "folder.")
    num_layers = 1 + max((int(match[1]) for match in (re.search(r"encoder[./]layer[._/]+(\d{1,9})[./]", theirs)
                                                      for theirs in found) if match), default=-1)
    if num_layers > electra_config.LARGEST["num_hidden_layers"]:
        raise UserError(f"{path} has a layer {num_layers - 1}: name another model.")
    tensors, keras = {}, file.endswith(".h5")
    for row in table(num_layers):
        for theirs in row.keras if keras else row.torch:
            if theirs in found:
                value = as_float32(found.pop(theirs), theirs, path)
                tensors[row.name] = value.T if row.transposed and not keras else value
    if num_layers == 0 or "electra/embeddings/word_embeddings" not in tensors:
        raise UserError(f"{path} does not contain an ELECTRA or BERT encoder: name another model.")
    tied = found.pop("generator_lm_head.weight", None)
    if tied is not None and not np.array_equal(np.asarray(tied), tensors["electra/embeddings/word_embeddings"]):
        raise UserError(f"{path}: generator_lm_head.weight differs from the word embeddings, but ELECTRA's generator "
                        "uses one matrix for both: name another model.")
    if any(ours.startswith("generator_predictions/") for ours in tensors):
        tensors = {as_generator(ours): value for ours, value in tensors.items()}
    unused = sorted(theirs for theirs in found if not _NO_WEIGHTS.fullmatch(theirs))
    unknown = [theirs for theirs in unused if re.match(r"electra[./](encoder|embeddings)[./]", theirs)]
    if unknown:
        raise UserError(f"{path}: {unknown[0]} belongs to an encoder of another kind, which is not implemented: name "
                        "an ELECTRA or BERT model without such tensors.")
    return _beside(name, folder, tensors, unused)


def _beside(name: str, folder: str, tensors, unused) -> Source:
    """Adds the configuration and vocabulary beside the weights. Raises: UserError: they do not belong together."""
    for ours, value in tensors.items():
        rank = 2 if ours.endswith(("kernel", "_embeddings")) else 1
        if value.ndim != rank:
            raise UserError(f"{name}: {ours} has {value.ndim} dimensions, not {rank}: name another model.")
    config_file = os.path.join(folder, "config.json")
    config = head = None
    if os.path.lexists(config_file):
        config, head = read_config(config_file), read_head(config_file)
        check_sizes(config, tensors, config_file)
    tokenizer = ElectraTokenizer.from_folder(folder) if configuration.find_vocabulary(folder) else None
    if tokenizer or config:
        size = tokenizer.vocab_size if tokenizer else config.vocab_size
        if config and config.vocab_size < size:
            raise UserError(f"{config_file}: vocab_size is {config.vocab_size}, but the vocabulary beside it has "
                            f"{size} tokens: put the config.json there that belongs to it.")
        rows = _vocabulary_size(tensors)
        if rows < size:
            file = os.path.basename(tokenizer.vocab_file) if tokenizer else "config.json"
            raise UserError(f"{name} has {rows} vocabulary rows, but the {file} beside it has {size}: put the file "
                            "there that belongs to the weights.")
        if rows > configuration.round_up(size, 8):
            unused = [*unused, f"{rows - size} rows beyond the vocabulary"]
        tensors = _trimmed(tensors, size)
    return Source(name, tensors, unused, config, tokenizer, head)


def read_config(path: str) -> ElectraConfig:
    """The encoder of a `config.json`, ELECTRA's or BERT's. Raises: UserError."""
    content = configuration.read_json_object(path)
    if content.get("model_type") == "bert":
        if "hidden_size" not in content:
            raise UserError(f"{path} has no hidden_size: put the config.json there that belongs to the weights.")
        return ElectraConfig.from_content({**content, "embedding_size": content["hidden_size"]}, path)
    return ElectraConfig.from_json_file(path)


def read_head(path: str) -> Optional[dict]:
    """The settings of this project's question-answering head in a `config.json`, or None. Raises: UserError."""
    head = configuration.read_json_object(path).get("question_answering")
    kinds = {"joint_head": bool, "version_2": bool, "answerability_from_gold": bool, "beam_size": int}
    if head is not None and not (isinstance(head, dict) and all(
            type(head.get(key, kind())) is kind for key, kind in kinds.items()) and head.get("beam_size", 1) > 0):
        raise UserError(f"{path}: question_answering is {configuration.in_brief(head)}, which are not the settings of "
                        "a head: export the model again.")
    return head


def check_sizes(config: ElectraConfig, tensors: Dict[str, np.ndarray], config_file: str):
    """Raises UserError where `config.json` has other sizes than the weights, before a model of these sizes is built."""
    shapes = {ours: value.shape for ours, value in tensors.items()}
    if not any(ours.startswith("electra/encoder/") for ours in shapes):  # a generator by itself
        shapes = {as_encoder(ours): shape for ours, shape in shapes.items()}
    layers = {match[0] for match in (re.match("electra/encoder/layer_[0-9]+/", ours) for ours in shapes) if match}
    sizes = {"num_hidden_layers": len(layers)}
    for field, ours, axis in (("embedding_size", "electra/embeddings/word_embeddings", 1),
                              ("max_position_embeddings", "electra/embeddings/position_embeddings", 0),
                              ("type_vocab_size", "electra/embeddings/token_type_embeddings", 0),
                              ("hidden_size", "electra/encoder/layer_0/attention/self/query/kernel", 0),
                              ("intermediate_size", "electra/encoder/layer_0/intermediate/dense/kernel", 1)):
        if ours in shapes:
            sizes[field] = shapes[ours][axis]
    for field, size in sizes.items():
        if getattr(config, field) != size:
            raise UserError(f"{config_file}: {field} is {getattr(config, field)}, but the weights beside it have "
                            f"{size}: put the config.json there that belongs to them.")


def as_float32(value, name: str, path: str) -> np.ndarray:
    """A tensor of a file in float32. Raises: UserError: it is not floating-point, or holds NaN or infinity."""
    value = np.asarray(value)
    try:
        is_floating = tf.as_dtype(value.dtype).is_floating
    except TypeError:  # no type of TensorFlow's
        is_floating = False
    if not is_floating:
        raise UserError(f"{path}: {name} is of type {value.dtype}, not floating-point: convert it to float32.")
    with np.errstate(over="ignore"):
        value = value.astype(np.float32, copy=False)
    if not np.isfinite(value).all():
        raise UserError(f"{path}: {name} contains NaN or infinite values: name other weights.")
    return value


def _vocabulary_size(tensors: Dict[str, np.ndarray]) -> int:
    return next(value.shape[0] for name, value in tensors.items() if name.endswith("word_embeddings"))


def _trimmed(tensors: Dict[str, np.ndarray], vocab_size: int) -> Dict[str, np.ndarray]:
    """Removes the padding rows of the vocabulary."""
    return {name: value[:vocab_size] if name.endswith(VOCABULARY_TENSORS) else value for name, value in tensors.items()}


def _load_safetensors(path: str) -> Iterator[Tuple[str, np.ndarray]]:
    import safetensors
    try:
        with safetensors.safe_open(path, framework="np") as file:
            for name in file.keys():
                yield _with_electra_prefix(name), file.get_tensor(name)
    except (safetensors.SafetensorError, TypeError, AttributeError, OSError) as error:
        # TypeError and AttributeError: a type that numpy does not have
        raise UserError(f"{path} cannot be read ({in_short(error)[:200]}): download it again, or convert it to "
                        "float32.") from error


def _load_sharded(path: str) -> Iterator[Tuple[str, np.ndarray]]:
    """The tensors of all files that a `model.safetensors.index.json` names."""
    for file, names in hub.shards(path).items():
        tensors = dict(_load_safetensors(os.path.join(os.path.dirname(path), file)))
        missing = [name for name in names if _with_electra_prefix(name) not in tensors]
        if missing:
            raise UserError(f"{path}: {missing[0]} is not in {file}: download both again.")
        yield from tensors.items()


def _load_torch(path: str) -> Iterator[Tuple[str, np.ndarray]]:
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path} is a PyTorch file and torch is not installed: pip install torch, or name a model that "
                        "has model.safetensors or tf_model.h5.") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # UnpicklingError, RuntimeError or EOFError, depending on the damage
        raise UserError(f"{path} cannot be read ({in_short(error)}): download it again.") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{path} does not hold tensors by name (a state_dict): name another model.")
    for name, value in content.items():
        if hasattr(value, "float") and hasattr(value, "numpy"):  # not a nested dict, a number, ...
            yield _with_electra_prefix(name), value.float().numpy()


def _with_electra_prefix(name: str) -> str:
    """Renames BERT's encoder, and an encoder saved without a head, to ELECTRA's names."""
    return re.sub(r"^(bert\.)?(?=(embeddings|encoder|embeddings_project)\.)", "electra.", name)


def _load_keras(path: str) -> Iterator[Tuple[str, np.ndarray]]:
    """Names without the group and the model's scope: `electra/tf_electra_model/electra/x:0` is `electra/x`.

    Layers that use the embeddings list them once more; they must be the same.
    """
    import h5py
    datasets, left = {}, 100 * os.path.getsize(path)  # bytes: far more than compression saves

    def visit(name, item):
        nonlocal left
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiub":
            left -= (item.size or 0) * item.dtype.itemsize
            if left < 0:
                raise ValueError(f"with {name} its tensors are larger than the file")
            datasets[name] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, MemoryError) as error:
        raise UserError(f"{path} cannot be read ({in_short(error)[:200]}): download it again.") from error
    found: Dict[str, np.ndarray] = {}
    for name, value in datasets.items():
        short = re.sub(r"^(?:.*/)?tf_(?:electra|bert)[^/]*/", "", name).split(":")[0]
        short = re.sub("^bert/(?=embeddings|encoder)", "electra/", short)
        if short in found and not np.array_equal(found[short], value):
            raise UserError(f"{path} holds two different tensors for {short}: save the model again.")
        found[short] = value
    yield from found.items()


def fingerprint(source: Source) -> str:
    """SHA-256 of the encoder's settings and all tensors: equal if a training from these weights would be equal."""
    digest = hashlib.sha256(repr(source.config).encode())
    for name in sorted(source.tensors):
        digest.update(name.encode() + np.ascontiguousarray(source.tensors[name]).tobytes())
    return digest.hexdigest()


def merge(sources: List[Source]) -> Source:
    """Merges a discriminator and a generator. Raises: UserError: two of the same kind."""
    tensors: Dict[str, np.ndarray] = {}
    for source in sources:
        twice = sorted(set(tensors) & set(source.tensors))
        if twice:
            raise UserError(f"{' and '.join(s.name for s in sources)} both contain {twice[0]}: name one discriminator "
                            "and one generator.")
        tensors.update(source.tensors)
    tokenizers = [source.tokenizer for source in sources if source.tokenizer]
    if any(other.tokens != tokenizers[0].tokens for other in tokenizers):
        raise UserError(f"{' and '.join(s.name for s in sources)} have different vocabularies: name two that belong "
                        "together.")
    return Source(",".join(source.name for source in sources), tensors, [n for s in sources for n in s.unused],
                  sources[0].config, tokenizers[0] if tokenizers else None, sources[0].head, sources[0].state)


PRETRAINING_WAY_OUT = "choose --model_size, --model_config and --generator_hidden_size to match it"


def load(source: Source, variables, tokenizer: ElectraTokenizer, way_out: str = PRETRAINING_WAY_OUT) -> List[str]:
    """Assigns weights to variables by name.

    Encoders and embeddings must be complete and of the right shape. Heads, and a generator that is missing altogether,
    keep their initial values. If the vocabularies differ, rows are matched by token; rows of unknown tokens and padding
    rows keep their initial values.

    Returns: sentences for the log.
    Raises: UserError: listing missing, unexpected and misshapen tensors.
    """
    wanted = {variable.name.split(":")[0]: variable for variable in variables}
    tensors = dict(source.tensors)
    has_generator = any(name.startswith("generator/") for name in wanted)
    lines = []
    if not has_generator and not any(name.startswith("electra/") for name in tensors):
        tensors = {as_encoder(name): value for name, value in tensors.items()}  # a generator by itself
    lines += _settle_generator_embeddings(tensors, wanted)
    rows, sentence = _vocabulary_rows(source, tensors, tokenizer)
    lines += [sentence] if sentence else []

    fresh = [name for name in wanted if name not in tensors]
    part = "generator/" if not any(name.startswith("generator/encoder/") for name in tensors) else "\0"
    missing = [name for name in fresh if name.startswith(ENCODERS) and not name.startswith(part)]
    left_over = [name for name in tensors if name not in wanted
                 and name.startswith(ENCODERS if has_generator else "electra/")]
    values, misshaped = {}, []
    for name, value in tensors.items():
        if name not in wanted:
            continue
        shape = tuple(wanted[name].shape)
        if name.endswith(VOCABULARY_TENSORS) and value.shape[1:] == shape[1:] and (value.shape != shape or sentence):
            values[name] = np.array(wanted[name].numpy())
            values[name][rows[0]] = value[rows[1]]
        elif value.shape != shape:
            misshaped.append(f"{name} is {_by(value.shape)} in the weights and {_by(shape)} in the model")
        else:
            values[name] = value
    problems = misshaped + [f"{name} is missing" for name in missing] + [f"{name} is unexpected" for name in left_over]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{source.name} does not fit this model ({'; '.join(problems[:3])}{more}): "
                        f"{way_out}.")
    for name, value in values.items():
        wanted[name].assign(value)
    unused = sorted([name for name in tensors if name not in wanted] + source.unused)
    lines.insert(0, f"{len(values)} tensors of {source.name} loaded.")
    for what, names in (("newly initialised", fresh), ("not used", unused)):
        if names:
            lines.append(f"{what}: {_parts(names)}.")
    return lines


def _settle_generator_embeddings(tensors: Dict[str, np.ndarray], wanted) -> List[str]:
    """Gives `tensors` the embeddings that `wanted` has: shared, or one copy per network. Edits in place."""
    own = [name for name in tensors if name.startswith("generator/embeddings/")]
    differ = False
    for name in own:
        shared = as_encoder(name)
        if name not in wanted:
            value = tensors.pop(name)
            differ |= not np.array_equal(tensors.setdefault(shared, value), value)
    if any(name.startswith("generator/encoder/") for name in tensors):
        for name in wanted:
            if name.startswith("generator/embeddings/") and name not in tensors:
                shared = as_encoder(name)
                if shared in tensors:
                    tensors[name] = tensors[shared]
    return ["the generator's embeddings differ from the discriminator's, which are used for both networks: "
            "--noshare_embeddings keeps both."] if differ else []


def _vocabulary_rows(source: Source, tensors, tokenizer) -> Tuple[Tuple[np.ndarray, np.ndarray], str]:
    """Rows of our vocabulary, their rows in the source, and a sentence if not all are matched."""
    count = _vocabulary_size(tensors)
    if source.tokenizer is None or source.tokenizer.tokens == tokenizer.tokens:
        sizes = (tokenizer.vocab_size, configuration.round_up(tokenizer.vocab_size, 8))
        if source.tokenizer is None and count not in sizes:
            raise UserError(f"{source.name} has {count} vocabulary rows and no vocab.txt or tokenizer.json beside it, "
                            f"but {tokenizer.vocab_file} has {tokenizer.vocab_size} tokens: put its vocabulary there, "
                            "so that rows can be matched by token.")
        everything = np.arange(tokenizer.vocab_size)
        return (everything, everything), ""
    alike = source.tokenizer.notation == tokenizer.notation  # else `##a` there is `a` here, and `a` there `▁a` here
    names = [vocabulary.tokens if alike else vocabulary.word_forms for vocabulary in (source.tokenizer, tokenizer)]
    theirs = {token: row for row, token in enumerate(names[0]) if row < count}
    pairs = np.array([(row, theirs[token]) for row, token in enumerate(names[1]) if token in theirs])
    return (pairs[:, 0], pairs[:, 1]), (f"{len(pairs)} of {tokenizer.vocab_size} vocabulary rows are taken from the "
                                        "weights by token; the others are newly initialised.")


def _by(shape) -> str:
    return "x".join(map(str, shape)) or "a number"


# What the variables of a part of the network are called in the log, by how their names begin.
PARTS = (
    ("generator/embeddings/", "the generator's embeddings"),
    ("generator/", "the generator's encoder"),
    ("generator_predictions", "the generator's prediction head"),
    ("discriminator_predictions", "the discriminator's prediction head"),
    ("electra/embeddings/", "the embeddings"),
    ("electra/", "the encoder"),
    (("start_logits", "end_logits", "answer_class", "qa_outputs"), "the question-answering head"),
    ("classifier", "the classification head"),
)


def _parts(names: List[str]) -> str:
    """The parts of the network that tensors belong to, with their numbers; those of another network by name."""
    found: Dict[str, List[str]] = {}
    for name in names:
        found.setdefault(next((part for prefix, part in PARTS if name.startswith(prefix)), ""), []).append(name)
    others = found.pop("", [])
    parts = [f"{part} ({len(members)} tensor{'s' if len(members) > 1 else ''})" for part, members in found.items()]
    return ", ".join([*parts, *others[:4], *([f"{len(others) - 4} more"] if len(others) > 4 else [])])


def open_tokenizer(source: Source, vocab_file: Optional[str] = None, **casing) -> ElectraTokenizer:
    """`vocab_file`, else the vocabulary beside the weights; casing not given here is that of the weights."""
    own = source.tokenizer.casing if source.tokenizer else {}
    if vocab_file:
        if vocab_file.endswith((".model", ".json")):
            own = {}  # it contains its casing
        return ElectraTokenizer.from_folder(os.path.dirname(vocab_file), vocab_file, **{**own, **casing})
    if not source.tokenizer:
        raise UserError(f"{source.name} has no vocab.txt or tokenizer.json beside it: give the vocabulary as "
                        "--vocab_file.")
    return source.tokenizer.with_casing(**casing)


CALIBRATION = "calibration.json"  # beside the weights: the temperature of each checkpoint, or of `model`


def _calibrated(path: str) -> Tuple[str, str]:
    """The file that has the temperature of a folder or checkpoint prefix, and its key there."""
    is_folder = os.path.isdir(path)
    return os.path.join(path if is_folder else run_folder(path), CALIBRATION), (
        "model" if is_folder else os.path.basename(path))


def read_temperature(path: str) -> float:
    """The temperature kept with a model (`keep_temperature`), or 1. Raises: UserError: the file is damaged."""
    file, key = _calibrated(path)
    if not os.path.exists(file):
        return 1.0
    way_out = "delete it, and evaluate the model again (run_tf_squad.py --do_eval)"
    value = configuration.read_record(file, way_out, temperatures=dict)["temperatures"].get(key, 1.0)
    if type(value) not in (int, float) or not 0 < value < 1e6:
        raise UserError(f"{file}: the temperature of {key} is {configuration.in_brief(value)}: {way_out}.")
    return float(value)


def keep_temperature(path: str, temperature: float):
    """Keeps the temperature that was found for a model with it, for the probabilities of its answers.

    Args:
        path: folder or checkpoint prefix.
    Raises: OSError.
    """
    file, key = _calibrated(path)
    kept = {}
    if os.path.exists(file):
        with contextlib.suppress(UserError):  # damaged
            kept = dict(configuration.read_record(file, "", temperatures=dict)["temperatures"])
    files.write_json(file, {"temperatures": {**kept, key: temperature}})


# What a network was fine-tuned for, by `task` in the state of a checkpoint, and its class.
TASKS = {"squad": "question_answering", "sequence_classification": "sequence_classification",
         "token_classification": "token_classification"}
HEADS = {"question_answering": modeling.QuestionAnswering,
         "sequence_classification": modeling.SequenceClassification,
         "token_classification": modeling.TokenClassification}

SQUAD_WAY_OUT = "its config.json describes another model, put the right one there"


def question_answering(source: Source, tokenizer: ElectraTokenizer, beam_size: Optional[int] = None,
                       compute_dtype=tf.float32, log: Callable[[str], None] = logging.info
                       ) -> modeling.QuestionAnswering:
    """A trained question-answering model: this project's, NVIDIA's recipe's, or an ElectraForQuestionAnswering.

    Args:
        beam_size: of the joint head; None for the one it was trained with.
        log: called with each sentence of `load` but the number of tensors: what is left out of the weights.
    Raises: UserError: there is no such head, or no configuration.
    """
    if source.config is None:
        raise UserError(f"{source.name} has no config.json beside it: put the encoder's there.")
    joint_head = "start_logits/start_logit_pooler_dense/kernel" in source.tensors
    if not joint_head and "qa_outputs/kernel" not in source.tensors:
        raise UserError(f"{source.name} has no question-answering head: fine-tune it first (run_tf_squad.py "
                        "--do_train), or name a fine-tuned model.")
    has_answerability = "answer_class/pooler_answer_class_dense_0/kernel" in source.tensors
    if source.tokenizer and source.tokenizer.tokens != tokenizer.tokens:
        raise UserError(f"{tokenizer.vocab_file} is not the vocabulary that {source.name} was trained with: omit "
                        "--vocab_file.")
    head = {"joint_head": joint_head, "version_2": has_answerability}
    saved = source.head or {}
    head.update({name: saved[name] for name in ("version_2", "beam_size", "answerability_from_gold") if name in saved})
    if beam_size:
        head["beam_size"] = beam_size
    with modeling.without_initial_values():
        model = modeling.QuestionAnswering(source.config, compute_dtype=compute_dtype, **head)
    lacking = [variable.name.split(":")[0] for variable in model.trainable_variables
               if variable.name.split(":")[0] not in source.tensors]
    if lacking:
        raise UserError(f"{source.name} lacks {lacking[0]} of its question-answering head: name a complete model.")
    for line in load(source, model.trainable_variables, tokenizer, SQUAD_WAY_OUT)[1:]:
        log(f"{source.name}: {line}")
    return model


# `problem_type` in transformers by `problem` of a modeling.SequenceClassification.
PROBLEM_TYPES = {"single_label": "single_label_classification", "multi_label": "multi_label_classification",
                 "regression": "regression"}


class Labels(NamedTuple):
    """What a head for classification or tagging predicts."""

    names: Tuple[str, ...]  # by row of the logits; one for regression
    problem: Optional[str]  # of a modeling.SequenceClassification; None for tagging


def fine_tuned_for(source: Source) -> Optional[str]:
    """The head that weights have, a key of HEADS; None: none of these."""
    if {"start_logits/start_logit_pooler_dense/kernel", "qa_outputs/kernel"} & set(source.tensors):
        return "question_answering"
    if "classifier/out_proj/kernel" in source.tensors:
        return "sequence_classification"
    return "token_classification" if "classifier/kernel" in source.tensors else None


def labels_of(source: Source) -> Labels:
    """The labels of a head for classification or tagging. Raises: UserError: the weights have none, or damaged ones."""
    kind = fine_tuned_for(source)
    if kind not in ("sequence_classification", "token_classification"):
        raise UserError(f"{source.name} has no head for classification or tagging: fine-tune it first "
                        "(run_tf_tasks.py --do_train), or name a fine-tuned model.")
    is_sequence = kind == "sequence_classification"
    count = source.tensors["classifier/out_proj/kernel" if is_sequence else "classifier/kernel"].shape[-1]
    if source.state is not None:
        return saved_labels(source.state, source.path, count)
    path = os.path.join(source.path or "", "config.json")
    content = configuration.read_json_object(path)
    if not is_sequence and "SequenceClassification" in str(content.get("architectures")):  # pooler and linear layer
        raise UserError(f"{source.name} is a BERT classifier, whose head differs from ELECTRA's and is not supported: "
                        "fine-tune its encoder (run_tf_tasks.py --do_train), or name an ELECTRA classifier.")
    names = content.get("id2label")
    if names is None:
        names = [f"LABEL_{number}" for number in range(count)]  # transformers leaves out its default
    elif isinstance(names, dict) and set(names) == {str(number) for number in range(len(names))}:
        names = [names[str(number)] for number in range(len(names))]
    problem = content.get("problem_type") or PROBLEM_TYPES["regression" if count == 1 else "single_label"]
    problem = next((ours for ours, theirs in PROBLEM_TYPES.items() if theirs == problem), problem)
    return _checked_labels(names, problem if is_sequence else None, count, path,
                           "put the config.json there that belongs to the weights")


def saved_labels(state: dict, prefix: str, count: int) -> Labels:
    """The labels in the state of a checkpoint, whose head has `count`. Raises: UserError: there are others."""
    return _checked_labels(state.get("labels"), (state.get("head") or {}).get("problem"), count,
                           f"the state in checkpoint {prefix}", "use another checkpoint")


def _checked_labels(names, problem, count: int, where: str, way_out: str) -> Labels:
    if not isinstance(names, (list, tuple)) or len(names) != count or len(set(map(str, names))) != count or not all(
            isinstance(name, str) for name in names):
        raise UserError(f"{where}: the labels are {configuration.in_brief(names)}, but the weights have {count}: "
                        f"{way_out}.")
    if problem is not None and (problem not in modeling.PROBLEMS or problem == "regression" and count != 1):
        raise UserError(f"{where}: the problem is {configuration.in_brief(problem)} with {count} labels, which is not "
                        f"supported: {way_out}.")
    return Labels(tuple(names), problem)


TASK_WAY_OUT = "its config.json describes another model, put the right one there"


def task_model(source: Source, tokenizer: ElectraTokenizer, compute_dtype=tf.float32,
               log: Callable[[str], None] = logging.info) -> Tuple[modeling.TaskModel, Labels]:
    """A trained classifier or tagger, this project's or one of transformers, and its labels.

    Args:
        log: called with each sentence of `load` but the number of tensors: what is left out of the weights.
    Raises: UserError: there is no such head, or no configuration.
    """
    if source.config is None:
        raise UserError(f"{source.name} has no config.json beside it: put the encoder's there.")
    labels = labels_of(source)
    if source.tokenizer and source.tokenizer.tokens != tokenizer.tokens:
        raise UserError(f"{tokenizer.vocab_file} is not the vocabulary that {source.name} was trained with: omit "
                        "--vocab_file.")
    settings = {"num_labels": len(labels.names), **({"problem": labels.problem} if labels.problem else {})}
    model = HEADS[fine_tuned_for(source)](source.config, compute_dtype=compute_dtype, **settings)
    lacking = [variable.name.split(":")[0] for variable in model.trainable_variables
               if variable.name.split(":")[0] not in source.tensors]
    if lacking:
        raise UserError(f"{source.name} lacks {lacking[0]}: name a complete model.")
    for line in load(source, model.trainable_variables, tokenizer, TASK_WAY_OUT)[1:]:
        log(f"{source.name}: {line}")
    return model, labels


def without_other_head(source: Source, labels: Labels) -> Source:
    """Weights to fine-tune: without a head for classification or tagging unless it is one of the same labels."""
    if fine_tuned_for(source) in ("sequence_classification", "token_classification") and labels_of(source) == labels:
        return source
    return source._replace(tensors={name: value for name, value in source.tensors.items()
                                    if not name.startswith("classifier/")})


# --- Out ---

# The class in transformers by kind of network; there is none for the joint head.
ARCHITECTURES = {"discriminator": "ElectraForPreTraining", "generator": "ElectraForMaskedLM",
                 "question_answering": "ElectraForQuestionAnswering",
                 "sequence_classification": "ElectraForSequenceClassification",
                 "token_classification": "ElectraForTokenClassification"}


def huggingface_tensors(network: tf.Module) -> Dict[str, np.ndarray]:
    """The weights of one network with Hugging Face's names, kernels transposed, without vocabulary padding."""
    rows = {row.name: row for row in table(network.encoder.config.num_hidden_layers)}
    tensors = {as_encoder(variable.name.split(":")[0]): variable.numpy() for variable in network.variables}
    return {rows[name].torch[0]: np.ascontiguousarray(value.T if rows[name].transposed else value)
            for name, value in _trimmed(tensors, network.encoder.config.vocab_size).items()}


def save_folder(network: tf.Module, kind: str, tokenizer: ElectraTokenizer, folder: str, saved_model: bool = False,
                labels: Optional[Labels] = None):
    """Writes a Hugging Face folder; with `saved_model` also `<folder>/saved_model` for TensorFlow Serving.

    transformers has no class for the joint head: its folder is for this project (`read`) and for serving.

    Args:
        network: a modeling.Network, or a modeling.TaskModel.
        kind: a key of ARCHITECTURES.
        labels: of a classifier or tagger.
    Raises: OSError: a file cannot be written.
    """
    import safetensors
    try:
        _write_folder(network, kind, tokenizer, folder, saved_model, labels)
    except (safetensors.SafetensorError, tf.errors.OpError) as error:
        raise OSError(errno.EIO, in_short(error), folder) from error


def _write_folder(network: tf.Module, kind: str, tokenizer: ElectraTokenizer, folder: str, saved_model: bool,
                  labels: Optional[Labels]):
    import safetensors.numpy
    os.makedirs(folder, exist_ok=True)
    weights_file = os.path.join(folder, "model.safetensors")
    safetensors.numpy.save_file(huggingface_tensors(network), weights_file,
                                metadata={"format": "pt"})  # transformers 4 refuses a file without it
    content = {**network.encoder.config.to_dict(), "pad_token_id": tokenizer.pad_id}
    if kind == "question_answering":
        content["question_answering"] = network.settings
    if kind != "question_answering" or not network.joint_head:
        content["architectures"] = [ARCHITECTURES[kind]]
    if labels:
        content["id2label"] = {str(number): name for number, name in enumerate(labels.names)}
        content["label2id"] = {name: number for number, name in enumerate(labels.names)}
        if labels.problem:
            content["problem_type"] = PROBLEM_TYPES[labels.problem]
    config_file = os.path.join(folder, "config.json")
    files.write_json(config_file, content)
    shutil.copymode(config_file, weights_file)  # safetensors creates it for the owner alone
    tokenizer.save(folder)
    if saved_model:
        save_serving(network, os.path.join(folder, "saved_model"))


def save_serving(network: tf.Module, folder: str):
    """A SavedModel whose `serving_default` takes input_ids, input_mask, segment_ids, int32 [B, L] of any B and L up to
    the longest position, and returns what `serving_module` does. A question-answering one takes `p_mask` too."""
    names = (*SERVING_INPUTS, *(["p_mask"] if isinstance(network, modeling.QuestionAnswering) else []))
    module = serving_module(network, names)
    tf.saved_model.save(module, folder, signatures=module.serve,
                        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False))


SERVING_INPUTS = ("input_ids", "input_mask", "segment_ids")


def serving_module(network: tf.Module, names: Sequence[str] = SERVING_INPUTS) -> tf.Module:
    """A module with the tf.function `serve`: inference of a network, for tensors int32 [B, L] by `names`.

    It returns a dict: `logits` as `modeling.Network` and the heads for classification and tagging do, or what
    `modeling.QuestionAnswering.answers` does.
    """

    def serve(*tensors):
        features = dict(zip(names, tensors))
        enabled, fused.ENABLED = fused.ENABLED, False  # what XLA compiles is for this process alone
        try:
            if isinstance(network, modeling.QuestionAnswering):
                return network.answers(features)
            is_task = isinstance(network, modeling.TaskModel)
            return {"logits": network.logits(features) if is_task else network(**features)}
        finally:
            fused.ENABLED = enabled

    module = tf.Module()
    module.network = network
    module.serve = tf.function(serve, autograph=False, input_signature=[tf.TensorSpec([None, None], tf.int32, name)
                                                                        for name in names])
    return module
