"""The other side of scripts/check_objective.py: ELECTRA's training step in PyTorch, written from the papers.

    python tests/objective_peer.py FOLDER

Encoder: Devlin et al. 2019 and Vaswani et al. 2017. Objective: Clark et al. 2020, section 2 (joint loss of generator
and discriminator, embeddings shared). LAMB: You et al. 2020, algorithm 2; AdamW: Loshchilov & Hutter 2019, algorithm 2.
Neither a module of transformers nor an optimizer of PyTorch is used, and nothing of this project is imported: gradients
are those of autograd.

FOLDER holds settings.json, weights.npz (initial values by name) and update_<N>.npz (a batch, its masks and the tokens
sampled from the generator). Writes losses.npz, with the losses and gradient norms of all updates, and gradients_<N>.npz
and weights_<N>.npz for the updates in `compared`.
"""
import json
import math
import os
import sys

import numpy as np
import torch


def linear(weights, name, x):
    return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]


def norm(weights, name, x, epsilon):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt((centred ** 2).mean(-1, keepdim=True) + epsilon)
    return scaled * weights[f"{name}/LayerNorm/gamma"] + weights[f"{name}/LayerNorm/beta"]


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def embedded(weights, ids, segments, epsilon):
    table = "electra/embeddings/"
    x = (weights[table + "word_embeddings"][ids] + weights[table + "token_type_embeddings"][segments]
         + weights[table + "position_embeddings"][:ids.shape[1]])
    return norm(weights, "electra/embeddings", x, epsilon)


def encode(weights, scope, config, x, mask):
    """Hidden states [B, L, D] of an encoder without dropout."""
    epsilon, heads = config["layer_norm_eps"], config["num_attention_heads"]
    if f"{scope}/embeddings_project/kernel" in weights:
        x = linear(weights, f"{scope}/embeddings_project", x)
    for number in range(config["num_hidden_layers"]):
        layer = f"{scope}/encoder/layer_{number}"

        def split(name, x=x, layer=layer):
            return linear(weights, f"{layer}/attention/self/{name}", x).unflatten(-1, (heads, -1)).transpose(1, 2)

        query, key, value = split("query"), split("key"), split("value")
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        scores = scores.masked_fill(mask[:, None, None, :] == 0, -math.inf)
        context = (torch.softmax(scores, -1) @ value).transpose(1, 2).flatten(2)
        x = norm(weights, f"{layer}/attention/output",
                 x + linear(weights, f"{layer}/attention/output/dense", context), epsilon)
        inner = gelu(linear(weights, f"{layer}/intermediate/dense", x))
        x = norm(weights, f"{layer}/output", x + linear(weights, f"{layer}/output/dense", inner), epsilon)
    return x


def losses(weights, settings, batch):
    """The generator's mean loss at the masked positions, and the discriminator's over all tokens."""
    encoder, generator = settings["encoder"], settings["generator"]
    ids, mask, segments = batch["input_ids"], batch["input_mask"], batch["segment_ids"]
    hidden = encode(weights, "generator", generator,
                    embedded(weights, batch["masked_ids"], segments, generator["layer_norm_eps"]), mask)
    rows, columns = torch.nonzero(batch["masked_at"], as_tuple=True)
    inner = gelu(linear(weights, "generator_predictions/dense", hidden[rows, columns]))
    inner = norm(weights, "generator_predictions", inner, generator["layer_norm_eps"])
    logits = inner @ weights["electra/embeddings/word_embeddings"].T + weights["generator_predictions/output_bias"]
    log_probs = torch.log_softmax(logits[:, :encoder["vocab_size"]], -1)
    generator_loss = -log_probs[torch.arange(len(rows)), ids[rows, columns]].mean()

    corrupted = batch["corrupted_ids"]
    replaced = (corrupted != ids).float()
    corrupted_embeddings = embedded(weights, corrupted, segments, encoder["layer_norm_eps"])
    hidden = encode(weights, "electra", encoder, corrupted_embeddings, mask)
    score = linear(weights, "discriminator_predictions/dense_1",
                   gelu(linear(weights, "discriminator_predictions/dense", hidden)))[..., 0]
    probability = torch.sigmoid(score.double())
    each = -(replaced * torch.log(probability) + (1 - replaced) * torch.log1p(-probability))
    return generator_loss, (each * mask).sum().float() / mask.sum()


class Optimizer:
    """LAMB or AdamW with decoupled weight decay, which biases and layer norms are exempt from (from LAMB's trust ratio
    as well)."""

    def __init__(self, weights, settings):
        self.weights, self.settings = weights, settings
        self.first = {name: torch.zeros_like(value) for name, value in weights.items()}
        self.second = {name: torch.zeros_like(value) for name, value in weights.items()}

    def rate(self, step):
        """Linear warm-up, then polynomial decay from its end on. `step` counts from 0."""
        peak, warmup, total, power = (self.settings[name] for name in ("peak", "warmup", "total", "power"))
        return peak * step / warmup if step < warmup else peak * (1 - (step - warmup) / (total - warmup)) ** power

    def update(self, step, gradients):
        beta_1, beta_2, epsilon = (self.settings[name] for name in ("beta_1", "beta_2", "epsilon"))
        total = math.sqrt(sum(float((gradient.double() ** 2).sum()) for gradient in gradients.values()))
        scale = min(1.0, self.settings["clip_norm"] / total)
        for name, value in self.weights.items():
            exempt = name.rsplit("/", 1)[1] in ("bias", "output_bias", "gamma", "beta")
            gradient, first, second = gradients[name] * scale, self.first[name], self.second[name]
            first.mul_(beta_1).add_(gradient, alpha=1 - beta_1)
            second.mul_(beta_2).add_(gradient ** 2, alpha=1 - beta_2)
            t = step + 1
            if self.settings["name"] == "lamb":
                direction = first / (1 - beta_1 ** t) / (torch.sqrt(second / (1 - beta_2 ** t)) + epsilon)
            else:  # "epsilon hat" of Kingma & Ba 2015, section 2
                direction = first / (torch.sqrt(second) + epsilon) * (math.sqrt(1 - beta_2 ** t) / (1 - beta_1 ** t))
            if not exempt:
                direction = direction + self.settings["weight_decay_rate"] * value
                if self.settings["name"] == "lamb" and value.norm() > 0 and direction.norm() > 0:
                    direction = direction * (value.norm() / direction.norm())
            value.data -= self.rate(step) * direction
        return total


def main(folder):
    with open(os.path.join(folder, "settings.json"), encoding="utf-8") as file:
        settings = json.load(file)
    with np.load(os.path.join(folder, "weights.npz")) as stored:
        weights = {name: torch.nn.Parameter(torch.tensor(stored[name])) for name in stored.files}
    optimizer = Optimizer(weights, settings["optimizer"])
    rows = []
    for update in range(1, settings["updates"] + 1):
        with np.load(os.path.join(folder, f"update_{update}.npz")) as stored:
            batch = {name: torch.tensor(stored[name].astype(np.int64)) for name in stored.files}
        generator_loss, discriminator_loss = losses(weights, settings, batch)
        loss = generator_loss + settings["disc_weight"] * discriminator_loss
        found = torch.autograd.grad(loss, list(weights.values()))
        gradients = dict(zip(weights, found))
        if update in settings["compared"]:
            np.savez(os.path.join(folder, f"gradients_{update}.npz"),
                     **{name: value.numpy() for name, value in gradients.items()})
        with torch.no_grad():
            total = optimizer.update(update - 1, gradients)
        if update in settings["compared"]:
            np.savez(os.path.join(folder, f"weights_{update}.npz"),
                     **{name: value.detach().numpy() for name, value in weights.items()})
        rows.append((generator_loss.item(), discriminator_loss.item(), total))
        if update % 20 == 0:
            print(f"PyTorch, update {update}: generator {rows[-1][0]:.4f}, discriminator {rows[-1][1]:.4f}", flush=True)
    np.savez(os.path.join(folder, "losses.npz"), rows=np.array(rows))


if __name__ == "__main__":
    main(sys.argv[1])
