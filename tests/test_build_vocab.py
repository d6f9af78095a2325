"""data/build_vocab.py: tokens against a slow trainer, the same bytes for any threads and order, alphabets, refusals."""
from __future__ import annotations

import collections
import dataclasses
import fcntl
import itertools
import json
import os
import pathlib
import pty
import random
import signal
import struct
import subprocess
import sys
import termios

import languages
import numpy as np
import pytest
import support

SCRIPT = str(support.ROOT / "data" / "build_vocab.py")
sys.path.insert(0, os.path.dirname(SCRIPT))

import build_vocab  # noqa: E402
from build_vocab import VocabConfig, learn  # noqa: E402

import build_pretraining_dataset as builder  # noqa: E402
import process_pool  # noqa: E402
import squad_utils  # noqa: E402
from configuration import RunFailed  # noqa: E402
from tokenization import SPECIAL_TOKENS, ElectraTokenizer  # noqa: E402


def make_text(seed, lines=400):
    """Sentences of invented words of two to nine letters, the early ones more frequent, with equal frequencies."""
    draw = random.Random(seed)
    syllables = ["".join(pair) for pair in itertools.product("bdklmnrstv", "aeiou")]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) + draw.choice(["", "s"]) for _ in range(300)]
    ranks = [1 / (rank + 1) for rank in range(len(words))]
    return [" ".join(draw.choices(words, ranks, k=draw.randint(3, 12))).capitalize() + ".\n" for _ in range(lines)]


@pytest.fixture
def write(tmp_path):
    """Writes the files of a corpus folder (name -> text or bytes), and returns the folder."""
    def run(name="text", **content):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for file, text in content.items():
            (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
        return folder

    return run


def config(folder, **options):
    return VocabConfig(**{"corpus_dir": str(folder), "output_dir": str(folder.parent / "out"), **options})


@pytest.fixture
def in_process(monkeypatch):
    """Trains in this process, where a test is not about the other one, which takes half a second to start."""
    monkeypatch.setattr(build_vocab, "in_process", lambda function, config: function(config))


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- Tokens ---


def slow_tokens(lines, vocab_size, min_frequency):
    """Merges the most frequent pair of tokens again and again; of equally frequent ones that with the lowest ids."""
    words = collections.Counter(word for line in lines for word in line.lower().replace(".", " . ").split())
    characters = sorted(set("".join(words)))
    tokens = [*SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters if character != ".")]
    split = {word: [word[0], *(f"##{character}" for character in word[1:])] for word in words}
    while len(tokens) < vocab_size:
        ids = {token: id_ for id_, token in enumerate(tokens)}
        pairs = collections.Counter()
        for word, count in words.items():
            for pair in zip(split[word], split[word][1:]):
                pairs[pair] += count
        if not pairs or max(pairs.values()) < min_frequency:
            break
        left, right = min(pairs, key=lambda pair: (-pairs[pair], [ids[token] for token in pair]))
        if left + right[2:] not in ids:
            tokens.append(left + right[2:])
        for word, parts in split.items():
            merged, position = [], 0
            while position < len(parts):
                both = tuple(parts[position:position + 2]) == (left, right)
                merged.append(left + right[2:] if both else parts[position])
                position += 2 if both else 1
            split[word] = merged
    return tokens


@pytest.mark.parametrize("vocab_size, min_frequency", [(150, 2), (100_000, 40), (100_000, 1)])
def test_tokens_are_those_of_a_slow_trainer(write, vocab_size, min_frequency):
    lines = make_text(1, 100)
    options = dict(vocab_size=vocab_size, min_frequency=min_frequency)
    tokens = learn(config(write(a="".join(lines)), **options)).tokens
    assert tokens == slow_tokens(lines, **options)
    assert len(tokens) == 150 or 50 < len(tokens) < 5000


def test_threads_and_files_do_not_change_a_byte(write, tmp_path):
    lines = make_text(2)
    shuffled = random.Random(3).sample(lines, len(lines))
    folders = [write("one", a="".join(lines)), write("two", z="".join(shuffled[:90]), b="\n\n".join(shuffled[90:]))]
    outputs = []
    for folder, threads in zip(folders, ("1", "5")):
        result = subprocess.run([sys.executable, SCRIPT, f"--corpus_dir={folder}", f"--output_dir={folder}_out",
                                 "--vocab_size=500"], check=True, capture_output=True, text=True,
                                env={**os.environ, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"})
        assert "vocab.txt: 500 tokens" in result.stdout and not result.stderr  # progress is for terminals
        outputs.append(content(pathlib.Path(f"{folder}_out")))
        assert b"characters_per_token" in outputs[-1].pop("vocab_report.json")
    assert outputs[0] == outputs[1] and sorted(outputs[0]) == ["tokenizer_config.json", "vocab.txt"]
    assert outputs[0]["vocab.txt"].count(b"\n") == 500


def test_every_word_that_consists_of_the_alphabet_has_tokens(write, tmp_path, in_process):
    tokenizer = build_vocab.build(config(write(a="".join(make_text(4)) + "Ünï “quoted” 中国 ก๊\n"), vocab_size=400))
    letters = [token for token in tokenizer.tokens if len(token) == 1]
    draw = random.Random(5)
    words = ["".join(draw.choices(letters, k=draw.randint(1, 12))) for _ in range(500)]
    assert not any(tokenizer.unk_id in ids for ids in tokenizer.encode_batch(words))
    assert {"“", "中", "u", "##u", ".", "ก", "##ก"} <= set(tokenizer.tokens)
    assert not {"##.", "##中", "##“", "Ü", "ü"} & set(tokenizer.tokens)


def test_words_with_rare_characters_are_left_out(write):
    lines = make_text(6, 2000)
    clean = learn(config(write("clean", a="".join(lines)), vocab_size=200))
    words = "ka\u0283ka " * 2 + "\u0294\n" + "lo\u0265lo\n"
    written = write("rare", a="".join(lines[:900]) + words + "".join(lines[900:]))
    rare = learn(config(written, vocab_size=200, character_coverage=0.999))
    assert (rare.tokens, rare.num_rare) == (clean.tokens, 3)
    whole = learn(config(written, vocab_size=200, character_coverage=1.0))
    assert {"\u0283", "##\u0283", "\u0294", "\u0265"} <= set(whole.tokens) and whole.num_rare == 0
    large = learn(config(written, vocab_size=3000, character_coverage=0.999))  # has room for 93 characters
    assert large.num_characters == whole.num_characters and large.num_rare == 0


def test_a_corpus_too_small_for_the_vocabulary_says_how_many_tokens_it_gave(write, in_process, capsys):
    tokenizer = build_vocab.build(config(write(a="the cat the cat\n"), vocab_size=1000))
    assert tokenizer.tokens[5:] == [*"aceht", *(f"##{letter}" for letter in "aceht"), "ca", "th", "cat", "the"]
    assert "19 tokens instead of --vocab_size=1000" in capsys.readouterr().out


# --- SentencePiece ---


@pytest.mark.parametrize("kind", ["sentencepiece", "bpe"])
def test_sentencepiece_gives_the_same_bytes_for_any_order_and_elects_special_tokens(kind, write):
    lines = make_text(9) + [f"{line}\n" for line in languages.corpus("german", 50)]
    shuffled = random.Random(3).sample(lines, len(lines))
    folders = [write("one", a="".join(lines)), write("two", z="".join(shuffled[:90]), b="\n\n".join(shuffled[90:]))]
    learned = [learn(config(folder, type=kind, vocab_size=200)) for folder in folders]
    assert learned[0].model == learned[1].model
    tokenizer = learned[0].tokenizer(config(folders[0]))
    assert tokenizer.tokens[:5] == list(SPECIAL_TOKENS) and tokenizer.special_ids == (0, 1, 2, 3, 4)
    assert tokenizer.vocab_size == 200
    few = learn(config(folders[0], type=kind, vocab_size=100, input_sentence_size=20, character_coverage=0.98))
    assert few.model != learned[0].model


def test_pieces_are_cased_or_not_and_never_join_punctuation_or_ideographs(write):
    text = "".join(f"{line}\n" for name in languages.LANGUAGES for line in languages.corpus(name, 400))
    folder = write(a=text + "Die (Mühle) “1912年” gut.\n" * 300)

    def pieces(**options):
        return learn(config(folder, type="bpe", vocab_size=900, **options)).tokens[5:]

    uncased = pieces()
    joined = [piece.strip("▁") for piece in uncased if len(piece.strip("▁")) > 1]
    assert "ü" in "".join(uncased) and "Ü" not in "".join(uncased) and len(joined) > 200
    assert not any(mark in piece for piece in joined for mark in "().,“”!?年京。")
    cased = pieces(do_lower_case=False, tokenize_chinese_chars=False)
    assert any(piece.startswith("▁D") for piece in cased) and any("出生" in piece for piece in cased)


def test_characters_beyond_the_coverage_become_bytes_or_unknown(write):
    folder = write(a="".join(make_text(6, 500)) + "ka\u0283ka\n")
    options = dict(type="bpe", vocab_size=400, character_coverage=0.99)
    plain = learn(config(folder, **options)).tokenizer(config(folder))
    assert plain.unk_id in plain.encode("\u0283").ids
    by_bytes = learn(config(folder, byte_fallback=True, **options)).tokenizer(config(folder))
    assert [by_bytes.tokens[i] for i in by_bytes.encode("\u0283").ids] == ["▁", "<0xCA>", "<0x83>"]


@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_answers_to_questions_are_the_exact_characters(language, write, tmp_path):
    (tmp_path / "questions.json").write_text(json.dumps(languages.squad(language, 200)))
    examples = squad_utils.read_squad(str(tmp_path / "questions.json"), version_2=False)
    folder = write(a="\n".join(languages.corpus(language, 500)))
    for options in (dict(type="sentencepiece"), dict(type="bpe"), dict(type="bpe", do_lower_case=False),
                    dict(type="bpe", byte_fallback=True, character_coverage=0.98)):
        tokenizer = learn(config(folder, vocab_size=900, **options)).tokenizer(config(folder))
        features = squad_utils.build_features(examples, tokenizer, max_seq_length=384)
        exact = 0
        for row in np.flatnonzero(features.is_impossible == 0):
            example = examples[features.example_index[row]]
            found = example.context[features.char_start[row, features.start_positions[row]]:
                                    features.char_end[row, features.end_positions[row]]]
            exact += found == example.answers[0][0]
        assert exact >= 199, options


# --- The report ---


def test_the_report_has_the_figures_of_every_file(write, in_process, tmp_path, capsys):
    folder = write(a="the cat\nthe (cat) x\n", b="the 中\n" * 3)
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "the", "c", "##at", "(", ")", "unused"]))
    build_vocab.report_only(VocabConfig(corpus_dir=str(folder), report=True, vocab_file=str(tmp_path / "vocab.txt"),
                                        output_dir=str(tmp_path / "out")))
    report = json.loads((tmp_path / "out" / "vocab_report.json").read_text())
    a, b = report["files"]
    # the c ##at / the ( c ##at ) [UNK]; words: the cat the cat x
    assert (a["file"], a["tokens"], a["words"], a["characters"]) == ("a", 9, 5, 18)
    assert (a["characters_per_token"], a["unknown_share"], a["whole_word_share"]) == (2.0, round(1 / 9, 6), 0.4)
    assert (b["tokens"], b["unknown_share"], b["whole_word_share"]) == (6, 0.5, 0.5)
    assert report["total"]["tokens"] == 15 and report["total"]["unknown_share"] == round(4 / 15, 6)
    assert report["vocab_size"] == 11 and report["tokens_not_in_text"] == 1 and report["longest"][0] == "unused"
    assert report["rarest"][0] == ["(", 1]
    assert "11 tokens" in capsys.readouterr().out and os.listdir(tmp_path / "out") == ["vocab_report.json"]


def test_the_report_reads_the_beginning_of_large_files(write, monkeypatch):
    folder = write(a="the cat\n" * 1000, b="the cat\n")
    monkeypatch.setattr(build_vocab, "BLOCK_BYTES", 64)
    monkeypatch.setattr(build_vocab, "REPORT_BYTES", 400)
    report = build_vocab.make_report(config(folder), config(folder).tokenizer([*SPECIAL_TOKENS, "the", "cat"]))
    large, small = report["files"]
    assert small["bytes"] == 8 and 200 < large["bytes"] <= 392


# --- The files, and who reads them ---


def test_casing_is_saved_and_taken_by_the_dataset_builder(write, tmp_path, in_process):
    folder, seen = write(a="Une Fée Fée\n\nune fée\n" * 20), {}
    for name, options in (("uncased", {}), ("cased", dict(do_lower_case=False)),
                          ("accents", dict(strip_accents="false"))):
        out = tmp_path / name
        made = build_vocab.build(config(folder, output_dir=str(out), vocab_size=60, **options))
        seen[name] = set(made.tokens)
        data = dict(corpus_dir=str(folder), vocab_file=str(out / "vocab.txt"), output_dir=str(tmp_path / "data"))
        assert builder.BuildConfig(**data).tokenizer().fingerprint == made.fingerprint
        assert builder.BuildConfig(**data, do_lower_case=True, strip_accents="none").tokenizer().strip_accents is None
        assert builder.BuildConfig(**data, do_lower_case=False).tokenizer().do_lower_case is False
    assert {"fee", "une"} <= seen["uncased"] and {"Fée", "Une", "une"} <= seen["cased"] and "fée" in seen["accents"]
    (tmp_path / "cased" / "tokenizer_config.json").unlink()
    data["vocab_file"] = str(tmp_path / "cased" / "vocab.txt")
    assert builder.BuildConfig(**data).tokenizer().do_lower_case is True


def test_the_files_of_the_corpus_are_those_of_the_dataset_builder(write, tmp_path):
    folder = write(a="the cat\n", b="", c=b"\xef\xbb\xbfa cat\r\n\x01\n", **{".hidden": "dog\n"})
    (folder / "sub").mkdir()
    (folder / "sub" / "d").write_text("bird\n")
    assert learn(config(folder)).tokens[5:] == [*"aceht", *(f"##{letter}" for letter in "aceht"), "ca", "cat"]


def test_other_files_stay_and_an_old_vocabulary_is_replaced_only_with_overwrite(write, tmp_path, refuses, monkeypatch):
    folder, out = write(a="a cat\n"), write("out", notes="mine")
    monkeypatch.setattr(build_vocab, "in_process", lambda function, config: function(config))
    words = [f"--corpus_dir={folder}", f"--output_dir={out}"]
    monkeypatch.setattr(process_pool, "stop_on_signals", lambda _: None)
    build_vocab.main([SCRIPT, *words])
    assert sorted(content(out)) == ["notes", "tokenizer_config.json", "vocab.txt", "vocab_report.json"]
    before = content(out)
    (folder / "a").write_text("a dog\n")
    sentence = refuses(build_vocab.main, [SCRIPT, *words])
    assert "--overwrite" in sentence and "vocab.txt" in sentence and content(out) == before
    build_vocab.main([SCRIPT, *words, "--overwrite", "--nodo_lower_case"])
    assert b"d\n" in content(out)["vocab.txt"] and content(out)["notes"] == b"mine"
    assert json.loads(content(out)["tokenizer_config.json"])["do_lower_case"] is False
    assert ElectraTokenizer.from_folder(str(out)).tokens[0] == "[PAD]"
    build_vocab.main([SCRIPT, *words, "--overwrite", "--type=bpe"])
    assert sorted(content(out)) == ["notes", "spiece.model", "tokenizer.json", "tokenizer_config.json",
                                    "vocab_report.json"]
    assert ElectraTokenizer.from_folder(str(out)).notation == "▁"


# --- Memory, progress, ends ---


def test_text_is_read_in_blocks_of_lines(write, monkeypatch, refuses):
    lines = [f"{number} é\n" * (number % 7) for number in range(300)]
    path = str(write(a="".join(lines)) / "a")
    monkeypatch.setattr(build_vocab, "BLOCK_BYTES", 100)
    blocks = list(build_vocab.read_blocks(path, "strict"))
    assert "".join(text for text, _ in blocks) == "".join(lines) and len(blocks) > 50
    assert all(text.endswith("\n") and size == len(text.encode()) <= 110 for text, size in blocks)
    monkeypatch.setattr(builder, "LINE_BOUND", 1 << 20)
    assert "1 MiB" in refuses(list, build_vocab.read_blocks(str(write(b="a" * (2 << 20)) / "b"), "strict"))


def test_progress_is_shown_on_a_terminal(write):
    folder = write(a="".join(make_text(7)))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    subprocess.run([sys.executable, SCRIPT, f"--corpus_dir={folder}", f"--output_dir={folder}_out", "--vocab_size=500"],
                   stdout=theirs, stderr=theirs, check=True)
    shown = os.read(ours, 100_000).decode()
    assert "characters: 100%" in shown and "Compute merges" in shown and "500 tokens" in shown


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="finds the training process in /proc")
@pytest.mark.parametrize("number, target, status, sentence", [
    (signal.SIGINT, "group", 75, "stopped by SIGINT"),  # as a terminal's Ctrl-C
    (signal.SIGTERM, "parent", 75, "stopped by SIGTERM"),
    (signal.SIGKILL, "worker", 1, "training process was killed")])
def test_a_signal_ends_training_at_once_and_leaves_nothing(write, tmp_path, number, target, status, sentence):
    folder = write(a="".join(make_text(8, 2000)) * 100)
    process = subprocess.Popen([sys.executable, SCRIPT, f"--corpus_dir={folder}", f"--output_dir={tmp_path / 'out'}"],
                               stderr=subprocess.PIPE, text=True, start_new_session=True)

    def training():
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"spawn_main" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
                and "numpy" in pathlib.Path(f"/proc/{pid}/maps").read_text()]

    support.wait_for(training)
    worker = training()[0]
    if target == "group":
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid if target == "parent" else worker, number)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == status
    assert sentence in errors and "nothing was written" in errors and errors.count("\n") == 1
    support.wait_for(lambda: not os.path.exists(f"/proc/{worker}/exe"))
    assert os.listdir(tmp_path) == ["text"]


def test_kill_9_leaves_no_folder_that_looks_finished(write, tmp_path):
    folder = write(a="".join(make_text(8, 2000)) * 100)
    process = subprocess.Popen([sys.executable, SCRIPT, f"--corpus_dir={folder}", f"--output_dir={tmp_path / 'out'}"],
                               start_new_session=True)
    support.wait_for(lambda: list(tmp_path.glob("out*")))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    assert not (tmp_path / "out").exists()


def test_a_signal_while_the_files_are_written_is_too_late(write, tmp_path, in_process, monkeypatch):
    def save(tokenizer, folder, save=ElectraTokenizer.save):
        os.kill(os.getpid(), signal.SIGTERM)
        save(tokenizer, folder)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(ElectraTokenizer, "save", save)
    try:
        build_vocab.main([SCRIPT, f"--corpus_dir={write(a='a cat')}", f"--output_dir={tmp_path / 'out'}"])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert sorted(content(tmp_path / "out")) == ["tokenizer_config.json", "vocab.txt", "vocab_report.json"]


def test_tensorflow_is_not_imported():
    code = "import sys, build_vocab; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=os.path.dirname(SCRIPT), check=True)


# --- What is refused ---


def test_text_that_is_not_utf8_is_refused_with_file_and_byte_or_dropped(write, monkeypatch, refuses):
    monkeypatch.setattr(build_vocab, "BLOCK_BYTES", 64)
    valid = "le chat noir\n" * 30
    folder = write(a=valid, b=valid.encode() + b"le ch\xe9at noir\n")
    sentence = refuses(learn, config(folder))
    assert "/b " in sentence and f"(byte {len(valid) + 5})" in sentence and "--encoding_errors=replace" in sentence
    assert learn(config(folder, encoding_errors="replace")).tokens == learn(config(write("good", a=valid * 2))).tokens


def test_bad_input_is_refused_in_one_sentence(write, tmp_path, in_process, refuses, monkeypatch):
    folder = write(a="the cat sat\n")

    def sentence(place=folder, **options):
        return refuses(lambda: build_vocab.build(config(place, **options)))

    assert "nowhere" in sentence(tmp_path / "nowhere")
    assert "contains no text" in sentence(write("none", a=""))
    assert "contains no text" in sentence(write("blank", a=" \n\t\n\x01\n"))
    assert "--vocab_size=10 " in sentence(vocab_size=10) and "at least 17," in sentence(vocab_size=16)
    assert "--vocab_size=" in sentence(vocab_size=10**13) and "--min_frequency=0" in sentence(min_frequency=0)
    assert "--min_frequency=" in sentence(min_frequency=10**20)
    assert "--character_coverage=1.5" in sentence(character_coverage=1.5)
    assert "--encoding_errors=x" in sentence(encoding_errors="x") and "--corpus_dir" in sentence(corpus_dir="")
    assert "--type=word" in sentence(type="word") and "--vocab_file" in sentence(vocab_file="x")
    assert "--byte_fallback" in sentence(byte_fallback=True) and "--input_sentence_size" in sentence(
        input_sentence_size=9)
    pieces = dict(type="sentencepiece")
    assert "--min_frequency" in sentence(min_frequency=3, **pieces) and "--strip_accents" in sentence(
        strip_accents="true", **pieces)
    assert "--vocab_size=10 " in sentence(vocab_size=10, **pieces)
    assert "at least 12," in sentence(vocab_size=10, **pieces)
    assert "--character_coverage=0.95" in sentence(character_coverage=0.95, **pieces)
    assert "contains no text" in sentence(tmp_path / "none", **pieces)
    assert "contains no text" in sentence(tmp_path / "blank", **pieces)
    assert "--vocab_file" in sentence(report=True)
    (tmp_path / "out").write_text("a file")
    assert f"{tmp_path / 'out'} " in sentence()
    words = [SCRIPT, f"--corpus_dir={folder}"]
    assert "--output_dir" in refuses(build_vocab.main, words)
    assert "is the corpus folder" in refuses(build_vocab.main, [*words, f"--output_dir={folder}/../text"])
    monkeypatch.setattr(process_pool, "stop_on_signals", lambda _: None)
    assert f"{tmp_path / 'out'} " in refuses(build_vocab.main, [*words, f"--output_dir={tmp_path / 'out'}"])
    assert (tmp_path / "out").read_text() == "a file"


def test_command_line_has_every_field_and_a_mistake_is_one_sentence_and_status_2(capsys):
    with pytest.raises(SystemExit) as caught:
        build_vocab.main([SCRIPT, "--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(f"--{field.name}=" in shown for field in dataclasses.fields(VocabConfig))
    result = subprocess.run([sys.executable, SCRIPT, "--output_dir=x"], capture_output=True, text=True)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1) and "--corpus_dir is missing" in result.stderr


def test_a_killed_training_process_is_a_failed_run(write, monkeypatch):
    monkeypatch.setattr(process_pool, "begin_worker", end_at_once)
    with pytest.raises(RunFailed, match="memory"):
        build_vocab.in_process(learn, config(write(a="a cat\n")))


def end_at_once():
    os._exit(9)
