"""scripts/benchmark.py: what a benchmark measures and writes, with a very small model. No time is asserted."""
from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from support import write_executable

import flops
import pretrain_utils
import squad_utils
from configuration import RunFailed
from scripts import benchmark

MODEL = json.dumps({"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2,
                    "embedding_size": 32})

# In place of PyTorch: every turn takes 2 s.
PEER = """#!/usr/bin/env python3
import json, sys
settings = json.load(open(sys.argv[3] + "/settings.json"))
for line in sys.stdin:
    way, count = line.split()
    size = settings["train_batch_size"] * settings["accumulation"] if way == "train" else settings["predict_batch_size"]
    print(json.dumps({"seconds": 2.0, "cpu_seconds": 3.0, "sequences": int(count) * size, "memory": 1e9,
                      "versions": {"torch": "x"}}),
          flush=True)
"""


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Runs a benchmark. Returns: its configuration, the content of the JSON file, and what it printed."""
    import check_weights
    monkeypatch.setattr(check_weights, "peer_python", lambda *_: write_executable(tmp_path / "python", PEER))

    def call(**changes):
        settings = dict(model_size="tiny", model_config=MODEL, train_batch_size=2, gradient_accumulation_steps=1,
                        max_seq_length=32, updates=2, warmup_updates=1, repeats=3, ceiling_seconds=0.001,
                        out_dir=str(tmp_path / "out"))
        config = benchmark.BenchmarkConfig(**{**settings, **changes})
        words = [f"--{name}={value}" for name, value in dataclasses.asdict(config).items() if value is not None]
        benchmark.main(["benchmark.py", *words])
        file, = (path for path in (tmp_path / "out").iterdir() if path.suffix == ".json")
        assert str(file) == config.json_file and not list((tmp_path / "out").glob("*tmp*"))
        return config, json.loads(file.read_text()), capsys.readouterr().out

    return call


def check_results(found, printed, sequence_flops):
    """Every result is the median of its turns, and a share of the fastest product."""
    assert found["ceiling_flops_per_second"] == max(found["products_flops_per_second"].values())
    assert set(found["products_flops_per_second"]) == {"attention", "feed_forward_in", "feed_forward_out", "large"}
    assert found["first_update_seconds"] > 0 and found["peak_memory_bytes"] > 1e8
    for name, result in found["results"].items():
        assert len(result["turns"]) == 3
        assert result["cpu_seconds_per_sequence"] > 0
        rates = [turn["sequences"] / turn["seconds"] for turn in result["turns"]]
        assert result["sequences_per_second"] == pytest.approx(sorted(rates)[1])
        for turn in result["turns"]:
            assert turn["flops"] == pytest.approx(turn["sequences"] * sequence_flops[name])
        assert result["share_of_ceiling"] == pytest.approx(
            result["model_flops_per_second"] / found["ceiling_flops_per_second"])
        assert result["share_of_ceiling_by_cpu_time"] > 0 and f"{benchmark.LABELS[name]} " in printed
    assert "ceiling: " in printed and "first update" in printed


def test_pretraining_is_measured_beside_the_peer(run):
    config, found, printed = run(gradient_accumulation_steps=3, against="hf")
    program, encoder = config.program(), config.encoder()
    assert list(found["results"]) == ["training", "training_hf", "inference", "inference_hf"]
    sizes = {name: flops.of_pretraining(program, encoder, training=name.startswith("training"))
             for name in found["results"]}
    check_results(found, printed, sizes)
    for name in ("training", "inference"):
        ours, theirs = (found["results"][name + side]["turns"] for side in ("", "_hf"))
        assert {turn["sequences"] for turn in [*ours, *theirs]} == {12} and {turn["seconds"] for turn in theirs} == {2}
        assert all(0.8 * 32 < turn["tokens"] / turn["sequences"] <= 32 for turn in ours)
    assert all(rate > 0 for rate in found["input_records_per_second"].values()) and "32 workers" in printed
    assert found["config"]["against"] == "hf" and found["peer"]["versions"] == {"torch": "x"}


def test_squad_is_measured_over_the_same_windows_in_each_turn(run):
    config, found, printed = run(task="squad", length_buckets="32", train_batch_size=4, predict_batch_size=8)
    program, encoder = config.program(), config.encoder()
    check_results(found, printed, {name: flops.of_squad(program, encoder, 32, training=name == "training")
                                   for name in ("training", "inference")})
    assert list(found["results"]) == ["training", "inference"] and "peer" not in found
    for name, sequences in (("training", 8), ("inference", 160)):
        assert {turn["sequences"] for turn in found["results"][name]["turns"]} == {sequences}
        assert len({turn["tokens"] for turn in found["results"][name]["turns"]}) == 1


def test_a_peer_that_ends_is_said(run, tmp_path, monkeypatch):
    import check_weights
    ended = write_executable(tmp_path / "ended", "#!/usr/bin/env bash\nexit 1\n")
    monkeypatch.setattr(check_weights, "peer_python", lambda *_: ended)
    with pytest.raises(RunFailed, match="--against=hf"):
        run(task="squad", against="hf")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("changes, words", [
    (dict(out_dir=__file__), ["--out_dir", __file__]),
    (dict(model_size="large", train_batch_size=100_000), ["--train_batch_size=100000", "--force"]),
    (dict(task="squad", model_size="large", predict_batch_size=100_000), ["--predict_batch_size=100000", "--force"])])
def test_what_cannot_be_measured_is_refused_before_tensorflow_is_imported(refuses, changes, words):
    said = refuses(benchmark.check, benchmark.BenchmarkConfig(**changes))
    assert all(word in said for word in words)


# --- Data ---


def test_windows_have_the_lengths_of_squad(tmp_path):
    tokenizer = benchmark.write_vocabulary(str(tmp_path))
    benchmark.write_questions(str(tmp_path / "q.json"), 400, 384)
    examples = squad_utils.read_squad(str(tmp_path / "q.json"), version_2=False)
    features = squad_utils.build_features(examples, tokenizer, 384)
    assert len(features.lengths) == 400 and features.is_impossible.sum() == 0
    np.testing.assert_allclose(np.percentile(features.lengths, benchmark.PERCENTILES), benchmark.WINDOW_LENGTHS, atol=8)
    benchmark.write_questions(str(tmp_path / "q.json"), 50, 32)
    short = squad_utils.build_features(squad_utils.read_squad(str(tmp_path / "q.json"), version_2=False), tokenizer, 32,
                                       15, 8)
    assert len(short.lengths) == 50 and short.lengths.max() == 32


def test_records_are_full_but_for_one_in_twenty(tmp_path):
    tokenizer = benchmark.write_vocabulary(str(tmp_path))
    benchmark.write_records(str(tmp_path), 64, 500, tokenizer)
    config = benchmark.BenchmarkConfig(max_seq_length=64).program(str(tmp_path))
    data = pretrain_utils.open_data([str(tmp_path / "train.tfrecord")], config, tokenizer)
    stream = pretrain_utils.micro_batches(data.order, data.record_format, 500)
    features = next(stream)
    stream.close()
    lengths = features["input_mask"].sum(axis=1)
    assert lengths.max() == 64 and 5 <= lengths.min() and 0.02 < (lengths < 64).mean() < 0.08
    assert features["segment_ids"].sum() > 0 and features["input_ids"].max() < tokenizer.vocab_size


def test_results_of_several_settings_are_drawn_and_nothing_is_measured(tmp_path, refuses):
    out = tmp_path / "out"
    config = benchmark.BenchmarkConfig(out_dir=str(out), plot=str(tmp_path / "cost.png"))
    assert "run the benchmark first" in refuses(benchmark.draw, config)
    out.mkdir()
    for changes in ({}, {"train_batch_size": 32}, {"max_seq_length": 512}, {"model_size": "tiny"},
                    {"precision": "bf16"}):
        found = dataclasses.replace(config, plot=None, **changes)
        (out / found.json_file.rpartition("/")[2]).write_text(json.dumps({
            "config": dataclasses.asdict(found), "peak_memory_bytes": 4e9,
            "results": {"training": {"share_of_ceiling_by_cpu_time": 0.7}}}))
    assert len(list(out.iterdir())) == 5  # results of different settings do not replace each other
    benchmark.main(["benchmark.py", f"--out_dir={out}", f"--plot={config.plot}"])
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
