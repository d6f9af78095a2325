"""weights: golden models of transformers, NVIDIA's recipe and google-research/electra; round trips; refusals."""
from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import h5py
import languages
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

import modeling
import weights
from electra_config import ElectraConfig
from tokenization import ElectraTokenizer

DATA = pathlib.Path(__file__).parent / "data"
TINY = DATA / "transformers_tiny"
CONFIG = ElectraConfig(vocab_size=41, embedding_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                       intermediate_size=24, max_position_embeddings=20)
ROUNDING = dict(rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def tokenizer(vocab_file):
    return ElectraTokenizer(vocab_file)


def make_model(seed=0, config=CONFIG, **changes):
    objective = modeling.Objective(special_ids=(0, 1, 2, 3, 4), mask_id=4, mask_prob=0.15, max_predictions_per_seq=3,
                                   **{"generator_fraction": 0.5, **changes})
    return modeling.PretrainingModel(config, objective, seed=seed)


def network(config, kind, scope="electra", seed=0):
    make = modeling.VariableMaker(seed, 0.02)
    head = {"discriminator": modeling.DiscriminatorHead, "generator": modeling.GeneratorHead}[kind]
    return modeling.Network(modeling.Embeddings(config, "electra/embeddings", make),
                            modeling.Encoder(config, scope, make, tf.float32), head(config, make, tf.float32))


def values(module):
    return {variable.name.split(":")[0]: variable.numpy() for variable in module.trainable_variables}


def golden_inputs(path):
    file = np.load(path)
    prefix = "in/" if "in/input_ids" in file.files else ""
    return [tf.constant(file[prefix + name], tf.int32) for name in ("input_ids", "attention_mask", "token_type_ids")]


def some_vocabulary(tmp_path, size) -> ElectraTokenizer:
    path = tmp_path / f"vocab-{size}.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(size - 5))]))
    return ElectraTokenizer(str(path))


def test_the_log_names_parts_of_the_network_and_other_tensors_by_name():
    head = ["start_logits/start_logit_pooler_dense/kernel", "end_logits/end_logit_pooler_dense_0/bias",
            "answer_class/pooler_answer_class_dense_0/kernel"]
    said = weights._parts([*head, "generator_predictions/output_bias", "generator/encoder/layer_0/output/dense/bias",
                           "generator/embeddings/LayerNorm/beta", *"abcdef"])
    assert said == ("the question-answering head (3 tensors), the generator's prediction head (1 tensor), the "
                    "generator's encoder (1 tensor), the generator's embeddings (1 tensor), a, b, c, d, 2 more")
    rows = {row.name: weights._parts([row.name]) for row in weights.table(2)}
    assert not [name for name, part in rows.items() if not part.startswith("the ")]


# --- Golden ---


@pytest.mark.parametrize("kind", ["discriminator", "generator"])
def test_a_folder_of_transformers_gives_its_logits(kind):
    source = weights.read(str(TINY / kind))
    ours = network(source.config, kind)
    loaded = weights.load(source, ours.trainable_variables, ElectraTokenizer(str(TINY / kind / "vocab.txt")))
    assert len(loaded) == 1 and f"{len(source.tensors)} tensors" in loaded[0] and not source.unused
    np.testing.assert_allclose(ours(*golden_inputs(TINY / "inputs.npz")), np.load(TINY / kind / "logits.npy"),
                               **ROUNDING)


@pytest.mark.parametrize("kind", ["discriminator", "generator"])
def test_keras_files_of_nvidias_recipe_give_its_logits(kind, tmp_path):
    source = weights.read(str(DATA / f"nvidia_{kind}"))
    ours = network(source.config, kind)
    loaded = weights.load(source, ours.trainable_variables, some_vocabulary(tmp_path, 120))
    assert len(loaded) == 1 and not source.unused
    golden = DATA / "tiny_electra.npz"
    np.testing.assert_allclose(ours(*golden_inputs(golden)), np.load(golden)[f"{kind}/logits"], **ROUNDING)


@pytest.mark.parametrize("name", ["google_tf1/model.ckpt", "google_tf1/model.ckpt.index", "google_tf1"])
def test_a_released_tf1_checkpoint_gives_its_sequence_outputs(name, tmp_path):
    source = weights.read(str(DATA / name))
    generator_config = ElectraConfig(**{**dataclasses.asdict(source.config), "hidden_size": 32,
                                        "num_attention_heads": 1, "intermediate_size": 128})
    make = modeling.VariableMaker(0, 0.02)
    embeddings = modeling.Embeddings(source.config, "electra/embeddings", make)
    networks = {"discriminator": modeling.Network(embeddings, modeling.Encoder(source.config, "electra", make,
                                                                               tf.float32), None),
                "generator": modeling.Network(embeddings, modeling.Encoder(generator_config, "generator", make,
                                                                           tf.float32), None)}
    module = tf.Module()
    module.networks = networks
    loaded = weights.load(source, module.trainable_variables, some_vocabulary(tmp_path, 120))
    assert loaded[1:] == ["not used: the discriminator's prediction head (4 tensors), the generator's prediction head "
                          "(5 tensors)."]
    golden = np.load(DATA / "google_tf1" / "outputs.npz")
    # The discriminator's large random weights magnify float32 rounding: the golden values are themselves up to 6e-5
    # away from a float64 evaluation of the same formulas (ours up to 5e-5), at few positions.
    for kind, typical, largest in (("generator", 1e-6, 1e-5), ("discriminator", 1e-5, 1e-4)):
        gap = np.abs(networks[kind](*golden_inputs(DATA / "tiny_electra.npz")) - golden[f"{kind}_sequence_output"])
        assert np.median(gap) < typical and gap.max() < largest


# --- Round trips ---


def export(model, tokenizer, folder, **settings):
    for kind, part in model.networks().items():
        weights.save_folder(part, kind, tokenizer, str(folder / kind), **settings)
    return str(folder)


@pytest.mark.parametrize("changes", [{}, {"share_embeddings": False}, {"generator": "tied"}, {"generator": "uniform"},
                                     {"objective": "mlm"}], ids=str)
def test_exported_weights_are_read_back_bit_identical(changes, tokenizer, tmp_path):
    model, fresh = make_model(seed=1, **changes), make_model(seed=2, **changes)
    folder = export(model, tokenizer, tmp_path)
    if changes.get("generator") == "tied":  # two folders with the same encoder
        shutil.rmtree(tmp_path / "generator")
    lines = weights.load(weights.read(folder), fresh.trainable_variables, tokenizer)
    for name, value in values(fresh).items():
        rows = slice(0, 41) if name.endswith(weights.VOCABULARY_TENSORS) else slice(None)
        if not (changes.get("generator") == "tied" and name.startswith("generator_predictions")):
            np.testing.assert_array_equal(value[rows], values(model)[name][rows], err_msg=name)
    assert len(lines) == (2 if changes.get("generator") == "tied" else 1), lines  # the tied generator's head is fresh


def test_an_exported_folder_has_its_architecture_and_vocabulary(tokenizer, tmp_path):
    export(make_model(), tokenizer, tmp_path)
    config = json.loads((tmp_path / "generator" / "config.json").read_text())
    assert config["architectures"] == ["ElectraForMaskedLM"] and config["model_type"] == "electra"
    assert (config["vocab_size"], config["hidden_size"], config["pad_token_id"]) == (41, 64, 0)
    with safetensors.safe_open(str(tmp_path / "generator" / "model.safetensors"), "np") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_slice("electra.embeddings.word_embeddings.weight").get_shape() == [41, 8]
        assert "generator_lm_head.weight" not in file.keys()  # tied to the word embeddings
    assert ElectraTokenizer.from_folder(str(tmp_path / "generator")).fingerprint == tokenizer.fingerprint


def test_a_saved_model_runs_without_our_modules(tokenizer, tmp_path):
    model = make_model(seed=3)
    folder = export(model, tokenizer, tmp_path, saved_model=True)
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 41, (3, 7)).astype(np.int32)
    mask = np.array([[1] * 7, [1] * 5 + [0] * 2, [1] * 3 + [0] * 4], np.int32)
    np.savez(tmp_path / "inputs.npz", input_ids=ids, input_mask=mask, segment_ids=mask * 0)
    program = """
import sys
import numpy as np
import tensorflow as tf
inputs = {name: tf.constant(value) for name, value in np.load("inputs.npz").items()}
for kind in ("discriminator", "generator"):
    serve = tf.saved_model.load(kind + "/saved_model").signatures["serving_default"]
    np.save(kind + ".npy", serve(**inputs)["logits"].numpy())
    serve(**{name: value[:1, :4] for name, value in inputs.items()})
assert not {"modeling", "weights", "configuration"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True)
    for kind, part in model.networks().items():
        np.testing.assert_allclose(np.load(tmp_path / f"{kind}.npy"), part(ids, mask, mask * 0), **ROUNDING)


# --- Question answering ---


def answer_features(tokens=24):
    file = np.load(DATA / "tiny_electra.npz")
    names = {"input_ids": "input_ids", "input_mask": "attention_mask", "segment_ids": "token_type_ids",
             "p_mask": "p_mask"}
    return {ours: tf.constant(file[f"in/{theirs}"][:, :tokens], tf.int32) for ours, theirs in names.items()}


def test_the_joint_head_of_nvidias_recipe_gives_its_answers(tmp_path):
    source = weights.read(str(DATA / "nvidia_joint_v2"))
    assert not source.unused
    model = weights.question_answering(source, some_vocabulary(tmp_path, 120), beam_size=4)
    assert model.joint_head and model.version_2
    found, golden = model.answers(answer_features()), np.load(DATA / "tiny_electra.npz")
    np.testing.assert_allclose(found["answerability_logits"], golden["joint_v2/infer/cls_logits"], **ROUNDING)
    np.testing.assert_array_equal(found["start_index"], golden["joint_v2/infer/start_top_index"])


@pytest.mark.parametrize("settings", [
    dict(joint_head=True, version_2=True, beam_size=3, answerability_from_gold=False),
    dict(joint_head=False, version_2=True, beam_size=5, answerability_from_gold=False)], ids=["joint", "independent"])
def test_a_fine_tuned_model_is_exported_read_and_served(settings, tokenizer, tmp_path):
    config = dataclasses.replace(CONFIG, vocab_size=120, max_position_embeddings=24)
    own = some_vocabulary(tmp_path, 120)
    model = modeling.QuestionAnswering(config, seed=6, **settings)
    weights.save_folder(model, "question_answering", own, str(tmp_path / "model"), saved_model=True)
    content = json.loads((tmp_path / "model" / "config.json").read_text())
    assert content.get("architectures") == (None if settings["joint_head"] else ["ElectraForQuestionAnswering"])
    again = weights.question_answering(weights.read(str(tmp_path / "model")), own)
    assert again.settings == settings
    features = answer_features()
    expected, found = model.answers(features), again.answers(features)
    served = tf.saved_model.load(str(tmp_path / "model" / "saved_model")).signatures["serving_default"]
    answers = served(**{name: value for name, value in features.items()
                        if name in served.structured_input_signature[1]})
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
        np.testing.assert_allclose(answers[name], value, **ROUNDING)


# --- Classifiers and taggers ---

LABELS = {"sequence_classification": weights.Labels(("no", "perhaps", "yes"), "single_label"),
          "token_classification": weights.Labels(("O", "B-PER", "I-PER", "B-LOC"), None)}


def task_features(path):
    return dict(zip(("input_ids", "input_mask", "segment_ids"), golden_inputs(path)))


@pytest.mark.parametrize("kind", LABELS)
def test_a_classifier_or_tagger_of_transformers_gives_its_logits_and_labels(kind):
    """Golden: transformers 4.57.6, see scripts/check_weights.py --regenerate."""
    source = weights.read(str(TINY / kind))
    said = []
    model, labels = weights.task_model(source, ElectraTokenizer(str(TINY / kind / "vocab.txt")), log=said.append)
    assert labels == LABELS[kind] and not said and weights.fine_tuned_for(source) == kind
    np.testing.assert_allclose(model.logits(task_features(TINY / "inputs.npz")), np.load(TINY / kind / "logits.npy"),
                               **ROUNDING)


@pytest.mark.parametrize("labels", [
    weights.Labels(("yes", "no"), "single_label"), weights.Labels(("a", "b", "ü"), "multi_label"),
    weights.Labels(("score",), "regression"), weights.Labels(("O", "B-X", "I-X"), None)], ids=str)
def test_a_classifier_or_tagger_is_exported_read_and_served(labels, tmp_path):
    config = dataclasses.replace(CONFIG, vocab_size=120, max_position_embeddings=24)
    kind = "sequence_classification" if labels.problem else "token_classification"
    settings = {"problem": labels.problem} if labels.problem else {}
    model = weights.HEADS[kind](config, len(labels.names), seed=6, **settings)
    own = some_vocabulary(tmp_path, 120)
    weights.save_folder(model, kind, own, str(tmp_path / "model"), saved_model=not settings, labels=labels)
    content = json.loads((tmp_path / "model" / "config.json").read_text())
    assert content["architectures"] == [weights.ARCHITECTURES[kind]]
    assert content["label2id"] == {name: int(number) for number, name in content["id2label"].items()}
    assert content.get("problem_type") == weights.PROBLEM_TYPES.get(labels.problem)
    again, found = weights.task_model(weights.read(str(tmp_path / "model")), own)
    assert found == labels and again.settings == model.settings
    features = task_features(DATA / "tiny_electra.npz")
    expected = model.logits(features)
    np.testing.assert_array_equal(again.logits(features), expected)
    if not settings:
        served = tf.saved_model.load(str(tmp_path / "model" / "saved_model")).signatures["serving_default"]
        np.testing.assert_allclose(served(**features)["logits"], expected, **ROUNDING)


def test_a_config_of_transformers_without_labels_has_their_default_names(tmp_path):
    kept = {"id2label": None, "label2id": None}
    for kind, count in (("sequence_classification", 3), ("token_classification", 4)):
        folder = changed_config(tmp_path, kind, **kept)
        names = tuple(f"LABEL_{number}" for number in range(count))
        assert weights.labels_of(weights.read(folder)).names == names


def changed_config(tmp_path, kind, **changes):
    folder = tmp_path / kind
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(TINY / kind, folder)
    content = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return str(folder)


@pytest.mark.parametrize("changes", [
    {"id2label": {"0": "a"}}, {"id2label": {"0": "a", "1": "a", "2": "b"}}, {"id2label": {"0": "a", "1": 2, "2": "b"}},
    {"id2label": "abc"}, {"problem_type": "ranking"}, {"problem_type": "regression"}], ids=str)
def test_labels_that_do_not_fit_the_weights_are_refused(changes, tmp_path, refuses):
    folder = changed_config(tmp_path, "sequence_classification", **changes)
    text = refuses(lambda: weights.labels_of(weights.read(folder)))
    assert "config.json" in text and "3" in text


def test_heads_of_other_kinds_are_refused_as_classifiers(tmp_path, refuses):
    assert "head" in refuses(lambda: weights.labels_of(weights.read(str(TINY / "discriminator"))))
    bert = changed_config(tmp_path, "token_classification", architectures=["BertForSequenceClassification"])
    assert "BERT" in refuses(lambda: weights.labels_of(weights.read(bert)))


@pytest.mark.parametrize("kind", LABELS)
def test_fine_tuning_keeps_a_head_of_the_same_labels_alone(kind):
    source = weights.read(str(TINY / kind))
    assert weights.without_other_head(source, LABELS[kind]) is source
    for other in (LABELS[kind]._replace(names=("x", "y")), LABELS[kind]._replace(problem="multi_label")):
        kept = set(weights.without_other_head(source, other).tensors)
        assert kept == {name for name in source.tensors if not name.startswith("classifier")}


# --- Other formats and names ---


def test_bert_is_an_encoder(tokenizer, tmp_path):
    config = dataclasses.replace(CONFIG, embedding_size=16)
    ours = network(config, "discriminator", seed=4)
    tensors = {name: value for name, value in weights.huggingface_tensors(ours).items() if name.startswith("electra.")}
    bert = {name.replace("electra.", "bert."): value for name, value in tensors.items()}
    bare = {name.replace("electra.", ""): value for name, value in tensors.items()}
    bare = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
            for name, value in bare.items()}  # names of the oldest PyTorch files
    for spelling, content in (("bert", bert), ("bare", bare)):
        folder = tmp_path / spelling
        folder.mkdir()
        safetensors.numpy.save_file({**content, "pooler.dense.bias": np.zeros(16, np.float32),
                                     "embeddings.position_ids": np.zeros((1, 20), np.int64)},
                                    str(folder / "model.safetensors"))
        kept = {key: value for key, value in config.to_dict().items() if key != "embedding_size"}
        (folder / "config.json").write_text(json.dumps({**kept, "model_type": "bert"}))
        source = weights.read(str(folder))
        assert source.config == config and source.unused == ["pooler.dense.bias"]
        fresh = network(config, "discriminator", seed=5)
        lines = weights.load(source, fresh.trainable_variables, tokenizer)
        assert lines[1] == "newly initialised: the discriminator's prediction head (4 tensors)."
        assert lines[2] == "not used: pooler.dense.bias."
        np.testing.assert_array_equal(fresh.encoder.layers[1].output.kernel, ours.encoder.layers[1].output.kernel)


def test_tf1_bert_and_optimizer_slots(tokenizer, tmp_path):
    ours = network(dataclasses.replace(CONFIG, embedding_size=16), "discriminator", seed=4)
    content = {name.replace("electra/", "bert/"): value for name, value in values(ours).items()
               if name.startswith("electra/")}
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session() as session:
        for name, value in {**content, "global_step": np.int64(5), "cls/predictions/bias": np.zeros(3, np.float32),
                            "bert/embeddings/LayerNorm/beta/adam_m": np.zeros(16, np.float32)}.items():
            tf.compat.v1.get_variable(name, initializer=value)
        session.run(tf.compat.v1.global_variables_initializer())
        prefix = tf.compat.v1.train.Saver().save(session, str(tmp_path / "bert_model.ckpt"))
    source = weights.read(prefix)
    assert source.unused == ["cls/predictions/bias"]
    fresh = network(dataclasses.replace(CONFIG, embedding_size=16), "discriminator", seed=5)
    weights.load(source, fresh.trainable_variables, tokenizer)
    np.testing.assert_array_equal(fresh.encoder.layers[0].query.kernel, ours.encoder.layers[0].query.kernel)


def test_a_pytorch_file_requires_torch_and_is_read_with_weights_only(tmp_path, refuses, monkeypatch):
    shutil.copytree(TINY / "discriminator", tmp_path / "model")
    tensors = safetensors.numpy.load_file(str(tmp_path / "model" / "model.safetensors"))
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install torch" in refuses(weights.read, str(tmp_path / "model"))
    options = {}

    class Value:
        def __init__(self, value):
            self.value = value

        def float(self):
            return self

        def numpy(self):
            return self.value

    def load(path, **settings):
        options.update(settings)
        return {name: Value(value) for name, value in tensors.items()}

    for content in ([1, 2], Value(0), {1: Value(0)}, {"x": 1, "model": {"x": Value(0)}}):
        monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=lambda *_, content=content, **__: content))
        assert "pytorch_model.bin" in refuses(weights.read, str(tmp_path / "model"))
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
    source = weights.read(str(tmp_path / "model"))
    assert options["weights_only"] is True
    expected = weights.read(str(TINY / "discriminator")).tensors
    assert source.tensors.keys() == expected.keys()
    assert all(np.array_equal(source.tensors[name], expected[name]) for name in expected)


# --- Mismatches and refusals ---


def test_problems_are_listed_and_nothing_is_assigned(tokenizer, refuses):
    source = weights.read(str(TINY / "discriminator"))
    model = network(dataclasses.replace(source.config, vocab_size=41, intermediate_size=32), "discriminator")
    before = values(model)
    text = refuses(weights.load, source, model.trainable_variables, tokenizer)
    assert re.search("electra/encoder/layer_0/intermediate/dense/kernel .*16x24 .*16x32", text)
    assert "3 more" in text and "--model_config" in text
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name])
    for layers, problem in ((1, "layer_1/attention/self/query/kernel"),
                            (3, "electra/encoder/layer_2/attention/output/LayerNorm/beta")):
        other = network(dataclasses.replace(source.config, vocab_size=41, num_hidden_layers=layers), "discriminator")
        assert problem in refuses(weights.load, source, other.trainable_variables, tokenizer)


def test_a_discriminator_alone_leaves_the_generator_fresh_and_a_generator_alone_is_refused(tokenizer, tmp_path,
                                                                                           refuses):
    model, fresh = make_model(seed=1), make_model(seed=2)
    folder = export(model, tokenizer, tmp_path)
    before = values(fresh)
    lines = weights.load(weights.read(folder + "/discriminator"), fresh.trainable_variables, tokenizer)
    assert len(lines) == 2 and "newly initialised: the generator's encoder" in lines[1]
    for name, value in values(fresh).items():
        expected = before if name.startswith("generator") else values(model)
        np.testing.assert_array_equal(value[:41], expected[name][:41], err_msg=name)
    alone = weights.read(folder + "/generator")
    assert "electra/encoder/layer_0" in refuses(weights.load, alone, fresh.trainable_variables, tokenizer)
    assert alone.name in refuses(weights.merge, [alone, alone])


def test_separate_embeddings_of_two_folders_are_noted(tokenizer, tmp_path):
    folder = export(make_model(seed=1, share_embeddings=False), tokenizer, tmp_path)
    lines = weights.load(weights.read(folder), make_model(seed=2).trainable_variables, tokenizer)
    assert [line for line in lines if "--noshare_embeddings" in line]


def test_rows_of_another_vocabulary_are_matched_by_token(tokenizer, tmp_path, refuses):
    model, fresh = make_model(seed=1), make_model(seed=2)
    folder = export(model, tokenizer, tmp_path / "model")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "new", *reversed(tokenizer.tokens[5:30])]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n")
    own = ElectraTokenizer(str(tmp_path / "vocab.txt"))
    other = make_model(seed=2, config=dataclasses.replace(CONFIG, vocab_size=31))
    lines = weights.load(weights.read(folder), other.trainable_variables, own)
    assert [line for line in lines if "30 of 31" in line]
    table, theirs = other.embeddings.word_embeddings.numpy(), model.embeddings.word_embeddings.numpy()
    fresh_table = make_model(seed=2, config=dataclasses.replace(CONFIG, vocab_size=31)).embeddings.word_embeddings
    for row, token in enumerate(tokens):
        expected = fresh_table[row] if token == "new" else theirs[tokenizer.tokens.index(token)]
        np.testing.assert_array_equal(table[row], expected)
    np.testing.assert_array_equal(table[31:], fresh_table[31:])
    for kind in ("discriminator", "generator"):
        (tmp_path / "model" / kind / "vocab.txt").unlink()
    text = refuses(weights.load, weights.read(folder), other.trainable_variables, own)
    assert "41" in text and "vocab.txt" in text
    weights.load(weights.read(folder), fresh.trainable_variables, tokenizer)  # the same number of rows


def test_rows_of_another_kind_of_vocabulary_are_matched_as_words_and_parts_of_words(tokenizer, tmp_path):
    model = make_model(seed=1)
    folder = export(model, tokenizer, tmp_path / "model")
    path = languages.train_sentencepiece(tmp_path / "x.model", ["the cat sat on the cats mat, lowest"] * 9,
                                         vocab_size=40, model_type="bpe")
    own = ElectraTokenizer(path)
    other = make_model(seed=2, config=dataclasses.replace(CONFIG, vocab_size=own.vocab_size))
    weights.load(weights.read(folder), other.trainable_variables, own)
    table, theirs = other.embeddings.word_embeddings.numpy(), model.embeddings.word_embeddings.numpy()

    def same(piece, token):
        return np.array_equal(table[own.tokens.index(piece)], theirs[tokenizer.tokens.index(token)])

    assert same("▁the", "the") and same("[MASK]", "[MASK]") and same(",", ",") and same("s", "##s")
    assert not same("a", "a")  # inside a word


@pytest.mark.parametrize("make, problem", [
    (lambda folder: None, "does not exist"),
    (lambda folder: folder.mkdir(), "index.json, tf_model.h5"),
    (lambda folder: (folder.mkdir(), (folder / "model.safetensors").write_bytes(b"x" * 50)),
     "model.safetensors cannot be read"),
    (lambda folder: (folder.mkdir(), (folder / "tf_model.h5").write_bytes(b"x" * 50)), "tf_model.h5 cannot be read"),
    (lambda folder: (folder.mkdir(), safetensors.numpy.save_file({"x": np.zeros(3)}, folder / "model.safetensors")),
     "ELECTRA or BERT"),
    (lambda folder: (shutil.copytree(TINY / "discriminator", folder), (folder / "config.json").write_text("[")),
     "config.json"),
], ids=["nothing", "empty", "safetensors", "h5", "foreign", "config"])
def test_a_folder_without_usable_weights_is_refused(make, problem, tmp_path, refuses):
    make(tmp_path / "model")
    assert problem in refuses(weights.read, str(tmp_path / "model"))


WORDS, QUERY = "electra.embeddings.word_embeddings.weight", "electra.encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize("name, change, part", [
    (WORDS, lambda value: value.astype(np.int32), "int32"),
    (QUERY, lambda value: value > 0, "bool"),
    (WORDS, lambda value: value[:, 0], "word_embeddings has 1 dimensions"),
    (WORDS, lambda value: value[:0], "0 vocabulary rows"),
    (QUERY, lambda value: value[None], "query/kernel has 3 dimensions"),
    (QUERY, lambda value: value * np.nan, "NaN"),
    (QUERY, lambda value: value.astype(np.float64) + 1e300, "infinite"),
    ("electra.encoder.layer.99999999.output.dense.bias", lambda _: np.zeros(4, np.float32), "layer 99999999"),
    ("electra.encoder.layer.0.attention.self.distance_embedding.weight", lambda _: np.zeros((39, 8), np.float32),
     "distance_embedding.weight"),
], ids=["int32", "bool", "rank 1", "no rows", "rank 3", "NaN", "beyond float32", "layer", "relative positions"])
def test_a_tensor_that_cannot_be_a_weight_is_refused_by_name(name, change, part, tmp_path, refuses):
    shutil.copytree(TINY / "discriminator", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors[name] = np.ascontiguousarray(change(tensors.get(name)))
    safetensors.numpy.save_file(tensors, path)
    text = refuses(weights.read, str(tmp_path / "model"))
    assert part in text and str(tmp_path / "model") in text


def in_shards(folder, **moved):
    """A copy of the model with its tensors in three files; `moved`: the file that the index names, by tensor."""
    shutil.copytree(TINY / "discriminator", folder)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    weight_map = {tensor: names[number % 3] for number, tensor in enumerate(sorted(tensors))}
    for name in names:
        safetensors.numpy.save_file({t: tensors[t] for t in tensors if weight_map[t] == name}, folder / name)
    index = {"metadata": {"total_size": 1}, "weight_map": {**weight_map, **moved}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_weights_in_several_files_are_read(tmp_path, refuses):
    whole, sharded = (weights.read(str(path)) for path in (TINY / "discriminator", in_shards(tmp_path / "model")))
    assert whole.tensors.keys() == sharded.tensors.keys() and sharded.unused == whole.unused
    for name, value in whole.tensors.items():
        np.testing.assert_array_equal(sharded.tensors[name], value)
    for moved, part in (("../model-00001-of-00003.safetensors", "../model"), (3, "is in 3"),
                        ("model-00004-of-00003.safetensors", "model-00004")):
        folder = in_shards(tmp_path / part.replace("/", ""), **{WORDS: moved})
        assert part in refuses(weights.read, str(folder))
    folder = in_shards(tmp_path / "elsewhere", absent="model-00001-of-00003.safetensors")
    assert "absent is not in model-00001-of-00003.safetensors" in refuses(weights.read, str(folder))


def test_the_files_of_an_export_have_the_same_mode(tokenizer, tmp_path):
    weights.save_folder(network(CONFIG, "discriminator"), "discriminator", tokenizer, str(tmp_path / "out"))
    assert len({file.stat().st_mode for file in (tmp_path / "out").iterdir()}) == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float64, tf.bfloat16.as_numpy_dtype])
def test_other_floating_point_weights_are_converted(dtype, tmp_path):
    shutil.copytree(TINY / "discriminator", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = {name: value.astype(dtype) for name, value in safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file(tensors, path)
    source = weights.read(str(tmp_path / "model"))
    assert all(value.dtype == np.float32 for value in source.tensors.values())
    np.testing.assert_array_equal(source.tensors["electra/embeddings/word_embeddings"],
                                  tensors[WORDS].astype(np.float32))


@pytest.mark.parametrize("change, part", [
    ({"hidden_size": "16"}, "hidden_size='16'"),
    ({"hidden_size": 65536, "num_attention_heads": 64}, "hidden_size is 65536"),
    ({"num_hidden_layers": 1000}, "num_hidden_layers is 1000"),
    ({"model_type": "bert", "hidden_size": None}, "hidden_size=None"),
    ({"model_type": "bert", "hidden_size": [16]}, "hidden_size=[16]"),
    ({"model_type": "bert", "hidden_size": ...}, "no hidden_size"),  # left out
    ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
    ({"is_decoder": True}, "is_decoder"),
    ({"vocab_size": 20}, "vocab_size is 20, but the vocabulary beside it has 23"),
    ({"question_answering": [1]}, "question_answering"),
    ({"question_answering": {"beam_size": "5"}}, "question_answering"),
    ({"question_answering": {"beam_size": 0}}, "question_answering"),
])
def test_a_configuration_that_cannot_be_that_of_the_weights_is_refused(change, part, tmp_path, refuses):
    """Before a model is built: 1,000 layers take minutes, and a width of 65536 more memory than there is."""
    shutil.copytree(TINY / "discriminator", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    content = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    text = refuses(weights.read, str(tmp_path / "model"))
    assert str(path) in text and part in text


def test_weights_that_are_not_a_regular_file_are_refused(tmp_path, refuses):
    for number, make in enumerate((os.mkfifo, os.mkdir, lambda path: os.symlink("none", path))):
        folder = tmp_path / str(number)
        shutil.copytree(TINY / "discriminator", folder)
        (folder / "model.safetensors").unlink()
        make(folder / "model.safetensors")
        assert str(folder / "model.safetensors") in refuses(weights.read, str(folder))


def test_declared_sizes_beyond_the_file_are_refused_before_memory_is_taken(tmp_path, refuses):
    shutil.copytree(DATA / "nvidia_generator", tmp_path / "h5")
    with h5py.File(tmp_path / "h5" / "tf_model.h5", "a") as file:  # 4 TB, of which no byte is there
        file.create_dataset("huge/x", shape=(10**6, 10**6), dtype="f4", chunks=(1000, 1000))
    assert "huge/x" in refuses(weights.read, str(tmp_path / "h5"))
    shutil.copytree(DATA / "nvidia_generator", tmp_path / "many")
    with h5py.File(tmp_path / "many" / "tf_model.h5", "a") as file:  # each is smaller than what compression may save
        for number in range(400):
            file.create_dataset(f"many/x{number}", shape=(1000, 1000), dtype="f4", chunks=(1000, 1000))
    assert "many/x" in refuses(weights.read, str(tmp_path / "many"))
    (tmp_path / "safetensors").mkdir()
    for content in ((2**63).to_bytes(8, "little") + b"{}", (10**8).to_bytes(8, "little") + b"{}"):
        (tmp_path / "safetensors" / "model.safetensors").write_bytes(content)
        assert "model.safetensors" in refuses(weights.read, str(tmp_path / "safetensors"))


@pytest.mark.parametrize("content", [b"", b"x" * 50, b"x" * 5000, bytes(10_000)])
def test_an_index_of_another_program_is_refused(content, tmp_path, refuses):
    (tmp_path / "model.index").write_bytes(content)
    assert str(tmp_path / "model") in refuses(weights.read, str(tmp_path / "model"))


def test_a_keras_file_with_two_different_copies_of_a_tensor_is_refused(tmp_path, refuses):
    shutil.copytree(DATA / "nvidia_generator", tmp_path / "model")
    with h5py.File(tmp_path / "model" / "tf_model.h5", "r+") as file:
        again = file["generator_lm_head/tf_electra_for_masked_lm/electra/embeddings/word_embeddings/weight:0"]
        again[0, 0] += 1
    text = refuses(weights.read, str(tmp_path / "model"))
    assert "tf_model.h5" in text and "electra/embeddings/word_embeddings" in text
