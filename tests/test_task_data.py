"""task_data.py: files of GLUE and own data to examples, labels and features, and predictions back to files."""
import json

import numpy as np
import pytest

import batching
import task_data
from task_data import Example
from task_options import TaskConfig
from tokenization import ElectraTokenizer


def config_of(task="classification", **options):
    return TaskConfig(**{**dict(task=task, do_train=True, train_file="train.csv", output_dir="out"), **options})


def written(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def examples_of(labels):
    return [Example(number, "a", None, label, f"line {number}") for number, label in enumerate(labels)]


# --- Files ---


@pytest.mark.parametrize("name, text, rows", [
    ("a.tsv", 'x\ty\n"one\t2\r\n\n a\u2028b \t"\n', [{"x": '"one', "y": "2"}, {"x": " a\u2028b ", "y": '"'}]),
    ("a.csv", 'x,y\r\n"one, ""two""\nthree",2\n', [{"x": 'one, "two"\nthree', "y": "2"}]),
    ("a.jsonl", '\ufeff{"x": "one", "y": ["p", "q"]}\n\n', [{"x": "one", "y": ["p", "q"]}])])
def test_each_format_is_read_by_its_own_rules(tmp_path, name, text, rows):
    assert [row.cells for row in task_data.read_rows(written(tmp_path / name, text))] == rows


@pytest.mark.parametrize("name, text, words", [
    ("a.tsv", "x\ty\none\ttwo\none\n", ["line 3", "1 column", "2"]),
    ("a.csv", 'x,y\n"one,2\n', ["line 2", "CSV"]),
    ("a.csv", "x,x\n1,2\n", ["'x'", "twice"]),
    ("a.csv", "x,y\n", ["no examples"]),
    ("a.jsonl", '{"x": 1}\n{"x": NaN}\n', ["line 2", "NaN"]),
    ("a.txt", "one\n", [".tsv", ".jsonl"]),
    ("a.tsv", b"x\n\xff\n", ["UTF-8"]),
    ("missing.tsv", None, ["cannot be read"])])
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path, refuses, name, text, words):
    path = tmp_path / name
    if text is not None:
        written(path, text)
    said = refuses(task_data.read_rows, str(path))
    assert str(path) in said and all(word in said for word in words)


@pytest.mark.parametrize("options, header, row, words", [
    ({}, "text,label", 'a,""', ["line 2", "label"]),
    ({}, "body,label", "a,b", ["text", "--text_column", "body"]),
    ({"task": "pairs"}, "text,label", "a,b", ["text_pair", "--pair_column"]),
    ({"task": "regression"}, "text,label", "a,high", ["line 2", "'high'"]),
    ({"task": "regression"}, "text,label", "a,inf", ["line 2", "'inf'"])])
def test_an_example_that_cannot_be_used_is_refused(tmp_path, refuses, options, header, row, words):
    path = written(tmp_path / "a.csv", f"{header}\n{row}\n")
    said = refuses(task_data.read_examples, config_of(**options), path)
    assert path in said and all(word in said for word in words)


def test_labels_are_texts_lists_or_numbers_by_the_task(tmp_path):
    path = written(tmp_path / "a.jsonl", "\n".join(json.dumps({"text": "a", "label": label, "id": "x"})
                                                  for label in (1, "b", True)))
    assert [example.label for example in task_data.read_examples(config_of(), path)] == ["1", "b", "true"]
    path = written(tmp_path / "b.csv", 'text,label\na,"p, q"\nb,\n')
    assert [example.label for example in task_data.read_examples(config_of("multi_label"), path)] == [("p", "q"), ()]
    path = written(tmp_path / "c.csv", "text,label\na,1e-1\n")
    assert task_data.read_examples(config_of("regression"), path)[0].label == 0.1
    path = written(tmp_path / "d.csv", "text\na\n")
    assert task_data.read_examples(config_of(), path, labelled=False)[0].label is None


# --- GLUE ---

FILES = {  # task: training data, test data, the texts and label of the first training example
    "cola": ("gj04\t1\t\tOur \"friends.\n", "index\tsentence\n0\tBill\n", ('Our "friends.', None, "1")),
    "sst2": ("sentence\tlabel\nhide \t0\n", "index\tsentence\n0\tan\n", ("hide ", None, "0")),
    "mrpc": ("\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t702\t703\tAmrozi \"x\tReferring\n",
             "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tA\tB\n", ('Amrozi "x', "Referring", "1")),
    "stsb": ("index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
             "0\tm\tM\t2012\t1\tn\tn\tA plane\tAn air plane\t5.000\n",
             "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\n"
             "0\tm\tM\t2012\t1\tn\tn\tA\tB\n", ("A plane", "An air plane", 5.0)),
    "qqp": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tHow?\tWhy?\t0\n",
            "id\tquestion1\tquestion2\n0\tA?\tB?\n", ("How?", "Why?", "0")),
    "mnli": ("index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
             "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
             "0\t1\t1n\tg\t( a )\t( b )\t(R)\t(R)\tA man\tA cat\tneutral\tentailment\n",
             "index\tsentence1\tsentence2\n9847\tA\tB\n", ("A man", "A cat", "entailment")),
    "qnli": ("index\tquestion\tsentence\tlabel\n0\tWhen?\tIn 1\tnot_entailment\n",
             "index\tquestion\tsentence\n0\tA\tB\n", ("When?", "In 1", "not_entailment")),
    "rte": ("index\tsentence1\tsentence2\tlabel\n0\tNo\tYes\tentailment\n", "index\tsentence1\tsentence2\n0\tA\tB\n",
            ("No", "Yes", "entailment")),
    "wnli": ("index\tsentence1\tsentence2\tlabel\n0\tI\tThe\t1\n", "index\tsentence1\tsentence2\n0\tA\tB\n",
             ("I", "The", "1"))}


@pytest.mark.parametrize("task", FILES)
def test_the_official_files_of_glue_are_read_and_a_submission_is_written(tmp_path, task):
    train, test, first = FILES[task]
    glue = task_data.GLUE[task]
    folder = tmp_path / glue.folder
    folder.mkdir()
    config = config_of(task, data_dir=str(tmp_path), train_file=None, do_predict=True)
    for name, text in {"train": train, **dict.fromkeys(glue.dev, train), **dict.fromkeys(glue.test, test)}.items():
        written(folder / f"{name}.tsv", text)
    assert list(task_data.data_files(config, "dev")) == list(glue.dev)
    example = task_data.read_examples(config, task_data.data_files(config, "train")["train"])[0]
    assert (example.text, example.pair, example.label) == first
    assert first[2] in (*glue.labels, 5.0)
    for name, path in task_data.data_files(config, "test").items():
        examples = task_data.read_examples(config, path, labelled=False)
        assert examples[0].label is None
        entries = [task_data.prediction(example, 7.25 if task == "stsb" else first[2], None) for example in examples]
        lines = open(task_data.write_submission(config, name, entries, str(tmp_path / "out"))).read().splitlines()
        assert lines == ["index\tprediction", f"{examples[0].id}\t{'5.000' if task == 'stsb' else first[2]}"]
    assert {path.stem for path in (tmp_path / "out").iterdir()} == set(glue.submitted)


def test_a_few_damaged_lines_of_glue_are_left_out_and_many_are_refused(tmp_path, refuses):
    config = config_of("qqp", data_dir=str(tmp_path), train_file=None)
    header, line = FILES["qqp"][0].splitlines()
    path = written(tmp_path / "train.tsv", "\n".join([header, *[line] * 1000, "7\t8"]))
    assert len(task_data.read_examples(config, path)) == 1000
    path = written(tmp_path / "train.tsv", "\n".join([header, *[line] * 10, "7\t8"]))
    assert "line 12" in refuses(task_data.read_examples, config, path)


# --- Labels and splits ---


def test_labels_come_from_the_training_data_in_a_fixed_order(refuses):
    names = task_data.label_names(config_of(), examples_of(["b", "10", "9", "a", "b"]), "f")
    assert names == ["9", "10", "a", "b"]
    assert task_data.encode_labels(config_of(), examples_of(["b", None]), names).tolist() == [3, -1]
    multi = config_of("multi_label")
    assert task_data.encode_labels(multi, examples_of([("b", "9"), ()]), names).tolist() == [[1, 0, 0, 1], [0] * 4]
    said = refuses(task_data.encode_labels, config_of(), examples_of(["a", "c"]), names)
    assert "line 1" in said and "'c'" in said
    assert "one" in refuses(task_data.label_names, config_of(), examples_of(["one"] * 3), "f")
    assert task_data.label_names(config_of(labels="z, a"), examples_of(["a"]), "f") == ["z", "a"]


def test_class_weights_are_inverse_to_frequency_or_as_given(refuses):
    encoded = np.array([0, 0, 0, 1])
    weights = task_data.class_weights(config_of(class_weights="balanced"), encoded, ["a", "b"])
    np.testing.assert_allclose(weights, [4 / 6, 2.0])
    assert np.mean(weights[encoded]) == pytest.approx(1.0)
    assert task_data.class_weights(config_of(class_weights="b:3"), encoded, ["a", "b"]).tolist() == [1, 3]
    assert "'c'" in refuses(task_data.class_weights, config_of(class_weights="c:3"), encoded, ["a", "b"])
    assert "'c'" in refuses(task_data.class_weights, config_of(class_weights="balanced"), encoded, ["a", "b", "c"])
    for wrong in ("b", "b:-1", "b:x"):
        assert f"--class_weights={wrong}" in refuses(config_of, class_weights=wrong)


def test_a_split_is_stratified_and_depends_on_its_seed_alone():
    labels = ["a"] * 70 + ["b"] * 20 + ["c"] * 9 + ["d"]
    examples = examples_of(labels)
    train, dev = task_data.split(config_of(dev_fraction=0.2), examples, labels)
    assert (train, dev) == task_data.split(config_of(dev_fraction=0.2, seed=5), examples, labels)
    assert dev != task_data.split(config_of(dev_fraction=0.2, split_seed=1), examples, labels)[1]
    assert sorted(train + dev) == examples and len(dev) == 20
    assert {name: sum(example.label == name for example in dev) for name in "abcd"} == {"a": 14, "b": 4, "c": 2, "d": 0}


# --- Features ---


@pytest.mark.parametrize("first, second, room", [(3, 4, 9), (8, 2, 6), (2, 9, 6), (7, 7, 9), (8, 6, 9), (0, 9, 4),
                                                 (5, 0, 3)])
def test_pairs_are_truncated_as_bert_does(first, second, room):
    a, b = list(range(first)), list(range(second))
    while len(a) + len(b) > room:  # BERT's rule
        (a if len(a) > len(b) else b).pop()
    assert task_data.truncated(first, second, room) == (len(a), len(b))


def test_features_are_framed_and_fed_with_segments_and_weights(vocab_file):
    tokenizer = ElectraTokenizer(vocab_file)
    examples = [Example(0, "the cat sat", None, "a", ""), Example(1, "the cat", "a dog ran on", "b", "")]
    features = task_data.build_features(examples, tokenizer, 8, np.array([0, 1], np.int32), np.float32([1, 2]))
    the, cat, sat, a, dog = tokenizer.encode("the cat sat a dog").ids
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    assert features.input_ids.tolist() == [[cls, the, cat, sat, sep, 0, 0, 0], [cls, the, cat, sep, a, dog,
                                                                               tokenizer.encode("ran").ids[0], sep]]
    tensors = task_data.feed(features, batching.Batch(8, np.array([1])), 2, labels=True, num_examples=3.0)
    assert tensors["segment_ids"].numpy().tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] * 2
    assert tensors["weights"].numpy().tolist() == [1, 0] and float(tensors["num_examples"]) == 3.0
    assert tensors["labels"].numpy().tolist() == [1, 1] and tensors["class_weights"].numpy().tolist() == [1, 2]
    assert task_data.feed(features, batching.Batch(5, np.array([0])), 1)["input_mask"].numpy().tolist() == [[1] * 5]
