"""The other side of scripts/check_weights.py: Hugging Face transformers and PyTorch, in an environment of their own.

    python tests/transformers_peer.py make FOLDER      random models and their outputs, as transformers saves them
    python tests/transformers_peer.py check FOLDER     loads what this project exported there and writes its outputs
    python tests/transformers_peer.py squad FOLDER     trains on FOLDER/batches.npz, for scripts/check_squad.py
    python tests/transformers_peer.py task FOLDER      the same on batches of a classifier or tagger
    python tests/transformers_peer.py benchmark FOLDER trains and answers in turns, for scripts/benchmark.py

FOLDER/<size>/<kind>/ holds one model each; FOLDER/inputs.npz the inputs of all. Run by
scripts/check_weights.py, which also regenerates tests/data/transformers_tiny with it; never by the tests.
"""
import json
import os
import resource
import sys
import time

import numpy as np
import torch
import transformers

CLASSES = {"discriminator": transformers.ElectraForPreTraining, "generator": transformers.ElectraForMaskedLM,
           "question_answering": transformers.ElectraForQuestionAnswering,
           "sequence_classification": transformers.ElectraForSequenceClassification,
           "token_classification": transformers.ElectraForTokenClassification}


def logits_of(model, inputs) -> np.ndarray:
    with torch.no_grad():
        output = model.eval()(**{name: torch.tensor(value) for name, value in inputs.items()})
    if hasattr(output, "start_logits"):
        return torch.stack([output.start_logits, output.end_logits]).numpy()
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
                    parameter.add_(torch.randn_like(parameter) * 0.02)
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
            if kind.endswith("_classification"):
                with open(os.path.join(exported, "config.json"), encoding="utf-8") as file:
                    labels = json.load(file)["id2label"]
                assert {str(number): name for number, name in model.config.id2label.items()} == labels, exported
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


def settings_of(folder):
    with open(os.path.join(folder, "settings.json"), encoding="utf-8") as file:
        return json.load(file)


NAMES = {"input_ids": "input_ids", "input_mask": "attention_mask", "segment_ids": "token_type_ids",
         "start_positions": "start_positions", "end_positions": "end_positions", "labels": "labels"}


def batch_of(arrays, index):
    return {theirs: torch.tensor(arrays[ours][index]).long() for ours, theirs in NAMES.items() if ours in arrays}


def task(folder):
    """Fine-tunes FOLDER/start on given batches, and writes every loss."""
    settings, batches = settings_of(folder), dict(np.load(os.path.join(folder, "batches.npz")))
    batches["labels"] = np.where(batches["labels"] < 0, -100, batches["labels"])
    tagger = batches["labels"].ndim == 3
    model_class = (transformers.AutoModelForTokenClassification if tagger else
                   transformers.AutoModelForSequenceClassification)
    model = model_class.from_pretrained(os.path.join(folder, "start"), hidden_dropout_prob=0.0,
                                        attention_probs_dropout_prob=0.0)
    np.savez(os.path.join(folder, "peer.npz"), losses=fine_tune(model, settings, batches))


def squad(folder):
    """Fine-tunes with the independent head on given batches, and writes every loss and the dev set's logits."""
    settings = settings_of(folder)
    batches, dev = (dict(np.load(os.path.join(folder, name))) for name in ("batches.npz", "dev.npz"))
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(
        settings["encoder"], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    with torch.no_grad():
        model.qa_outputs.weight.copy_(torch.tensor(batches["head_kernel"].T))
        model.qa_outputs.bias.copy_(torch.tensor(batches["head_bias"]))
    losses = fine_tune(model, settings, batches)
    model.eval()
    found = []
    with torch.no_grad():
        for first in range(0, len(dev["input_ids"]), 16):
            output = model(**batch_of(dev, slice(first, first + 16)))
            found.append((output.start_logits.numpy(), output.end_logits.numpy()))
    np.savez(os.path.join(folder, "peer.npz"), losses=losses, start_logits=np.concatenate([pair[0] for pair in found]),
             end_logits=np.concatenate([pair[1] for pair in found]))


def fine_tune(model, settings, batches):
    """The loss of every update."""
    torch.set_num_threads(os.cpu_count())
    named = [(name, value) for name, value in model.named_parameters() if "pooler" not in name]
    plain = [value for name, value in named if name.endswith("bias") or "LayerNorm" in name]
    decayed = [value for name, value in named if not (name.endswith("bias") or "LayerNorm" in name)]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": settings["weight_decay_rate"]},
                                   {"params": plain, "weight_decay": 0.0}], lr=settings["learning_rate"], eps=1e-6)
    count = len(batches["real"])
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, settings["num_warmup_steps"], count)
    losses = []
    model.train()
    for step, real in enumerate(batches["real"]):
        loss = model(**{name: value[:real] for name, value in batch_of(batches, step).items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([value for _, value in named], 1.0)
        # This project's AdamW, like the recipe's, adds epsilon before the second moment's bias correction, PyTorch's
        # after it; with this value the two are the same formula.
        for group in optimizer.param_groups:
            group["eps"] = 1e-6 / (1 - 0.999 ** (step + 1)) ** 0.5
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        print(f"PyTorch step {step + 1}/{count}  loss {losses[-1]:.4f}", file=sys.stderr)
    return losses


class Pretraining(torch.nn.Module):
    """ELECTRA of transformers' own modules: generator and discriminator with the same embeddings, and their losses.

    The generator's head gets the masked positions alone, as in this project; ElectraForMaskedLM would compute the
    vocabulary's logits at all positions.
    """

    def __init__(self, settings):
        super().__init__()
        self.masked = settings["masked"]
        self.generator = transformers.ElectraForMaskedLM(transformers.ElectraConfig(**settings["generator"]))
        self.discriminator = transformers.ElectraForPreTraining(transformers.ElectraConfig(**settings["encoder"]))
        self.discriminator.electra.embeddings = self.generator.electra.embeddings
        self.generator.tie_weights()

    def forward(self, input_ids):
        batch, length = input_ids.shape
        mask = torch.ones_like(input_ids)
        positions = torch.rand(batch, length, device=input_ids.device).topk(self.masked).indices
        original = input_ids.gather(1, positions)
        hidden = self.generator.electra(input_ids.scatter(1, positions, 4), attention_mask=mask).last_hidden_state
        at_masked = hidden.gather(1, positions[:, :, None].expand(-1, -1, hidden.shape[-1]))
        logits = self.generator.generator_lm_head(self.generator.generator_predictions(at_masked)).float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), original.flatten())
        noise = -torch.log(-torch.log(torch.rand_like(logits).clamp_(1e-9, 1 - 1e-7)))  # Gumbel
        corrupted = input_ids.scatter(1, positions, (logits.detach() + noise).argmax(-1))
        labels = (corrupted != input_ids).float()
        found = self.discriminator(corrupted, attention_mask=mask).logits.float()
        return loss + 50 * torch.nn.functional.binary_cross_entropy_with_logits(found, labels)


def make_work(settings):
    """The model, and a function that makes the arguments of a batch. All sequences are full: padding costs the same."""
    torch.manual_seed(1)
    device, length = settings["device"], settings["length"]

    def ids(batch):
        return torch.randint(5, settings["encoder"]["vocab_size"], (batch, length), device=device)

    if settings["task"] == "pretraining":
        return Pretraining(settings).to(device), lambda batch: {"input_ids": ids(batch)}
    model = transformers.ElectraForQuestionAnswering(transformers.ElectraConfig(**settings["encoder"])).to(device)

    def arguments(batch):
        positions = torch.randint(0, length, (batch,), device=device)
        mask = torch.ones(batch, length, dtype=torch.long, device=device)
        return {"input_ids": ids(batch), "attention_mask": mask, "token_type_ids": torch.zeros_like(mask),
                "start_positions": positions, "end_positions": positions}

    return model, arguments


def memory(device) -> float:
    """Peak memory in bytes."""
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def benchmark(folder):
    """Does what each line of standard input says, `train UPDATES` or `infer BATCHES`, and writes a line of JSON."""
    with open(os.path.join(folder, "settings.json"), encoding="utf-8") as file:
        settings = json.load(file)
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    torch.backends.cuda.matmul.allow_tf32 = settings["tf32"]
    device, accumulation = settings["device"], settings["accumulation"]
    model, arguments = make_work(settings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def loss_of(batch):
        with torch.autocast(device, torch.bfloat16, enabled=settings["bf16"]):
            output = model(**arguments(batch))
        return getattr(output, "loss", output)

    def train(updates):
        model.train()
        for _ in range(updates):
            for _ in range(accumulation):
                (loss_of(settings["train_batch_size"]) / accumulation).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return updates * accumulation * settings["train_batch_size"]

    def infer(batches):
        model.eval()
        with torch.inference_mode():
            for _ in range(batches):
                loss_of(settings["predict_batch_size"])
        return batches * settings["predict_batch_size"]

    for line in sys.stdin:
        way, count = line.split()
        started, cpu = time.monotonic(), time.process_time()
        sequences = {"train": train, "infer": infer}[way](int(count))
        if device == "cuda":
            torch.cuda.synchronize()
        print(json.dumps({"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu,
                          "sequences": sequences, "memory": memory(device),
                          "versions": {"torch": torch.__version__, "transformers": transformers.__version__}}),
              flush=True)


if __name__ == "__main__":
    {"make": make, "check": check, "encode": encode, "squad": squad, "task": task,
     "benchmark": benchmark}[sys.argv[1]](sys.argv[2])
