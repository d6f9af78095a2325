"""Exports a checkpoint to folders that Hugging Face transformers loads: a discriminator and a generator.

    python postprocess_pretrained_ckpt.py --pretrained_checkpoint=results/models/base/checkpoints/ckpt-p2-933 \\
        --output_dir=results/models/base/exported --savedmodel

Writes, into a folder that appears when complete: `discriminator/` and `generator/` (if the objective has both), each
with config.json, model.safetensors, the vocabulary, tokenizer_config.json, a model card in README.md, and with
--savedmodel a SavedModel in `saved_model/`. A checkpoint of run_tf_squad.py becomes `question_answering/`, which
transformers load if it has the independent head (--nojoint_head). One of run_tf_tasks.py becomes
`sequence_classification/` or `token_classification/`, which they load with its labels. --onnx and --tflite add
model.onnx and model.tflite, for onnxruntime and TensorFlow Lite, and --int8 versions with quantized weights
(runtimes.py). Size and settings are those saved in the checkpoint; a checkpoint with missing or unexpected variables is
refused. A card that was edited is kept. --push_to_hub uploads the folders to the Hugging Face Hub.
"""
from __future__ import annotations

import os
from typing import Dict, Iterable, List, Optional

import command_line
import configuration
import preflight
from configuration import UserError, in_short
from squad_options import ExportConfig

if __name__ == "__main__":  # an invalid call is refused at once, not after the seconds that the other imports take
    command_line.refuse_early(ExportConfig, __doc__, check=preflight.check_export)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported; hides its start-up messages

import files
import hub
import model_card
import runtimes
import weights

KINDS = tuple(weights.ARCHITECTURES)


def export(config: ExportConfig):
    """Writes the folders. Raises: UserError: no such checkpoint, or output_dir cannot be created or replaced."""
    output_dir = config.output_dir
    configuration.check_folder(output_dir, "output_dir", replaced=True)
    files.remove_leftovers(output_dir)
    try:
        there = sorted(os.listdir(output_dir)) if os.path.isdir(output_dir) else []
    except OSError as error:
        raise UserError(f"--output_dir={output_dir} cannot be read ({error.strerror}): choose another.") from error
    foreign = [name for name in there if name not in KINDS]
    if foreign or there and not config.overwrite:
        way_out = "" if foreign else ", or replace it with --overwrite"
        raise UserError(f"--output_dir={output_dir} exists already: choose another folder{way_out}.")
    preflight.check_export_packages(config)
    kept = {kind: model_card.edited(os.path.join(output_dir, kind)) for kind in there}
    run = weights.open_checkpoint(config.pretrained_checkpoint, config.vocab_file)
    if config.onnx or config.tflite:
        runtimes.check_head(run)
    model = run.model()
    networks = {run.kind: model} if run.kind else model.networks()
    if config.onnx or config.tflite:
        preflight.check_export_memory(max(parameters_of(network) for network in networks.values()))
    for kind in set(kept) - set(networks):
        if kept[kind] is not None:
            raise UserError(f"{os.path.join(output_dir, kind, model_card.FILE)} was edited, and the checkpoint has no "
                            f"{kind}: move it away, or choose another --output_dir.")
    written: Dict[str, List[runtimes.Written]] = {}
    try:
        with files.new_folder(output_dir, replace=config.overwrite) as folder:
            for kind, network in networks.items():
                target = os.path.join(folder, kind)
                weights.save_folder(network, kind, run.tokenizer, target, config.savedmodel, run.labels)
                written[kind] = runtimes.write(network, target, config.onnx, config.tflite, config.int8)
                temperature = weights.read_temperature(run.prefix)
                if run.kind and temperature != 1:
                    weights.keep_temperature(target, temperature)
                card = kept.get(kind) or model_card.text(facts_of(config, run, kind, network))
                model_card.write(target, card)
    except OSError as error:
        raise UserError(f"--output_dir={output_dir} could not be written ({in_short(error)}), and nothing was left: "
                        "make room or choose another folder.") from error
    step = f"step {run.state['step']}" + ("" if run.kind else f" of phase {run.state['phase']}")
    for kind in networks:
        folder = os.path.join(output_dir, kind)
        print(f"{kind} of {run.prefix} ({step}): {folder}")
        for file in written[kind]:
            print(f"    {file}")
        if kept.get(kind):
            print(f"{os.path.join(folder, model_card.FILE)} was edited, and is kept.")
    if config.push_to_hub:
        push(config, networks, pretrained=not run.kind)


def repository(config: ExportConfig, kind: str, pretrained: bool) -> Optional[str]:
    """The repository of a network on the Hub; None without --push_to_hub."""
    if not config.push_to_hub or not pretrained:
        return config.push_to_hub
    return f"{config.push_to_hub}-{kind}"


def push(config: ExportConfig, kinds: Iterable[str], pretrained: bool):
    """Uploads what was exported. Raises: UserError."""
    folders = {repository(config, kind, pretrained): os.path.join(config.output_dir, kind) for kind in kinds}
    for url in hub.upload(folders, config.public, is_own_card=lambda card: not model_card.is_edited(card)).values():
        print(f"pushed: {url}")


def parameters_of(network) -> int:
    return sum(variable.shape.num_elements() for variable in network.trainable_variables)


def facts_of(config: ExportConfig, run: weights.SavedRun, kind: str, network) -> model_card.Facts:
    folder = weights.run_folder(run.prefix)
    scores, scored_on = model_card.scores_of(folder, run.state)
    return model_card.Facts(
        kind, os.path.basename(folder), run.state,
        parameters_of(network),
        f"vocabulary of {run.tokenizer.vocab_size:,} tokens ({os.path.basename(run.tokenizer.vocab_file)})",
        scores, scored_on, not getattr(network, "joint_head", False), config.language, config.license,
        repository(config, kind, not run.kind))


def main(argv):
    export(command_line.parse(ExportConfig, argv, __doc__))


if __name__ == "__main__":
    command_line.run_command(main)
