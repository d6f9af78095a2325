#!/usr/bin/env python3
"""Measures how fast training and inference are on this machine, and how close to its limit.

    bash scripts/benchmark_pretraining.sh cpu bf16 base 8
    bash scripts/benchmark_squad.sh gpu bf16 base 32 --against=hf
    python scripts/benchmark.py --task=squad --model_size=small --out_dir=results/benchmark

In one run, in turns: the rate of the largest matrix products that the library reaches in this precision (the ceiling),
updates of training, and inference. Input is read and masked as in a real run, from generated data with the lengths of
real data. A rate is all sequences over all seconds of a turn, waiting for input included; the result is the median of
the turns. Tracing and compiling come before the first turn and count only for the time to the first update.
--against=hf does the same work with Hugging Face transformers on PyTorch (tests/transformers_peer.py), in a process and
an environment of its own, in turns with this project.

Prints a table and writes <out_dir>/<task>_<model_size>_<device>_<precision>_<batch>x<length>.json. docs/performance.md
explains both. --plot=FILE draws what these files hold.
"""
from __future__ import annotations

import collections
import contextlib
import dataclasses
import glob
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

LOADED = time.monotonic()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]

from benchmark_recipe import BenchmarkConfig  # noqa: E402  (found through the line above, like the rest)

import command_line  # noqa: E402
import configuration  # noqa: E402
import curves  # noqa: E402
import electra_config  # noqa: E402
import preflight  # noqa: E402
from configuration import RunFailed, UserError, check_folder  # noqa: E402
from electra_config import ElectraConfig  # noqa: E402
from squad_options import SquadConfig  # noqa: E402


def check(config: BenchmarkConfig):
    """Raises UserError: the folder cannot be written, or an update needs more memory than is free."""
    check_folder(config.out_dir, "out_dir")
    program, encoder = config.program(), config.encoder()
    if isinstance(program, SquadConfig):
        preflight.check_fine_tuning_memory(program, encoder)
    else:
        preflight.check_memory(program, preflight.pretraining_bytes(program, encoder), "train_batch_size")


if __name__ == "__main__":  # an invalid call is refused at once, not after the seconds that the other imports take
    command_line.refuse_early(BenchmarkConfig, __doc__, check=check)

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import batching  # noqa: E402
import build_pretraining_dataset  # noqa: E402
import devices  # noqa: E402
import estimate  # noqa: E402
import files  # noqa: E402
import fine_tuning  # noqa: E402
import flops  # noqa: E402
import modeling  # noqa: E402
import optimization  # noqa: E402
import pretrain_utils  # noqa: E402
import run_log  # noqa: E402
import run_pretraining  # noqa: E402
import run_tf_squad  # noqa: E402
import squad_utils  # noqa: E402
import tokenization  # noqa: E402
import training  # noqa: E402
from workers import ALONE  # noqa: E402

# --- Data ---

# Lengths of the windows of 851 questions of SQuAD 1.1 (XQuAD's English part, max_seq_length 384, doc_stride 128), in
# tokens, at these percentiles.
PERCENTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)
WINDOW_LENGTHS = (43, 48, 86, 107, 133, 169, 236, 291, 377, 384, 384)
QUESTION_LENGTH = 12


def write_vocabulary(folder: str) -> tokenization.ElectraTokenizer:
    """A vocabulary of BERT's size, whose words are one token each."""
    path = os.path.join(folder, "vocab.txt")
    words = [f"w{number}" for number in range(ElectraConfig.vocab_size - len(tokenization.SPECIAL_TOKENS))]
    files.write_text(path, "\n".join([*tokenization.SPECIAL_TOKENS, *words]) + "\n")
    return tokenization.ElectraTokenizer(path)


def write_records(folder: str, length: int, count: int, tokenizer: tokenization.ElectraTokenizer):
    """Pre-training records with the lengths that build_pretraining_dataset.py makes: most are full, one in twenty is of
    any length."""
    rng = np.random.default_rng(1)
    ids = rng.integers(len(tokenization.SPECIAL_TOKENS), tokenizer.vocab_size, 16 * length).astype(np.int32)
    text = np.where(rng.random(count) < 0.05, rng.integers(5, length + 1, count), length) - 3  # without special tokens
    first = np.maximum(1, text // 2)
    examples = np.stack([rng.integers(0, 8 * length, count), first, rng.integers(8 * length, 15 * length, count),
                         text - first], axis=1)
    with open(os.path.join(folder, "train.tfrecord"), "wb") as file:
        file.writelines(build_pretraining_dataset.encode_records(ids, examples, length, tokenizer))


def write_questions(path: str, count: int, max_seq_length: int):
    """A SQuAD 1.1 file of `count` questions with one window each, whose lengths are those of WINDOW_LENGTHS."""
    rng = np.random.default_rng(1)
    lengths = np.interp((np.arange(count) + 0.5) / count * 100, PERCENTILES, WINDOW_LENGTHS).astype(int)
    question = " ".join(f"w{number}" for number in range(min(QUESTION_LENGTH, max_seq_length // 4)))
    paragraphs = []
    for number, length in enumerate(rng.permutation(np.minimum(lengths, max_seq_length))):
        words = [f"w{word}" for word in rng.integers(1000, 30000, length - 3 - question.count(" ") - 1)]
        place = int(rng.integers(len(words)))
        answer = {"text": words[place], "answer_start": len(" ".join(words[:place])) + (place > 0)}
        paragraphs.append({"context": " ".join(words), "qas": [
            {"id": f"q{number}", "question": question, "answers": [answer]}]})
    files.write_json(path, {"version": "1.1", "data": [{"title": "benchmark", "paragraphs": paragraphs}]})


# --- What is measured ---


class Turn(NamedTuple):
    """Work that was done in one turn."""

    seconds: float
    sequences: float
    tokens: float  # without padding
    flops: float
    cpu_seconds: float  # of all threads, for machines that do other work too

    def rates(self) -> Dict[str, float]:
        found = run_log.rates((0.0,) * 5, (self.seconds, 1.0, self.sequences, self.tokens, self.flops))
        del found["updates_per_second"]
        return {**found, "cpu_seconds_per_sequence": self.cpu_seconds / self.sequences}


class Work:
    """One side of a benchmark of this project: training turn by turn, and inference.

    Subclasses define `input_of`, a function step -> micro-batches; `turn_begins`; `flops_of`, of a micro-batch in
    training; `tokens_of`; and `infer`.
    """

    def __init__(self, config: BenchmarkConfig, model, optimizer, device: devices.Device):
        self.config, self.model, self._step = config, model, 0
        self.train_step = optimization.TrainStep(
            model.loss, model.metric_names, optimizer, config.gradient_accumulation_steps,
            jit_compile=device.jit_compile)

    def turn_begins(self):
        pass

    def update(self) -> float:
        """One update, which the device may not have finished yet. Returns: its FLOPs."""
        self._step += 1
        total = []

        def counted():
            for features, seeds in self.input_of(self._step):
                total.append(self.flops_of(features))
                yield features, seeds

        self.train_step(counted())
        return sum(total)

    def train(self, updates: int) -> Turn:
        self.turn_begins()
        started, cpu = time.monotonic(), time.process_time()
        done = sum(self.update() for _ in range(updates))
        sums = self.train_step.read_metrics()  # waits for the device
        seconds = time.monotonic() - started
        if sums["bad_step"]:
            raise RunFailed(f"the loss is not finite at update {sums['bad_step']} of the benchmark.")
        sequences = sums.get("examples", updates * self.config.train_batch_size
                             * self.config.gradient_accumulation_steps)
        return Turn(seconds, sequences, sums["tokens"], done, time.process_time() - cpu)


class Pretraining(Work):
    """Updates of run_pretraining.py, and its held-out evaluation as inference."""

    def __init__(self, config: BenchmarkConfig, device: devices.Device, folder: str):
        tokenizer, self.program = write_vocabulary(folder), config.program(folder)
        self.tokenizer = tokenizer
        micro_batches = config.updates * config.gradient_accumulation_steps
        write_records(folder, config.max_seq_length, config.train_batch_size * max(8, micro_batches), tokenizer)
        self.written = time.monotonic()
        setup = run_pretraining.prepare(self.program, device)
        super().__init__(config, setup.model, setup.optimizer, device)
        self.input_of, self._evaluate = run_pretraining.input_of(self.program, setup, ALONE), setup.evaluate
        self._sequence = [flops.of_pretraining(self.program, setup.model.config, training=way) for way in (False, True)]
        batches, size = pretrain_utils.held_out_batches(self.program, setup.data)
        stream = pretrain_utils.micro_batches(setup.data.order, setup.data.record_format, size)
        masks = [next(stream)["input_mask"] for _ in range(batches)]
        self._held_out = batches * size, float(np.sum(masks))
        self.features = masks

    def warm_up(self):
        self.infer()

    def flops_of(self, features) -> float:
        return self._sequence[True] * features["input_ids"].shape[0]

    def infer(self) -> Turn:
        started, cpu = time.monotonic(), time.process_time()
        self._evaluate()
        sequences, tokens = self._held_out
        return Turn(time.monotonic() - started, sequences, tokens, sequences * self._sequence[False],
                    time.process_time() - cpu)


class Squad(Work):
    """Updates of run_tf_squad.py over one epoch in each turn, and its predictions for at least PREDICTED batches, with
    the batch lengths of a large prediction."""

    PREDICTED = 20

    def __init__(self, config: BenchmarkConfig, device: devices.Device, folder: str):
        tokenizer, self.program = write_vocabulary(folder), config.program(folder).fitted(1)
        batch_size = config.train_batch_size * config.gradient_accumulation_steps
        write_questions(self.program.data_file("train"), config.updates * batch_size, config.max_seq_length)
        write_questions(self.program.data_file("dev"), max(config.updates * batch_size, self.PREDICTED
                                                           * config.predict_batch_size), config.max_seq_length)
        self.written = time.monotonic()
        self.features, self._asked = (run_tf_squad.read_split(self.program, name, tokenizer).features
                                      for name in ("train", "dev"))
        encoder = config.encoder()
        model = modeling.QuestionAnswering(encoder, self.program.joint_head, self.program.version_2_with_negative,
                                           compute_dtype=device.compute_dtype)
        optimizer = fine_tuning.make_optimizer(self.program, model, 1_000_000)
        super().__init__(config, model, optimizer, device)
        self._setup = fine_tuning.Setup(None, 1, model, optimizer, self._epoch(), 0, (), 0)
        self._answers = run_tf_squad.SQUAD.predictor(model)

    def _epoch(self) -> batching.RowOrder:
        return batching.RowOrder(self.features.lengths, self.program.buckets, self.config.train_batch_size, 1)

    def turn_begins(self):
        self._setup = self._setup._replace(order=self._epoch())  # every turn has the same windows

    def input_of(self, step: int):
        return fine_tuning.input_of(run_tf_squad.SQUAD, self.program, self._setup, self.features, ALONE, step)

    def flops_of(self, features) -> float:
        return fine_tuning.flops_of(run_tf_squad.SQUAD, self.program, self.model, features)

    def warm_up(self):
        """Traces both ways for every length."""
        self.turn_begins()
        batches = self._batches(self.features, self.program.buckets, self.config.train_batch_size)
        for length in sorted({batch.length for batch in batches}):
            rows = np.flatnonzero(self.features.lengths <= length)[:self.config.train_batch_size]
            feed = squad_utils.feed(self.features, batching.Batch(length, rows), self.config.train_batch_size, True)
            seeds = tf.constant(pretrain_utils.fold_seeds([1], self.model.num_seeds))
            self.train_step([(feed, seeds)] * self.config.gradient_accumulation_steps)
        self.train_step.read_metrics()
        self.infer()

    @staticmethod
    def _batches(features: squad_utils.Features, lengths: List[int], batch_size: int) -> List[batching.Batch]:
        return batching.plan_batches(features.lengths, lengths, batch_size,
                                     np.argsort(features.lengths, kind="stable"))

    def infer(self) -> Turn:
        lengths = fine_tuning.fine_lengths(self.program)
        cpu = time.process_time()
        _, interval = fine_tuning.run_model(run_tf_squad.SQUAD, self.program, self._answers, self._asked, ALONE, None,
                                            lengths=lengths)
        cpu = time.process_time() - cpu
        batches = self._batches(self._asked, lengths, self.program.predict_batch_size)
        done = sum(flops.of_squad(self.program, self.model.config, batch.length, training=False) for batch in batches)
        count = len(self._asked.lengths)
        return Turn(count / interval.sequences_per_second, count, float(self._asked.lengths.sum()),
                    done * self.program.predict_batch_size, cpu)


# --- Input ---


def input_rates(config: BenchmarkConfig, folder: str, tokenizer: tokenization.ElectraTokenizer) -> Dict[str, float]:
    """Records/s that one worker reads, decodes and masks on the CPU and does nothing else: alone, and as one of 32
    workers, each of which skips the records of the others."""
    program = dataclasses.replace(config.program(folder), pretrain_tfrecords=os.path.join(folder, "input"))
    for shard in range(8):  # enough for windows as in a large dataset
        of_shard = os.path.join(program.pretrain_tfrecords, f"{shard}")
        os.makedirs(of_shard)
        write_records(of_shard, config.max_seq_length, 2500, tokenizer)
    shards = pretrain_utils.find_shards(os.path.join(program.pretrain_tfrecords, "*", "*"), "pretrain_tfrecords")
    data = pretrain_utils.open_data(shards, program, tokenizer)

    @tf.function(autograph=False)
    def masked(features, seeds):
        return pretrain_utils.mask_tokens(
            features["input_ids"], features["input_mask"], tokenizer.special_ids, tokenizer.mask_id, program.mask_prob,
            program.max_predictions_per_seq, seeds[0], seeds[1])

    def rate(world_size: int) -> float:
        batches = pretrain_utils.micro_batches(data.order, data.record_format, config.train_batch_size,
                                               world_size=world_size)
        with tf.device("CPU"):
            for step in itertools.count():
                masked(*run_pretraining.as_tensors(next(batches), pretrain_utils.fold_seeds([1, step], 2)))
                if step == 0:  # the first batch waits for the first window, and the graph is traced
                    started = time.monotonic()
                elif time.monotonic() > started + config.ceiling_seconds:
                    batches.close()
                    return step * config.train_batch_size / (time.monotonic() - started)

    return {"1": rate(1), "32": rate(32)}


# --- The ceiling ---


def product_shapes(config: BenchmarkConfig) -> Dict[str, Tuple[int, int, int]]:
    """[rows, inputs] x [inputs, outputs]: the largest products of the model, and one that is large in every axis."""
    encoder, rows = config.encoder(), config.train_batch_size * config.max_seq_length
    large = 8192 if config.device != "cpu" else 3072
    return {"attention": (rows, encoder.hidden_size, encoder.hidden_size),
            "feed_forward_in": (rows, encoder.hidden_size, encoder.intermediate_size),
            "feed_forward_out": (rows, encoder.intermediate_size, encoder.hidden_size),
            "large": (large, large, large)}


def product_rate(shape: Tuple[int, int, int], dtype: tf.DType, seconds: float) -> Tuple[float, float]:
    """One matrix product in TensorFlow, repeated for about `seconds`, in five parts.

    Returns: FLOP/s of the fastest part, since a ceiling is what the machine can do while nothing else disturbs it; and
        FLOPs per second of processor time of all parts together.
    """
    rows, inputs, outputs = shape
    a, b = (tf.cast(tf.random.stateless_uniform(size, seed=[1, 2]), dtype) for size in ([rows, inputs],
                                                                                       [inputs, outputs]))

    def run(count: int) -> float:
        started = time.monotonic()
        for _ in range(count):
            product = tf.matmul(a, b)
        product[0, 0].numpy()  # waits for the device
        return time.monotonic() - started

    run(1)
    count = max(1, int(seconds / 5 / max(run(1), 1e-6)))
    done, cpu = count * flops.dense(rows, inputs, outputs), time.process_time()
    fastest = min(run(count) for _ in range(5))
    return done / fastest, 5 * done / max(time.process_time() - cpu, 1e-6)


# --- The peer ---


class Peer:
    """Hugging Face transformers on PyTorch: a process that works when it is called (tests/transformers_peer.py)."""

    def __init__(self, config: BenchmarkConfig, work: Work, device: devices.Device, folder: str):
        import check_weights
        program, encoder = work.program, config.encoder()
        generator = preflight.generator_encoder(program, encoder) if config.task == "pretraining" else None
        lengths = [int(mask.sum()) for mask in work.features] if generator else work.features.lengths.tolist()
        files.write_json(os.path.join(folder, "settings.json"), {
            "task": config.task, "encoder": encoder.to_dict(), "generator": generator and generator.to_dict(),
            "masked": program.max_predictions_per_seq if generator else 0, "length": config.max_seq_length,
            "train_batch_size": config.train_batch_size, "accumulation": config.gradient_accumulation_steps,
            "predict_batch_size": config.predict_batch_size if config.task == "squad" else config.train_batch_size,
            "bf16": config.precision == "bf16", "device": "cuda" if config.device == "gpu" else "cpu",
            "tf32": config.precision == "tf32"})
        self._mean_tokens = sum(lengths) / (len(lengths) * (config.train_batch_size if generator else 1))
        if generator:
            self._sequence = [flops.of_pretraining(program, encoder, training=way) for way in (False, True)]
        else:
            head = SquadConfig(do_train=True, data_dir="x", output_dir="x", joint_head=False)
            self._sequence = [flops.of_squad(head, encoder, config.max_seq_length, way) for way in (False, True)]
        python = check_weights.peer_python("4", config.out_dir)
        # Threads that wait actively make PyTorch several times slower on a machine that does other work too.
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "TRANSFORMERS_VERBOSITY": "error"}
        self._process = subprocess.Popen(
            [python, os.path.join(os.path.dirname(HERE), "tests", "transformers_peer.py"), "benchmark", folder],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def turn(self, way: str, count: int) -> Turn:
        """`count` updates (`train`) or batches (`infer`)."""
        try:
            self._process.stdin.write(f"{way} {count}\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            raise RunFailed("--against=hf: the process of PyTorch ended; its reason is above.") from error
        sequences = answer["sequences"]
        self.memory, self.versions = answer["memory"], answer["versions"]
        return Turn(answer["seconds"], sequences, sequences * self._mean_tokens,
                    sequences * self._sequence[way == "train"], answer["cpu_seconds"])

    def close(self):
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()


# --- A benchmark ---


def process_seconds() -> float:
    """Seconds since this process was started; outside Linux since its first import."""
    return estimate.age("self") or time.monotonic() - LOADED


def peak_memory(device: devices.Device) -> Optional[float]:
    """Bytes: of the process on cpu, of the GPU on gpu; None on hpu."""
    if device.kind == "gpu":
        return float(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return float(kilobyte * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) if device.kind == "cpu" else None


def measure(config: BenchmarkConfig, device: devices.Device, folder: str) -> dict:
    """The content of the JSON file."""
    before = time.monotonic()
    work = {"pretraining": Pretraining, "squad": Squad}[config.task](config, device, folder)
    work.update()
    work.train_step.read_metrics()
    first = process_seconds() - (work.written - before)  # a real run finds its data there
    work.warm_up()
    work.train(config.warmup_updates)
    memory = peak_memory(device)
    of_input = {"input_records_per_second": input_rates(config, folder, work.tokenizer)} if isinstance(
        work, Pretraining) else {}
    peer = Peer(config, work, device, folder) if config.against == "hf" else None
    turns: Dict[str, List[Turn]] = {}
    shapes, ceiling = product_shapes(config), {}
    # On a fixed length every batch costs the same, so that fewer of them tell the rate.
    peer_updates, peer_batches = [max(1, config.updates // 4)] * 2
    if config.task == "pretraining":
        peer_updates, peer_batches = config.updates, config.updates * config.gradient_accumulation_steps

    def take(name: str, act: Callable[[], Turn]):
        turns.setdefault(name, []).append(act())
        print(f"  {name}: {turns[name][-1].rates()['sequences_per_second']:.4g} sequences/s", flush=True)

    with contextlib.ExitStack() as stack:
        if peer:
            stack.callback(peer.close)
            peer.turn("train", 1), peer.turn("infer", 1)
        for number in range(config.repeats):
            print(f"turn {number + 1} of {config.repeats}", flush=True)
            for name, shape in shapes.items():
                ceiling.setdefault(name, []).append(product_rate(shape, device.compute_dtype, config.ceiling_seconds))
            take("training", lambda: work.train(config.updates))
            if peer:
                take("training_hf", lambda: peer.turn("train", peer_updates))
            take("inference", work.infer)
            if peer:
                take("inference_hf", lambda: peer.turn("infer", peer_batches))
    return {"task": config.task, "config": dataclasses.asdict(config),
            "device": str(device), "environment": training.environment(),
            **({"peer": {"versions": peer.versions, "peak_memory_bytes": peer.memory}} if peer else {}),
            "first_update_seconds": first, "peak_memory_bytes": memory, **of_input,
            **summary(turns, ceiling, device)}


def summary(turns: Dict[str, List[Turn]], ceiling: Dict[str, List[Tuple[float, float]]], device: devices.Device
            ) -> dict:
    """Medians over the turns, and their shares of the ceiling: the fastest product of all turns.

    On cpu also the share by processor time: FLOPs per second of processor time, divided by those of the product that
    needs least.
    """
    products = {name: max(rate for rate, _ in rates) for name, rates in ceiling.items()}
    by_cpu = {name: statistics.median(rate for _, rate in rates) for name, rates in ceiling.items()}
    best, peak, results = max(products.values()), device.peak_flops, {}
    for name, taken in turns.items():
        rates = [turn.rates() for turn in taken]
        results[name] = {key: statistics.median(rate[key] for rate in rates) for key in rates[0]}
        achieved = results[name]["model_flops_per_second"]
        results[name].update(share_of_ceiling=achieved / best, turns=[turn._asdict() for turn in taken],
                             **({"model_flops_utilization": achieved / peak} if peak else {}))
        if device.kind == "cpu":
            each = statistics.median(turn.flops / max(turn.cpu_seconds, 1e-6) for turn in taken)
            results[name]["share_of_ceiling_by_cpu_time"] = each / max(by_cpu.values())
    return {"ceiling_flops_per_second": best, "products_flops_per_second": products, "peak_flops_per_second": peak,
            "results": results}


LABELS = {"training": "training", "training_hf": "training, transformers", "inference": "inference",
          "inference_hf": "inference, transformers"}


def table(found: dict) -> str:
    """What the console shows."""
    lines = [f"{'':24} {'sequences/s':>12} {'tokens/s':>10} {'model':>16} {'of the ceiling':>15} {'by CPU time':>12}"]
    for name, result in found["results"].items():
        lines.append(f"{LABELS[name]:24} {result['sequences_per_second']:12.4g} {result['tokens_per_second']:10.0f} "
                     f"{flops.in_words(result['model_flops_per_second']):>16} {result['share_of_ceiling']:15.0%}"
                     + (f" {result['share_of_ceiling_by_cpu_time']:12.0%}"
                        if "share_of_ceiling_by_cpu_time" in result else ""))
    products = ", ".join(f"{name.replace('_', ' ')} {flops.in_words(rate)}"
                         for name, rate in found["products_flops_per_second"].items())
    best = flops.in_words(found["ceiling_flops_per_second"])
    lines += ["", f"ceiling: {best}, the fastest of these matrix products:", f"  {products}"]
    if found["peak_flops_per_second"]:
        lines.append(f"peak by the data sheet: {flops.in_words(found['peak_flops_per_second'])}")
    if "input_records_per_second" in found:
        training = found["results"]["training"]["sequences_per_second"]
        rates = [f"{rate:,.0f} sequences/s {who} ({rate / training:,.0f} times training)" for rate, who in zip(
            found["input_records_per_second"].values(), ("by one worker", "by one of 32 workers"))]
        lines.append(f"input, read and masked: {', '.join(rates)}")
    memory = found["peak_memory_bytes"]
    lines.append(f"the first update was done {found['first_update_seconds']:.1f} s after the start"
                 + (f"; peak memory {memory / 1e9:.2f} GB" if memory else ""))
    return "\n".join(lines)


# --- The plot ---


def settings_of(found: dict) -> Dict[str, object]:
    config = found["config"]
    return {"batch size": config["train_batch_size"], "sequence length": config["max_seq_length"],
            "model": config["model_size"]}


def draw(config: BenchmarkConfig):
    """Training in all JSON files of the task: one column for each setting that varies while the others stay the same.

    Raises: UserError: there are no files to draw. OSError: see `curves.saved_figure`.
    """
    results = []
    for path in sorted(glob.glob(os.path.join(glob.escape(config.out_dir), f"{config.task}_*.json"))):
        with open(path, encoding="utf-8") as file:
            results.append(configuration.parse_json_object(file.read(), path))
    if not results:
        raise UserError(f"--out_dir={config.out_dir} has no results of {config.task} to draw: run the benchmark first.")
    common = {name: collections.Counter(settings_of(found)[name] for found in results).most_common(1)[0][0]
              for name in settings_of(results[0])}
    share = "share_of_ceiling_by_cpu_time" if config.device == "cpu" else "share_of_ceiling"
    rows = ((lambda found: found["results"]["training"].get(share), "share of the ceiling"),
            (lambda found: found["peak_memory_bytes"] and found["peak_memory_bytes"] / 1e9, "peak memory, GB"))
    with curves.saved_figure(config.plot, figsize=(11, 6)) as figure:
        axes = figure.subplots(len(rows), len(common), sharey="row", squeeze=False)
        for column, name in enumerate(common):
            others = ", ".join(f"{other} {value}" for other, value in common.items() if other != name)
            axes[0, column].set_title(others, fontsize=9)
            for row, (value_of, label) in enumerate(rows):
                draw_panel(axes[row, column], results, name, common, value_of)
                axes[row, column].set(xlabel=name, **({} if column else {"ylabel": label}))
        for first in axes[:, 0]:
            first.set_ylim(bottom=0)  # of the whole row, once all of it is drawn
        axes[0, 0].legend()


def draw_panel(axis, results: List[dict], name: str, common: Dict[str, object], value_of: Callable):
    """A line for each precision, over the values of a setting, at equal distances."""
    seen = [found for found in results if all(settings_of(found)[other] == value for other, value in common.items()
                                              if other != name) and value_of(found) is not None]
    order = list(electra_config.SIZES) if name == "model" else []
    places = sorted({settings_of(found)[name] for found in seen},
                    key=lambda value: order.index(value) if value in order else value)
    for precision in sorted({found["config"]["precision"] for found in seen}):
        points = sorted((places.index(settings_of(found)[name]), value_of(found)) for found in seen
                        if found["config"]["precision"] == precision)
        axis.plot(*zip(*points), marker="o", label=precision)
    axis.set_xticks(range(len(places)), [str(place) for place in places])
    axis.grid(alpha=0.3)


def main(argv):
    config = command_line.parse(BenchmarkConfig, argv, __doc__)
    if config.plot:
        draw(config)
        print(f"written: {config.plot}")
        return
    check(config)
    device = devices.open_device(config.device, config.precision, config.xla, config.bf16_config_path)
    os.makedirs(config.out_dir, exist_ok=True)
    with config.sole_user():
        with tempfile.TemporaryDirectory(prefix=f"electra.tmp-{files.HOST}-{os.getpid()}-") as folder:
            found = measure(config, device, folder)
        files.write_json(config.json_file, found)
    print(f"\n{table(found)}\nwritten: {config.json_file}")


if __name__ == "__main__":
    command_line.run_command(main)
