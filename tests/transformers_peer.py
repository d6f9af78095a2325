"""The other side of scripts/check_weights.py: Hugging Face transformers and PyTorch, in an environment of their own.

    python tests/transformers_peer.py make FOLDER      random models and their outputs, as transformers saves them
    python tests/transformers_peer.py check FOLDER     loads what this project exported there and writes its outputs

FOLDER/<size>/<discriminator|generator>/ holds one model each; FOLDER/inputs.npz the inputs of all. Run by
scripts/check_weights.py, which also regenerates tests/data/transformers_tiny with it; never by the tests.
"""
import json
import os
import sys

import numpy as np
import torch
import transformers

CLASSES = {"discriminator": transformers.ElectraForPreTraining, "generator": transformers.ElectraForMaskedLM}


def logits_of(model, inputs) -> np.ndarray:
    with torch.no_grad():
        output = model.eval()(**{name: torch.tensor(value) for name, value in inputs.items()})
    return getattr(output, "logits", getattr(output, "last_hidden_state", None)).float().numpy()


def make(folder):
    inputs = dict(np.load(os.path.join(folder, "inputs.npz")))
    with open(os.path.join(folder, "sizes.json"), encoding="utf-8") as file:
        sizes = json.load(file)
    for size, kinds in sizes.items():
        for kind, settings in kinds.items():
            torch.manual_seed(len(size))
            model = CLASSES[kind](transformers.ElectraConfig(**settings))
            with torch.no_grad():  # biases and layer norms too: at their initial 0 and 1 they could be mixed up unseen
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.05)
            model.save_pretrained(os.path.join(folder, size, kind))
            np.save(os.path.join(folder, size, kind, "logits.npy"), logits_of(model, inputs))


def check(folder):
    inputs = dict(np.load(os.path.join(folder, "inputs.npz")))
    for size in sorted(os.listdir(folder)):
        for kind, model_class in CLASSES.items():
            exported = os.path.join(folder, size, kind)
            if not os.path.isdir(exported):
                continue
            model, info = model_class.from_pretrained(exported, output_loading_info=True)
            wrong = {key: list(value) for key, value in info.items() if value}
            assert not wrong, f"{exported}: {wrong}"
            np.save(os.path.join(exported, "peer_logits.npy"), logits_of(model, inputs))
            tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
            with open(os.path.join(folder, "sentences.json"), encoding="utf-8") as file:
                ids = tokenizer(json.load(file))["input_ids"]
            with open(os.path.join(exported, "peer_ids.json"), "w", encoding="utf-8") as file:
                json.dump(ids, file)


def encode(folder):
    """Hidden states of any encoder, for a check with real weights."""
    inputs = dict(np.load(os.path.join(folder, "inputs.npz")))
    with open(os.path.join(folder, "encoder.txt"), encoding="utf-8") as file:
        model = transformers.AutoModel.from_pretrained(file.read())
    np.save(os.path.join(folder, "hidden.npy"), logits_of(model, inputs))


if __name__ == "__main__":
    {"make": make, "check": check, "encode": encode}[sys.argv[1]](sys.argv[2])
