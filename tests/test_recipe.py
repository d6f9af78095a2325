"""scripts/recipe.py: the tables of options, what is refused, and the commands and bash variables of a call.

The wrappers around it: test_scripts.py, test_squad_scripts.py, test_launcher.py.
"""
from __future__ import annotations

import json
import os
import re
import subprocess

import pretraining_recipe
import pytest
from support import STAND_IN, Clone, make_folder, write_executable

import command_line
import configuration
import modeling
import weights
from pretraining_options import PretrainingConfig
from scripts import options, recipe
from squad_options import SquadConfig
from tokenization import ElectraTokenizer

WRAPPERS = tuple(recipe.WRAPPERS)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("OMPI_", "HOROVOD_", "DATASET_")) or name in (
                "squad_dir", "init_checkpoint", "checkpoints"):
            monkeypatch.delenv(name)


@pytest.fixture
def plan(tmp_path):
    """Plans a call in a folder of its own; data of pre-training is given."""
    def run(name, *words):
        data = ["--data_dir_p1=/", "--data_dir_p2=/"] if name == "electra" else []
        return recipe.plan(name, [*data, *words], str(tmp_path))
    return run


# --- The tables ---


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_option_has_one_name_and_a_default_that_its_program_takes(wrapper):
    table = recipe.WRAPPERS[wrapper][0]()
    names = [entry.name for entry in table.options]
    assert len(set(names)) == len(names)
    for entry in table.options:
        assert entry.meaning and re.fullmatch("[a-z0-9_]+", entry.name)
        kind = entry.config_class and configuration.kinds_of(entry.config_class)[entry.field]
        if kind in (int, float) and entry.default and entry.name != "seed":
            kind(entry.default)
        assert (kind is bool) <= (entry.default in ("true", "false"))


def test_meanings_are_those_of_the_fields_in_the_names_of_the_wrapper():
    text = options.help_text(recipe.electra_table())
    joined = " ".join(text.split())
    meaning = PretrainingConfig.__dataclass_fields__["learning_rate"].metadata["meaning"]
    assert f"--learning_rate_p2=4e-3 phase 2: {meaning}" in joined
    assert "--save_checkpoint_steps" in joined.partition("--eval_freq=")[2].partition("--num_eval_steps=")[0]
    assert "save_checkpoints_steps" not in joined  # the program's name
    assert "--optimizer=lamb optimizer to train with: lamb, adam, adamw" in joined
    squad = " ".join(options.help_text(recipe.squad_table()).split())
    assert " epochs " in squad.partition("--max_steps=")[2].partition("--train_iter_per_epoch=")[0]
    assert "num_train_epochs" not in squad and "output_dir" not in squad
    for wrapper in WRAPPERS:
        assert max(map(len, options.help_text(recipe.WRAPPERS[wrapper][0]()).splitlines())) <= 120


@pytest.mark.parametrize("value, text", [
    (4e-4, "4e-4"), (0.006, "6e-3"), (0.05, "0.05"), (0.8, "0.8"), (2.0, "2"), (0.0, "0"), (1e6, "1e6"), (-1, "-1"),
    (True, "true"), (None, ""), ("a", "a")])
def test_defaults_are_shown_as_one_would_type_them(value, text):
    assert options.text_of(value) == text
    assert not isinstance(value, float) or float(text) == value


# --- What is refused ---


@pytest.mark.parametrize("wrapper, words, said", [
    ("electra", ["--train_steps_p2=4"], ["--warmup_steps_p2=5 must be below --train_steps_p2=4"]),
    ("electra", ["--warmup_steps_p1=20"], ["--warmup_steps_p1=20 must be below --train_steps_p1=20"]),
    ("electra", ["--train_batch_size_p2=0"], ["--train_batch_size_p2=0 is too small"]),
    ("electra", ["--learning_rate_p2=fast"], ["--learning_rate_p2=fast"]),
    ("electra", ["--save_checkpoint_steps=2.5"], ["--save_checkpoint_steps=2.5"]),
    ("electra", ["--electra_model=huge"], ["--electra_model=huge", "tiny, small, base, large"]),
    ("electra", ["--max_seq_length_p2=1024"], ["--max_seq_length_p2=1024 exceeds", "512"]),
    ("electra", ["--model_config={\"hiden_size\": 3}"], ["'hiden_size'", "'hidden_size'"]),
    ("electra", ["--model_config=nowhere.json"], ["nowhere.json cannot be read"]),
    ("electra", ["--overwrite", "--resume_training"], ["--overwrite", "--resume_training"]),
    ("electra", ["--phase=2", "--overwrite"], ["--overwrite", "--phase=2"]),
    ("electra", ["--phase=2", "--init_checkpoint=x"], ["--init_checkpoint", "--phase=2"]),
    ("electra", ["--xla=maybe"], ["--xla=maybe", "xla, auto, true, false"]),
    ("electra", ["--num_hpu=two"], ["--num_workers=two"]),
    ("electra", ["--train_step_p2=4"], ["--train_step_p2: did you mean --train_steps_p2?"]),
    ("electra", ["--zzz=4"], ["--zzz", "--help"]),
    ("electra", ["--dry-run", "--data_dir_p2="], ["phase 2", "--data_dir_p2", "DATASET_P2"]),
    ("electra_squad", ["--batch_size=0"], ["--batch_size=0 is too small"]),
    ("electra_squad", ["--epochs=x"], ["--epochs=x"]),
    ("electra_squad", ["--infer-batch-size", "1.5"], ["--infer_batch_size=1.5"]),
    ("electra_squad", ["--beam_size=999"], ["--beam_size=999", "--length_buckets"]),
    ("electra_squad", ["--squad_dir=/nowhere"], ["--squad_dir=/nowhere"]),
    ("finetune_ckpts_on_squad", ["--checkpoints=x", "--infer_batch_size=0"], ["--infer_batch_size=0 is too small"]),
    ("finetune_ckpts_on_squad", ["--checkpoints=x", "--keep_checkpoint_max=3"], ["--keep_checkpoint_max=3", "2"]),
    ("finetune_ckpts_on_squad", ["--checkpoints=x", "--mode=eval"], ["unknown option --mode"]),
    ("electra", ["--estimate", "--sequences_per_second=x"], ["--sequences_per_second=x"]),
    ("electra", ["--estimate", "--env=cluster"], ["--estimate", "--env=cluster"]),
    ("electra", ["--network_gbits=10"], ["--network_gbits", "--estimate"]),
    ("electra_squad", ["--estimate", "--mode=eval"], ["--estimate", "--mode=eval"]),
    ("finetune_ckpts_on_squad", ["--checkpoints=x", "--estimate"], ["unknown option --estimate"]),
    ("benchmark_pretraining", ["cpu", "fp32", "huge"], ["--electra_model=huge", "tiny, small, base, large"]),
    ("benchmark_pretraining", ["--batchsize=8"], ["unknown option --batchsize: did you mean --batch_size?"]),
    ("benchmark_pretraining", ["--batch_size=0"], ["--batch_size=0 is too small"]),
    ("benchmark_pretraining", ["--max_seq_length=600"], ["--max_seq_length=600", "512"]),
    ("benchmark_pretraining", ["--against=hf", "--objective=mlm"], ["--against=hf", "--objective"]),
    ("benchmark_squad", ["hpu", "--against=hf", "--dry_run"], ["--against=hf", "hpu"]),
    ("benchmark_squad", ["--objective=mlm"], ["unknown option --objective"]),
    ("benchmark_squad", ["--length_buckets=a"], ["--length_buckets=a"]),
    ("electra", ["--profile_steps=5"], ["--profile_steps=5", "10:15"]),
    ("electra_squad", ["--squad_dir=/", "--profile_steps=5:4"], ["--profile_steps=5:4"]),
    ("install_horovod", ["--device=tpu"], ["--device=tpu", "cpu, gpu, hpu"]),
])
def test_a_call_is_refused_in_the_names_of_its_options(plan, refuses, wrapper, words, said):
    text = refuses(plan, wrapper, *words)
    assert all(word in text for word in said), text


def test_the_phase_that_is_not_run_is_not_checked(plan):
    assert len(plan("electra", "--phase=1", "--train_steps_p2=4").configs) == 1


# --- Estimates ---


@pytest.mark.parametrize("wrapper", ["electra", "electra_squad"])
def test_an_estimate_is_one_process_and_needs_no_device_whose_speed_is_given(plan, wrapper):
    words = ["--squad_dir=/"] if wrapper == "electra_squad" else []
    made = plan(wrapper, *words, "hpu", "--num_workers=8", "--estimate", "--sequences_per_second=340",
                "--estimate_file=a.json")
    estimate = made.variables["estimate"]
    assert estimate[:2] == ["estimate.py", "--sequences_per_second=340"]
    assert estimate[2].startswith("--estimate_file=/") and estimate[2].endswith("/a.json")
    assert (made.variables["device"], made.variables["num_workers"], made.folder) == ("cpu", "1", "")
    command = made.variables["options_p1" if wrapper == "electra" else "command"]
    assert {"--device=hpu", "--num_workers=8"} < set(command)
    assert plan(wrapper, *words).variables["estimate"] == []


def test_an_estimate_asks_for_records_but_not_for_an_earlier_phase(plan, refuses, tmp_path):
    assert plan("electra", "--phase=2", "--estimate").variables["phases"] == ["2"]
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("A sentence.\n")
    text = refuses(recipe.plan, "electra", ["--corpus_dir=text", "--estimate"], str(tmp_path))
    assert "--corpus_dir" in text and "data/base/vocab" in text and "--dry_run" in text


# --- What is passed ---


def test_what_the_recipe_states_and_what_differs_from_the_program_is_passed(plan):
    words = plan("electra", "cpu", "fp32", "--optimizer=lamb", "--log_freq=7").variables["options_p1"]
    assert {"--learning_rate=6e-3", "--max_seq_length=128", "--log_freq=7", "--device=cpu"} < set(words)
    assert not [word for word in words if re.match("--(optimizer|mask_prob|num_workers|opt_beta_1)", word)]
    squad = plan("electra_squad", "--squad_dir=/").variables["command"]
    assert not [word for word in squad if "beam_size" in word]
    assert "--beam_size=5" in plan("electra_squad", "--squad_dir=/", "--beam_size=5").variables["command"]


@pytest.mark.parametrize("wrapper", ["electra", "electra_squad"])
def test_the_command_makes_the_configuration_that_was_checked(plan, wrapper):
    words = {"electra": ["--precision=bf16", "--optimizer=adamw", "--overwrite", "--init_checkpoint=/w", "--num_hpu=2"],
             "electra_squad": ["--squad_dir=/", "--joint_head=false", "--seed=3", "--squad_version=2.0", "--mode=eval"]}
    made = plan(wrapper, *words[wrapper])
    found = [["program", *value] if name.startswith("options") else value for name, value in made.variables.items()
             if name.startswith(("options", "command"))]
    assert len(found) == len(made.configs) > 0
    for command, config in zip(found, made.configs):
        phase_2 = pretraining_recipe.PHASE_2 if getattr(config, "phase2", False) else {}
        more = [f"--{name}={value}" for name, value in phase_2.items()]
        assert command_line.parse(type(config), [*command, *more], "") == config


def test_empty_values_keep_the_default_by_name_and_by_position(plan):
    assert plan("electra", "--seed=", "--results_dir=", "--model_name=") == plan("electra", "", "") == plan("electra")


def test_a_model_is_evaluated_with_the_beam_that_it_was_saved_with(plan, squad_data, tmp_path):
    """The wrapper leaves --beam_size out unless it is given."""
    tokenizer = ElectraTokenizer(str(squad_data / "vocab.txt"))
    source = weights.read(str(squad_data / "model"))
    model = modeling.QuestionAnswering(source.config, True, False, 9, seed=1)
    weights.save_folder(model, "question_answering", tokenizer, str(tmp_path / "saved"))
    call = ["--squad_dir=/", "--mode=eval", f"--init_checkpoint={tmp_path / 'saved'}"]
    for more, beam in ([], 9), (["--beam_size=4"], 4):
        command = plan("electra_squad", *call, *more).variables["command"]
        config = command_line.parse(SquadConfig, command, "")
        saved = weights.read(config.init_checkpoint)
        assert weights.question_answering(saved, tokenizer, config.beam_size).beam_size == beam


# --- What bash gets ---

HOSTILE = ["$(touch hacked)", "`touch hacked`", "a'b", 'a"b', "a b", "a;touch hacked", "a\nb", "a\\", "$HOME", "*", "~",
           "a && touch hacked", "'; touch hacked; '", "\udcff\udc80", "ü", "!!", "-",
           "a=(b)", "${x[$(touch hacked)]}", "#"]


def test_bash_reads_every_value_as_the_text_that_it_is(tmp_path):
    code = recipe.bash({"one": HOSTILE[0], "empty": "", "many": HOSTILE, "none": []})
    script = b"set -u\n" + os.fsencode(code) + b"printf '%s\\0' \"$one\" \"$empty\" ${#none[@]} \"${many[@]}\""
    found = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, check=True).stdout
    assert os.fsdecode(found).split("\0")[:-1] == [HOSTILE[0], "", "0", *HOSTILE]
    assert os.listdir(tmp_path) == []


def test_nothing_that_a_user_gives_is_interpreted_by_the_shell(tmp_path):
    clone = Clone(make_folder(tmp_path / "clone"))
    python = write_executable(tmp_path / "python", STAND_IN + """
[[ $1 != run_* ]] || printf '%s\\0' "$@" >"$CALLS"
""")
    before = {path.name for path in clone.folder.iterdir()}
    for text in (HOSTILE[0], HOSTILE[1], "';touch hacked;'", " ".join(HOSTILE[:13])):
        for wrapper, words in ("electra.sh", ["--phase=1", "--data_dir_p1=/", f"--model_name={text}"]), (
                "electra_squad.sh", ["--squad_dir=/", f"--electra_model={text}", f"--out_dir=results/{text}"]):
            result = clone.call(*words, wrapper=wrapper, PYTHON=python)
            assert result.returncode == 0, result.stderr
            assert words[-1].replace("out_dir", "output_dir") in os.fsdecode(clone.calls.read_bytes()).split("\0")
            assert {path.name for path in clone.folder.iterdir()} <= {*before, "__pycache__", "results", "calls.txt"}
    refused = clone.call("--job_name=$(touch hacked)")
    assert refused.returncode == 2 and "--job_name=$(touch hacked)" in refused.stderr


# --- Text to records ---


def corpus_plan(tmp_path, *words):
    return recipe.plan("electra", [f"--corpus_dir={tmp_path / 'text'}", "--model_name=mine", "--dry_run", *words],
                       str(tmp_path))


def test_a_corpus_is_built_into_the_records_of_both_phases_with_a_vocabulary_of_its_own(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("One sentence.\n")
    made = corpus_plan(tmp_path).variables
    assert made["built_folders"] == ["data/mine/vocab", "data/mine/seq_len_128", "data/mine/seq_len_512"]
    vocabulary, first, second = (made[f"build_{number}"] for number in range(3))
    assert vocabulary[0] == "data/build_vocab.py" and f"--corpus_dir={tmp_path / 'text'}" in vocabulary
    assert {"--vocab_file=data/mine/vocab/vocab.txt", "--max_seq_length=128"} < set(first)
    assert "--max_seq_length=512" in second
    assert {"--pretrain_tfrecords=data/mine/seq_len_512", "--eval_tfrecords=data/mine/seq_len_512/eval"} < set(
        made["options_p2"])
    given = corpus_plan(tmp_path, "--vocab_file=/v/vocab.txt", "--phase=1", "--eval=none").variables
    assert given["built_folders"] == ["data/mine/seq_len_128"] and "--vocab_file=/v/vocab.txt" in given["build_0"]
    assert not [word for word in given["options_p1"] if "eval" in word]


WRAPPED = """It was a long winter in the valley, and the road to the mill
was closed until the end of the month. Nobody came to
the house except the man who brought the letters.

In spring the river rose.
"""


def test_text_that_is_not_one_sentence_per_line_is_prepared_first(tmp_path):
    folder = tmp_path / "text" / "sub"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text(WRAPPED)
    made = corpus_plan(tmp_path, "--language=de", "--vocab_size=500", "--vocab_type=sentencepiece",
                       "--prepare_options=--deduplicate=exact --min_characters=9").variables
    base = made["built_folders"][0][:-len("/prepared")]
    assert re.fullmatch("data/mine/[0-9a-f]{10}", base)
    vocabulary = f"{base}/vocab_sentencepiece_500"
    assert made["built_folders"] == [f"{base}/prepared", vocabulary, f"{vocabulary}/seq_len_128",
                                     f"{vocabulary}/seq_len_512"]
    assert made["build_0"] == ["data/prepare_corpus.py", f"--input_dir={tmp_path / 'text'}",
                               f"--output_dir={base}/prepared", "--language=de", "--deduplicate=exact",
                               "--min_characters=9"]
    assert {f"--corpus_dir={base}/prepared/text", "--vocab_size=500", "--type=sentencepiece"} < set(made["build_1"])
    assert {f"--corpus_dir={base}/prepared/text", f"--vocab_file={vocabulary}/spiece.model"} < set(made["build_2"])


def test_what_was_prepared_is_used_again_for_the_same_text_and_options_alone(tmp_path):
    def place(*words):
        return corpus_plan(tmp_path, *words).variables["built_folders"][0]

    (tmp_path / "text").mkdir()
    text = tmp_path / "text" / "a.txt"
    text.write_text(WRAPPED)
    first = place()
    os.utime(text, (1, 1))
    assert place() == first != place("--language=de")
    assert place("--vocab_size=9000") == first != place("--prepare_options=--seed=2")
    text.write_text(WRAPPED.replace("winter", "summer"))
    assert place() != first
    text.write_text(WRAPPED)
    assert place() == first


def test_a_vocabulary_that_is_given_is_part_of_the_place_of_records_of_prepared_text(tmp_path, refuses):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(WRAPPED)
    places = []
    for content in ("one", "two"):
        (tmp_path / "vocab.txt").write_text(content)
        places.append(corpus_plan(tmp_path, f"--vocab_file={tmp_path / 'vocab.txt'}").variables["built_folders"])
    assert places[0][0] == places[1][0] and not set(places[0][1:]) & set(places[1][1:]) and len(places[0]) == 3
    assert "--vocab_size" in refuses(corpus_plan, tmp_path, "--vocab_file=v", "--vocab_size=9")
    assert "--vocab_size=many" in refuses(corpus_plan, tmp_path, "--vocab_size=many")
    assert "--prepare_options" in refuses(corpus_plan, tmp_path, "--prepare_options='")


def test_packed_records_have_a_place_of_their_own(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("One sentence.\n")
    made = corpus_plan(tmp_path, "--pack_documents").variables
    assert made["built_folders"][1:] == ["data/mine/seq_len_128_packed", "data/mine/seq_len_512_packed"]
    assert "--pack_documents" in made["build_1"] and "--pack_documents" not in made["build_0"]


def test_whether_text_is_prepared_can_be_stated(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("One sentence.\nAnd another one.\n")
    assert len(corpus_plan(tmp_path).variables["built_folders"]) == 3
    assert len(corpus_plan(tmp_path, "--prepare=true").variables["built_folders"]) == 4
    (tmp_path / "text" / "b.jsonl").write_text('{"text": "x"}\n')
    assert len(corpus_plan(tmp_path).variables["built_folders"]) == 4
    assert len(corpus_plan(tmp_path, "--prepare=false").variables["built_folders"]) == 3
    (tmp_path / "manifest.json").write_text('{"format": "electra-corpus"}')  # of a corpus whose folder is text/
    assert len(corpus_plan(tmp_path).variables["built_folders"]) == 3


def test_a_corpus_that_cannot_be_used_is_refused(tmp_path, refuses, monkeypatch):
    assert "--corpus_dir" in refuses(corpus_plan, tmp_path)
    (tmp_path / "text").mkdir()
    assert "no text" in refuses(corpus_plan, tmp_path)
    (tmp_path / "text" / "a.txt").write_text("One sentence.\n")
    assert "--data_dir_p2" in refuses(corpus_plan, tmp_path, "--data_dir_p2=/")
    monkeypatch.setattr(pretraining_recipe, "ROOT", str(tmp_path))  # where data/mine is
    built = tmp_path / "data" / "mine" / "seq_len_128"
    built.mkdir(parents=True)
    for content, word in (({"corpus": [{"file": "a.txt", "bytes": 14}]}, None), ({"corpus": []}, "--model_name"),
                          ({"corpus": 3}, "manifest.json")):
        (built / "manifest.json").write_text(json.dumps(content))
        if word:
            assert word in refuses(corpus_plan, tmp_path)
        else:
            corpus_plan(tmp_path)


def test_a_mixture_is_passed_with_its_weights_and_the_held_out_shards_of_all_its_datasets(tmp_path, plan, refuses):
    for name in ("wiki/eval", "books/eval", "odd:0.5/eval", "bare"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "wiki" / "vocab.txt").write_text("a")
    (tmp_path / "books" / "vocab.txt").write_text("b")

    def options(data, *more):
        return plan("electra", f"--data_dir_p1={data}", "--phase=1", *more).variables["options_p1"]

    here = str(tmp_path)
    assert {f"--pretrain_tfrecords={here}/wiki:0.7,{here}/books:0.3",
            f"--eval_tfrecords={here}/wiki/eval:0.7,{here}/books/eval:0.3"} <= set(options("wiki:0.7,books:0.3"))
    assert f"--eval_tfrecords={here}/odd:0.5/eval" in options("odd:0.5")
    assert f"--eval_tfrecords={here}/odd:0.5/eval:2" in options("odd:0.5:2")
    for without in (options("wiki:1,bare:1"), options("wiki:1,books:1", "--eval=none"), options("wiki,books")):
        assert not any("--eval_tfrecords" in word for word in without)
    for data, words in (("wiki:0,books:1", "wiki has weight 0"), ("wiki:1,books", "books has no weight"),
                        ("wiki:nan", "weight nan"), ("wiki:1,none:1", "none, does not exist"),
                        ("wiki:1,,", "empty part")):
        text = refuses(options, data)
        assert "--data_dir_p1" in text and words in text
    text = refuses(plan, "electra", "--data_dir_p1=wiki:0.5,books:0.5", "--data_dir_p2=books:1")
    assert "vocabulary" in text and "--data_dir_p2" in text


# --- Datasets from their beginning ---


def datasets_plan(tmp_path, *words):
    made = recipe.plan("create_datasets_from_start", [*words, "--dry_run"], str(tmp_path)).variables
    return made["built_folders"], [made[f"build_{number}"] for number in range(len(made["built_folders"]))]


def test_a_dataset_is_downloaded_prepared_and_built_where_data_dir_says(tmp_path):
    folder = tmp_path / "de"
    folders, commands = datasets_plan(tmp_path, "wiki_books", f"--data_dir={folder}", "--language=de", "--books=5,7",
                                      "--offline", "--prepare_options=--seed=3")
    assert folders == ["", "", "", f"{folder}/vocab", f"{folder}/seq_len_128", f"{folder}/seq_len_512"]
    assert [command[0] for command in commands] == ["data/download.py"] * 2 + [
        "data/prepare_corpus.py", "data/build_vocab.py"] + ["build_pretraining_dataset.py"] * 2
    assert {"--dataset=wikipedia", "--language=de", "--date=latest", "--offline"} < set(commands[0])
    assert {"--dataset=gutenberg", "--books=5,7", "--offline"} < set(commands[1])
    assert f"--input_dir={folder}/download/wikipedia,{folder}/download/gutenberg" in commands[2]
    assert "--seed=3" in commands[2] and "--eval_fraction=0.005" in commands[4]
    assert f"--vocab_file={folder}/vocab/vocab.txt" in commands[5]


def test_a_dataset_that_was_built_is_not_taken_for_one_of_other_options(tmp_path, refuses):
    (tmp_path / "text").mkdir()
    records = tmp_path / "data" / "seq_len_128"
    records.mkdir(parents=True)
    (records / "manifest.json").write_text('{"eval_fraction": 0.005}')
    words = [tmp_path, "corpus", "text", f"--data_dir={records.parent}"]
    finished = recipe.plan("create_datasets_from_start", [*words[1:], "--dry_run"], str(tmp_path)).variables["finished"]
    assert f"--data_dir_p1={records} --data_dir_p2={records.parent}/seq_len_512" in finished
    for option, named in (("--eval_fraction=0.01", str(records)), ("--prepare_options=--overwrite", "--data_dir"),
                          ("--eval_fraction=none", "--eval_fraction=none"), ("--eval_fraction=1", "0.9"),
                          ("--num_out_files=0", "--num_out_files=0")):
        assert named in refuses(datasets_plan, *words, option)


def test_datasets_have_names_and_sources(tmp_path, refuses):
    assert datasets_plan(tmp_path, "wiki_only") == datasets_plan(tmp_path, "wiki")
    assert [command[0] for command in datasets_plan(tmp_path, "squad")[1]] == ["data/download.py"]
    (tmp_path / "text").mkdir()
    folders, commands = datasets_plan(tmp_path, "corpus", "text", "--vocab_size=9")
    assert f"--input_dir={tmp_path}/text" in commands[0] and folders[1] == "data/corpus/vocab_9"
    assert f"--input_dir={tmp_path}/text" in datasets_plan(tmp_path, "books", "--books_dir=text")[1][0]
    for words, word in ((["wiki_books"], "--books_dir"), (["books", "--books_dir=text", "--books=1"], "--book_list"),
                        (["corpus"], "FOLDER"), (["wiki", "text"], "FOLDER"), (["corpus", "none"], "--corpus_dir=none"),
                        (["books", "--books_dir=none"], "--books_dir=none"), (["news"], "wiki_books")):
        assert word in refuses(datasets_plan, tmp_path, *words)
