"""squad_utils.py against plain-Python windows and searches."""
import hashlib
import json
import os
import pathlib
import random
import string
import tracemalloc
import unicodedata

import numpy as np
import pytest

import squad_utils
import tokenization
from configuration import RunFailed
from squad_metrics import evaluate
from squad_utils import Answer, Example, Offsets, build_features, cached_features, read_squad

SHARED = pathlib.Path(__file__).resolve().parent.parent.parent / "shared"
LETTERS = string.ascii_lowercase + string.digits + string.punctuation
LENGTHS = dict(max_seq_length=24, doc_stride=5, max_query_length=8)


def needs_shared(*parts):
    path = SHARED.joinpath(*parts)
    return pytest.mark.skipif(not path.exists(), reason=f"{path} is not here: it is kept outside the repository")


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """Makes a tokenizer whose tokens are single characters, so that every word has many."""

    def make(more="", **settings):
        characters = list(dict.fromkeys(LETTERS + more))
        path = tmp_path_factory.mktemp("letters") / "vocab.txt"
        tokens = [*tokenization.SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters)]
        path.write_text("".join(token + "\n" for token in tokens), encoding="utf-8")
        return tokenization.ElectraTokenizer(str(path), **settings)

    return make


@pytest.fixture(scope="module")
def tokenizer(letters):
    return letters()


def example(context="the cat sat", answer=None, question="who?", id_="q", occurrence=0, is_impossible=False):
    """A question whose answer is the given occurrence of a text in the context."""
    answers = ()
    if answer is not None:
        start = -1
        for _ in range(occurrence + 1):
            start = context.index(answer, start + 1)
        answers = ((answer, start),)
    return Example(id_, question, context, answers, is_impossible)


def random_examples(count, seed, version_2=False):
    """Contexts of 0 to about 60 letters, answers made of whole words, or of nothing in 2.0."""
    rng = random.Random(seed)
    examples = []
    for number in range(count):
        words = ["".join(rng.choices("abcde", k=rng.randint(1, 4))) for _ in range(rng.randint(0, 24))]
        spaces = [rng.choice([" ", "  ", "\n", "\u00a0"]) for _ in words]
        context = "".join(word + space for word, space in zip(words, spaces))
        answers = ()
        if words and not (version_2 and rng.random() < 0.4):
            first = rng.randrange(len(words))
            last = rng.randrange(first, min(len(words), first + 3))
            start = sum(map(len, words[:first])) + sum(map(len, spaces[:first]))
            end = sum(map(len, words[:last + 1])) + sum(map(len, spaces[:last]))
            answers = ((context[start:end], start),)
        question = "".join(rng.choices("xyz ", k=rng.randint(0, 12)))
        examples.append(Example(f"q{number}", question, context, answers, not answers))
    return examples


# --- Files ---


def entry(id_="q1", text="cat", start=4, **more):
    return {"id": id_, "question": "who?", "answers": [{"text": text, "answer_start": start}], **more}


def squad(*entries, context="the cat sat", version="1.1"):
    return {"version": version, "data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(entries)}]}]}


@pytest.fixture
def write(tmp_path):
    def run(content, name="data.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return str(path)

    return run


def test_questions_are_read_in_order_with_all_their_answers(write):
    two = entry("q2", "the cat", 0)
    two["answers"] += [{"text": "sat", "answer_start": 8}]
    assert read_squad(write(squad(entry(), two)), version_2=False) == [
        Example("q1", "who?", "the cat sat", (("cat", 4),), False),
        Example("q2", "who?", "the cat sat", (("the cat", 0), ("sat", 8)), False)]


def test_unanswerable_questions_of_version_2_are_read(write):
    path = write(squad({**entry(is_impossible=True), "answers": []}, entry("q2", is_impossible=False), version="v2.0"))
    assert [(e.answers, e.is_impossible) for e in read_squad(path, version_2=True)] == [
        ((), True), ((("cat", 4),), False)]


def test_questions_to_predict_need_neither_answers_nor_a_version(write):
    bare = {"id": "q1", "question": "who?"}
    path = write({"data": squad(bare)["data"]})
    for version_2 in (False, True):
        assert read_squad(path, version_2, needs_answers=False) == [Example("q1", "who?", "the cat sat", (), False)]


@pytest.mark.parametrize("content, parts", [
    ("{", ["not valid JSON"]),
    ("[]", ["not a JSON object"]),
    ({"version": "1.1"}, ["the file", "'data'"]),
    ({"data": {}}, ["the file", "'data'", "list"]),
    ({"data": ["text"]}, ["data[0]", "'paragraphs'"]),
    ({"data": [{"paragraphs": [{"qas": []}]}]}, ["data[0].paragraphs[0]", "'context'"]),
    ({"data": [{"paragraphs": [{"context": "c"}]}]}, ["data[0].paragraphs[0]", "'qas'"]),
    (squad({"question": "who?"}), ["qas[0]", "'id'"]),
    (squad({**entry(), "id": None}), ["qas[0]", "'id'", "text or number"]),
    (squad({**entry(), "id": ["q1"]}), ["qas[0]", "'id'", "text or number"]),
    (squad({**entry(), "id": 7}, entry("7")), ["'7'", "twice"]),
    (squad({"id": "q1", "answers": entry()["answers"]}), ["'q1'", "'question'"]),
    (squad({"id": "q1", "question": "who?"}), ["'q1'", "'answers'"]),
    (squad({**entry(), "answers": ["cat"]}), ["'q1'", "'text'"]),
    (squad(entry(start="4")), ["'q1'", "'answer_start'", "integer"]),
    (squad(entry(start=True)), ["'q1'", "'answer_start'"]),
    (squad(entry(), entry()), ["'q1'", "twice"]),
    (squad(entry(start=5)), ["'q1'", "'cat'", "answer_start=5"]),
    (squad(entry(text="ca", start=-7)), ["'q1'", "answer_start=-7"]),  # Python would count from the end
    (squad(entry(text="sat\nx" * 50, start=8)), ["'q1'", "sat\\nx"]),
    (squad({**entry(), "answers": []}), ["'q1'", "no answers"]),
    (squad(), ["no question"]),
    (squad(entry(is_impossible=True)), ["'q1'", "--version_2_with_negative"]),
    (squad(entry(), version="v2.0"), ["2.0 data", "--version_2_with_negative"]),
])
def test_files_that_are_not_squad_1_1_are_refused(content, parts, write, refuses):
    path = write(content)
    text = refuses(read_squad, path, version_2=False)
    assert all(part in text for part in [path, *parts]), text


@pytest.mark.parametrize("content, parts", [
    (squad(entry()), ["1.1 data", "--version_2_with_negative"]),
    (squad({**entry(is_impossible=False), "answers": []}), ["'q1'", "no answers"]),
    (squad({**entry(), "is_impossible": "yes"}), ["'q1'", "'is_impossible'", "true or false"]),
])
def test_files_that_are_not_squad_2_0_are_refused(content, parts, write, refuses):
    path = write(content)
    text = refuses(read_squad, path, version_2=True)
    assert all(part in text for part in [path, *parts]), text


def test_wrong_answers_are_refused_in_questions_to_predict_too(write, refuses):
    assert "'q1'" in refuses(read_squad, write(squad(entry(start=5))), version_2=False, needs_answers=False)


@pytest.mark.parametrize("id_, text", [(7, "7"), (-2.5, "-2.5"), (True, "true"), ("7", "7")])
def test_ids_are_text_or_numbers(id_, text, write):
    assert [e.id for e in read_squad(write(squad({**entry(), "id": id_})), version_2=False)] == [text]


def test_a_byte_order_mark_is_left_out(write):
    assert len(read_squad(write("\ufeff" + json.dumps(squad(entry()))), version_2=False)) == 1


WRONG = {"moved": entry("moved", start=5), "twice": entry("twice", "a", 0), "gone": entry("gone", "dog", 4),
         "second": {**entry("second"), "answers": [*entry(start=-1)["answers"], {"text": "dog", "answer_start": 0}]},
         "first": {**entry("first"), "answers": [{"text": "dog", "answer_start": 0}, *entry()["answers"]]},
         "right": entry("right")}


def test_wrong_offsets_are_repaired_or_skipped_in_training(write, caplog, refuses):
    path = write(squad(*WRONG.values()))
    examples = {e.id: e.answers for e in read_squad(path, False, offsets=Offsets.REPAIR)}
    assert examples == {"moved": (("cat", 4),), "second": (("cat", 4),), "first": (("cat", 4),), "right": (("cat", 4),)}
    assert [path in caplog.text] + [part in caplog.text for part in (
        "5 of 6", "1 found again", "'moved'", "2 used with their other answers", "2 skipped", "'twice', 'gone'",
        "--strict_answers")] == [True] * 8
    assert "'moved'" in refuses(read_squad, path, False)
    assert "answer_start" in refuses(read_squad, write(squad(WRONG["gone"])), False, offsets=Offsets.REPAIR)


def test_offsets_do_not_matter_in_evaluation(write, caplog):
    bare = {"id": "bare", "question": "who?", "answers": [{"text": "dog"}]}
    examples = {e.id: e.answers for e in read_squad(write(squad(*WRONG.values(), bare)), False, offsets=Offsets.IGNORE)}
    assert examples == {"moved": (("cat", 4),), "twice": (("a", -1),), "gone": (("dog", -1),), "right": (("cat", 4),),
                        "second": (("cat", 4), ("dog", -1)), "first": (("dog", -1), ("cat", 4)), "bare": (("dog", -1),)}
    assert not caplog.text
    scores = evaluate([e for e in read_squad(write(squad(*WRONG.values())), False, offsets=Offsets.IGNORE)],
                      {**dict.fromkeys(WRONG, "cat"), "first": "dog"}, False)
    assert scores["exact_match"] == pytest.approx(100 * 4 / 6)


def test_an_answer_at_an_unknown_place_points_at_cls(tokenizer):
    unknown = example()._replace(answers=(("cat", -1),))
    features = build_features([unknown], tokenizer, **LENGTHS)
    assert features.is_impossible.tolist() == [1] and not features.end_positions.any()


def test_a_missing_file_is_refused(tmp_path, refuses):
    assert "none.json" in refuses(read_squad, str(tmp_path / "none.json"), version_2=False)


# --- Features ---


def windows_of(example, tokenizer, max_seq_length, doc_stride, max_query_length):
    """Devlin et al.'s windows, token by token: a dict for each, its lists padded."""
    query = tokenizer.encode(example.question).ids[:max_query_length]
    ids, offsets = tokenizer.encode(example.context)
    room = max_seq_length - len(query) - 3
    windows, start = [], 0
    while True:
        length = min(room, len(ids) - start)
        windows.append((start, length))
        if start + length == len(ids):
            break
        start += doc_stride

    def best_window(token):
        scores = {}
        for number, (start, length) in enumerate(windows):
            if start <= token < start + length:
                scores[number] = min(token - start, start + length - 1 - token) + 0.01 * length
        return max(scores, key=lambda number: (round(scores[number], 6), -number))

    rows = []
    for number, (start, length) in enumerate(windows):
        tokens = range(start, start + length)
        row = dict(input_ids=[tokenizer.cls_id, *query, tokenizer.sep_id, *(ids[t] for t in tokens), tokenizer.sep_id],
                   segment_ids=[0] * (len(query) + 2) + [1] * (length + 1),
                   p_mask=[0] + [1] * (len(query) + 1) + [0] * length + [1],
                   char_start=[-1] * (len(query) + 2) + [offsets[t][0] for t in tokens] + [-1],
                   char_end=[-1] * (len(query) + 2) + [offsets[t][1] for t in tokens] + [-1],
                   is_max_context=[False] * (len(query) + 2) + [best_window(t) == number for t in tokens] + [False])
        row["input_mask"] = [1] * len(row["input_ids"])
        row["lengths"] = len(row["input_ids"])
        padding = dict(input_ids=tokenizer.pad_id, segment_ids=0, p_mask=1, char_start=-1, char_end=-1,
                       is_max_context=False, input_mask=0)
        for name, value in padding.items():
            row[name] += [value] * (max_seq_length - row["lengths"])
        row.update(start_positions=0, end_positions=0, is_impossible=1)
        if example.answers and not example.is_impossible:
            text, first = example.answers[0]
            touched = [t for t, (a, b) in enumerate(offsets) if a < first + len(text) and b > first]
            if touched and touched[0] in tokens and touched[-1] in tokens:
                shift = len(query) + 2 - start
                row.update(start_positions=touched[0] + shift, end_positions=touched[-1] + shift, is_impossible=0)
        rows.append(row)
    return rows


def assert_features_of_reference(examples, tokenizer, lengths):
    features = build_features(examples, tokenizer, **lengths)
    rows = [{**row, "example_index": index} for index, e in enumerate(examples)
            for row in windows_of(e, tokenizer, **lengths)]
    for name, array in features._asdict().items():
        assert array.dtype == (bool if name == "is_max_context" else np.int32), name
        np.testing.assert_array_equal(array, np.array([row[name] for row in rows]), err_msg=name)


@pytest.mark.parametrize("lengths", [
    LENGTHS, dict(max_seq_length=24, doc_stride=13, max_query_length=8),
    dict(max_seq_length=13, doc_stride=1, max_query_length=9),
    dict(max_seq_length=128, doc_stride=5, max_query_length=3),
])
def test_features_are_those_of_a_slow_reference(lengths, tokenizer):
    examples = random_examples(60, seed=1, version_2=True)
    assert_features_of_reference(examples, tokenizer, lengths)
    assert sum(not e.context.strip() for e in examples) > 1 and sum(not e.question.strip() for e in examples) > 1


@pytest.mark.parametrize("letters_of_context", [382, 383, 500, 570, 571, 600, 1000])
def test_long_windows_are_those_of_a_slow_reference(letters_of_context, tokenizer):
    # The last window can be more than 100 tokens shorter, where its length outweighs a token on the poorer side.
    assert_features_of_reference([example(letters_of_context * "a ", "a", question="")], tokenizer,
                                 dict(max_seq_length=384, doc_stride=190, max_query_length=64))


def test_padding_is_the_vocabularys_own(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("the\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n[PAD]\n", encoding="utf-8")
    features = build_features([example("the", question="the")], tokenization.ElectraTokenizer(str(path)), 8, 1, 2)
    assert features.input_ids.tolist() == [[2, 0, 3, 0, 3, 5, 5, 5]]


def test_every_token_has_most_context_in_exactly_one_window(tokenizer):
    examples = random_examples(40, seed=2)
    features = build_features(examples, tokenizer, **LENGTHS)
    for index, e in enumerate(examples):
        mine = features.example_index == index
        firsts = np.sort(features.char_start[mine][features.is_max_context[mine]])
        assert firsts.tolist() == [start for start, _ in tokenizer.encode(e.context).offsets]


def test_windows_of_maximum_context_are_those_of_the_whole_table_of_scores():
    rng = random.Random(12)
    ties = 0
    for _ in range(300):
        room = rng.choice([1, 2, 7, 30, 250])
        stride, tokens = rng.randint(1, room), rng.randint(room + 1, 8 * room + 40)
        windows = 1 - (room - tokens) // stride
        first = np.arange(windows)[:, np.newaxis] * stride
        last = np.minimum(first + room, tokens) - 1
        poorer = np.minimum(np.arange(tokens) - first, last - np.arange(tokens))  # [windows, tokens], below 0 outside
        scores = np.where(poorer < 0, -1, 100 * poorer + last - first + 1)
        best = squad_utils.max_context_windows(tokens, room, stride, windows)
        assert best.dtype == int
        np.testing.assert_array_equal(best, np.argmax(scores, axis=0), err_msg=f"{tokens} {room} {stride}")
        ties += int((np.sum(scores == scores.max(axis=0), axis=0) > 1).sum())
    assert ties > 1000


def test_memory_grows_with_the_length_of_a_context_and_not_with_its_square(tokenizer):
    def peak(tokens):
        tracemalloc.start()
        build_features([example("a " * tokens, "a")], tokenizer)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(100)  # what is allocated once
    assert peak(24_000) < 5 * peak(6_000)


def recovered(features, row, context):
    """The text that a row is trained to give."""
    return context[features.char_start[row, features.start_positions[row]]:
                   features.char_end[row, features.end_positions[row]]]


def test_answers_are_recovered_from_every_window_that_holds_them(tokenizer):
    examples = random_examples(300, seed=3)
    features = build_features(examples, tokenizer, **LENGTHS)
    held = set()
    for row in np.flatnonzero(features.is_impossible == 0):
        e = examples[features.example_index[row]]
        assert recovered(features, row, e.context) == e.answers[0][0]
        held.add(e.id)
    assert held == {e.id for e in examples if e.answers}


@needs_shared("datasets", "squad", "train-v1.1.json")
def test_answers_of_real_data_are_recovered(letters):
    examples = read_squad(str(SHARED / "datasets/squad/train-v1.1.json"), version_2=False)
    characters = "".join(sorted(set("".join(e.context for e in examples)).difference(string.whitespace)))
    features = build_features(examples, letters(characters, do_lower_case=False, strip_accents=False), doc_stride=200)
    rows = np.flatnonzero(features.is_impossible == 0)
    assert len(set(features.example_index[rows])) == len(examples)
    for row in rows:
        e = examples[features.example_index[row]]
        assert recovered(features, row, e.context) == e.answers[0][0].strip()


@needs_shared("datasets", "squad", "train-v2.0.json")
def test_real_unanswerable_questions_point_at_cls(tokenizer):
    examples = read_squad(str(SHARED / "datasets/squad/train-v2.0.json"), version_2=True)
    features = build_features(examples, tokenizer, max_seq_length=512)
    impossible = np.array([e.is_impossible for e in examples])[features.example_index]
    assert impossible.sum() > 400
    assert features.is_impossible[impossible].all() and not features.start_positions[impossible].any()


@pytest.mark.parametrize("context, answer", [
    ("un cafe\u0301 noir", "cafe\u0301"),  # a decomposed accent behind the word's last letter
    ("un cafe\u0301", "cafe\u0301"),  # and behind the text's
    ("la\u0323\u0301 cafe\u0301s", "la\u0323\u0301"),  # two of them
    ("cafe\u0301s", "cafe\u0301"),  # the word goes on in another token
    ("un caf\u00e9 noir", "caf\u00e9"),
    ("\u0928\u092e\u0938\u094d\u0924\u0947 \u092f", "\u0928\u092e\u0938\u094d\u0924\u0947"),  # of combining class 0
    ("\u6211\u5728\u5317\u4eac\u3002", "\u5317\u4eac"),
    ("go \U0001f600\U0001f680 now", "\U0001f600\U0001f680"),
    ("go \U0001f600 now", "now"),
    ("(1990)", "1990"),
    ("a\u0000b \ufffd\u200b cat", "cat"),
    ("x \ud800 cat", "cat"),  # half a UTF-16 pair
    ("\uac00\ub098 \uac01\uc740", "\uac01\uc740"),
])
def test_unicode_answers_are_exact(context, answer, letters):
    features = build_features([example(context, answer)], letters("\u6211\u5728\u5317\u4eac\u3002"))
    assert recovered(features, 0, context) == answer


def test_accents_that_are_tokens_of_their_own_belong_to_no_other(letters):
    tokenizer = letters("\u0301", do_lower_case=False, strip_accents=False)
    features = build_features([example("cafe\u0301s", "cafe")], tokenizer)
    assert recovered(features, 0, "cafe\u0301s") == "cafe"
    assert features.char_end[0, features.char_end[0] >= 0].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("answer, taken", [(" cat ", "cat"), ("  cat", "cat"), ("at sa", "cat sat"), ("  ", None)])
def test_white_space_is_left_off_and_broken_tokens_are_taken_whole(answer, taken, vocab_file):
    context = "the  cat sat  on"
    features = build_features([example(context, answer)], tokenization.ElectraTokenizer(vocab_file))
    assert features.is_impossible[0] == (taken is None)
    if taken:
        assert recovered(features, 0, context) == taken


def test_random_unicode_keeps_characters_in_order(letters):
    rng = random.Random(4)
    alphabet = "ab \n\u0301\u0323\u00e9\u0130\u1e9e\ufb01\u200d\u4e2d\uac01\u094d\u0928\U0001f600\ud800\u0000."
    contexts = ["".join(rng.choices(alphabet, k=rng.randint(0, 30))) for _ in range(500)]
    for settings in ({}, {"do_lower_case": False}, {"strip_accents": False}):
        tokenizer = letters("\u0301\u00e9\u4e2d", **settings)
        tokenized = squad_utils.tokenize_contexts(contexts, tokenizer)
        for context, (ids, starts, ends) in tokenized.items():
            assert len(ids) == len(starts) == len(ends) and (starts < ends).all()
            assert (np.diff(starts) >= 0).all() and (np.diff(ends) >= 0).all() and (ends <= len(context)).all()
            expected = [end for _, end in tokenizer.encode(context).offsets]
            for position, character in enumerate(context):
                if unicodedata.category(character) == "Mn" and position not in starts:
                    expected = [position + 1 if end == position else end for end in expected]
            assert ends.tolist() == expected


def test_the_first_answer_is_trained_on(tokenizer):
    both = Example("q", "?", "a cat, a dog", (("dog", 9), ("cat", 2)), False)
    assert recovered(build_features([both], tokenizer), 0, both.context) == "dog"


def test_windows_without_the_whole_answer_point_at_cls(tokenizer):
    e = example("abcdefghij klmnopqrst", "j k", question="")
    features = build_features([e], tokenizer, max_seq_length=13, doc_stride=10)  # windows of 10 tokens: a-j, k-t
    assert features.is_impossible.tolist() == [1, 1]
    assert features.start_positions.tolist() == features.end_positions.tolist() == [0, 0]


def test_impossible_questions_with_answers_point_at_cls(tokenizer):
    features = build_features([example(answer="cat", is_impossible=True)], tokenizer)
    assert (features.is_impossible[0], features.start_positions[0], features.end_positions[0]) == (1, 0, 0)


@pytest.mark.parametrize("lengths, parts", [
    (dict(max_seq_length=12, doc_stride=1, max_query_length=9), ["--max_seq_length=12", "no room", "'long'"]),
    (dict(max_seq_length=24, doc_stride=15, max_query_length=7), ["--doc_stride=15", "'long'", "14"]),
    (dict(doc_stride=0), ["--doc_stride=0"]),
    (dict(max_query_length=0), ["--max_query_length=0"]),
])
def test_lengths_that_lose_tokens_are_refused(lengths, parts, tokenizer, refuses):
    examples = [example(id_="short"), example(id_="long", question="whodunnit")]
    text = refuses(build_features, examples, tokenizer, **lengths)
    assert all(part in text for part in parts), text


def test_lengths_that_just_fit_are_taken(tokenizer):
    e = example("abcdefgh", "h", question="whodunnit")
    features = build_features([e], tokenizer, max_seq_length=13, doc_stride=1, max_query_length=9)
    assert features.lengths.tolist() == [13] * 8
    assert features.is_impossible.tolist() == [1] * 7 + [0]


# --- Cache ---


@pytest.fixture
def cache(tmp_path, write, tokenizer, monkeypatch):
    """Calls `cached_features` on one file, with whatever is changed, and says whether features were built."""
    path = write(squad(entry(), entry("q2", "the cat", 0)))
    built = []
    monkeypatch.setattr(squad_utils, "build_features",
                        lambda *args, **kwargs: built.append(1) or build_features(*args, **kwargs))

    def run(path=path, tokenizer=tokenizer, version_2=False, examples=None, **lengths):
        built.clear()
        examples = examples or read_squad(path, False)
        features = cached_features(path, examples, tokenizer, str(tmp_path / "cache"), version_2,
                                   **{**LENGTHS, **lengths})
        expected = build_features(examples, tokenizer, **{**LENGTHS, **lengths})
        for name, array in features._asdict().items():
            assert array.dtype == getattr(expected, name).dtype
            np.testing.assert_array_equal(array, getattr(expected, name), err_msg=name)
        return bool(built)

    run.files = lambda: sorted((tmp_path / "cache").iterdir())
    return run


def test_features_are_built_once(cache):
    assert cache() and not cache()
    (file,) = cache.files()
    assert file.suffix == ".npz"


@pytest.mark.parametrize("change", [dict(max_seq_length=25), dict(doc_stride=4), dict(max_query_length=7),
                                    dict(version_2=True)], ids=str)
def test_another_setting_is_another_cache(change, cache):
    assert cache() and cache(**change) and not cache(**change) and not cache()
    assert len(cache.files()) == 2


def test_another_vocabulary_or_casing_is_another_cache(cache, letters):
    assert cache() and cache(tokenizer=letters("\u00e9")) and cache(tokenizer=letters(do_lower_case=False))
    assert not cache(tokenizer=letters())  # the same tokens in another folder


def test_another_content_of_the_data_file_is_another_cache(cache, write):
    content = squad(entry(), entry("q2", "the cat", 0))
    assert cache() and not cache(path=write(content, "same.json"))
    content["data"][0]["paragraphs"][0]["context"] += " on"
    assert cache(path=write(content))


def test_other_examples_of_the_same_file_are_another_cache(cache, write):
    examples = read_squad(write(squad(entry(), entry("q2", "the cat", 0))), False)
    assert cache() and cache(examples=examples[:1]) and cache(examples=examples[::-1]) and not cache(examples=examples)


def test_another_feature_version_is_another_cache(cache, monkeypatch):
    assert cache()
    monkeypatch.setattr(squad_utils, "FEATURE_VERSION", squad_utils.FEATURE_VERSION + 1)
    assert cache()


def test_other_answers_of_the_same_file_are_another_cache(cache, write):
    (first, second) = read_squad(write(squad(entry(), entry("q2", "the cat", 0))), False)
    assert cache() and cache(examples=[first, second._replace(answers=(("the cat", -1),))])


def test_the_format_version_is_increased_when_features_change(letters):
    """The key of the cache has FEATURE_VERSION in place of the code: where this test fails because other features are
    built from the same data, increase it and correct the checksum."""
    examples = [*random_examples(40, seed=3, version_2=True),
                example("cafe\u0301 \u4e2d\u56fd", "cafe\u0301", id_="last")]
    digest = hashlib.sha256()
    for array in build_features(examples, letters("\u4e2d"), **LENGTHS):
        digest.update(array.tobytes())
    assert (squad_utils.FEATURE_VERSION, digest.hexdigest()[:16]) == (2, "ac7879eed75706e7")


def test_the_caches_used_longest_ago_are_deleted_beyond_the_limit(cache, monkeypatch, tmp_path):
    for stride in (4, 3, 2):
        assert cache(doc_stride=stride)
    sizes = {}
    for age, file in enumerate(cache.files()):
        os.utime(file, (1e9 - age, 1e9 - age))
        sizes[file] = file.stat().st_size
    (tmp_path / "cache" / "other.npz").write_bytes(bytes(10**6))
    assert not cache(doc_stride=2)  # is used now
    used = max(sizes, key=lambda file: file.stat().st_mtime)
    assert used.stat().st_mtime > 1.5e9
    monkeypatch.setattr(squad_utils, "CACHE_BYTES", 2 * max(sizes.values()) + 100)
    assert cache() and len(cache.files()) == 3 and used in cache.files() and "other.npz" in str(cache.files())
    monkeypatch.setattr(squad_utils, "CACHE_BYTES", 1)
    assert cache(doc_stride=6) and len(cache.files()) == 2  # the newest one is kept


def with_arrays(**changes):
    """Rewrites a cache file with other arrays; None leaves one out."""

    def run(file):
        with np.load(file) as content:
            arrays = {**content, **changes}
        np.savez(file, **{name: array for name, array in arrays.items() if array is not None})

    return run


class Mischief:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.write_text, (self.path, "unpickled")


def test_nothing_in_a_cache_is_unpickled(cache, tmp_path):
    assert cache()
    with_arrays(lengths=np.array([Mischief(tmp_path / "mischief")], object))(cache.files()[0])
    assert cache() and not (tmp_path / "mischief").exists()


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [
    lambda file: file.write_bytes(b""),
    lambda file: file.write_bytes(b"no archive"),
    lambda file: file.write_bytes(file.read_bytes()[:-40]),
    lambda file: np.save(file.open("wb"), np.zeros(3)),
    flip,
    with_arrays(input_ids=None),
    with_arrays(lengths=np.array([{}, {}], object)),  # pickled
    with_arrays(lengths=np.zeros(3, np.int32)),
    with_arrays(char_end=np.zeros((2, 7), np.int32)),
    with_arrays(char_start=np.zeros((2, 24), np.int64)),
    with_arrays(input_ids=np.full((2, 24), 99999, np.int32)),
    with_arrays(example_index=np.array([0, 0], np.int32)),
])
def test_damaged_and_foreign_caches_are_rebuilt_with_a_warning(damage, cache, caplog):
    assert cache()
    (file,) = cache.files()
    damage(file)
    caplog.clear()
    assert cache() and file.name in caplog.text
    assert not cache() and cache.files() == [file]


def test_a_cache_that_cannot_be_written_is_done_without(cache, caplog, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert cache() and "No space left" in caplog.text
    assert cache.files() == []


def test_an_interrupted_write_leaves_nothing(cache, monkeypatch):
    def interrupt(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache()
    assert cache.files() == []


# --- Answers ---


def slow_n_best(e, spans, n_best_size, every=None, temperature=1.0):
    """The n-best list of (score, start character, end character) spans, in plain Python. `every`: all that are valid,
    where `spans` are fewer."""
    best = []
    for score, start, end in sorted(spans, key=lambda span: -span[0]):
        if e.context[start:end] not in [e.context[a:b] for _, a, b in best]:
            best.append((score, start, end))
    if not best:
        return [Answer("", 0, 0, 0.0, 1.0)]
    total = np.logaddexp.reduce([score / temperature for score, _, _ in every or spans])
    return [Answer(e.context[a:b], a, b, score, np.exp(score / temperature - total))
            for score, a, b in best[:n_best_size]]


def allowed(features, row, start, end, max_answer_length):
    return (features.is_max_context[row, start] and features.char_start[row, end] >= 0
            and start <= end and end - start + 1 <= max_answer_length)


def assert_same_answers(found, expected):
    """Scores are float32 sums of two: rtol 1e-5."""
    assert list(found) == list(expected)
    for id_, answers in found.items():
        assert [answer[:3] for answer in answers] == [answer[:3] for answer in expected[id_]], id_
        for field in ("score", "probability"):
            np.testing.assert_allclose([getattr(a, field) for a in answers],
                                       [getattr(a, field) for a in expected[id_]], rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def searched(tokenizer):
    """Examples of several windows each, one of them without a token in its context."""
    examples = [*random_examples(12, seed=5), example(" \n", id_="empty"), *random_examples(1, seed=6)]
    examples[-1] = examples[-1]._replace(id="last")
    return examples, build_features(examples, tokenizer, **LENGTHS)


@pytest.mark.parametrize("n_best_size, max_answer_length, temperature", [
    (20, 30, 1.0), (3, 4, 1.0), (1, 1, 2.5), (500, 2, 0.3)])
def test_joint_answers_are_those_of_a_slow_search(n_best_size, max_answer_length, temperature, searched):
    examples, features = searched
    rng = np.random.default_rng(7)
    count, length, beam = *features.input_ids.shape, 6
    # Distinct starts and ends, as top-k gives them, on questions and padding too.
    pick = np.argsort(rng.random((count, beam + 1, length)), axis=-1)[..., :beam]
    outputs = dict(start_log_probs=rng.normal(size=(count, beam)).astype(np.float32), start_index=pick[:, 0],
                   end_log_probs=rng.normal(size=(count, beam, beam)).astype(np.float32), end_index=pick[:, 1:],
                   answerability_logits=rng.normal(size=count).astype(np.float32))
    expected, expected_odds = {}, {}
    for index, e in enumerate(examples):
        rows = np.flatnonzero(features.example_index == index)
        spans = [(float(outputs["start_log_probs"][row, k]) + float(outputs["end_log_probs"][row, k, j]),
                  features.char_start[row, outputs["start_index"][row, k]],
                  features.char_end[row, outputs["end_index"][row, k, j]])
                 for row in rows for k in range(beam) for j in range(beam)
                 if allowed(features, row, outputs["start_index"][row, k], outputs["end_index"][row, k, j],
                            max_answer_length)]
        expected[e.id] = slow_n_best(e, spans, n_best_size, spans, temperature)
        expected_odds[e.id] = min(float(outputs["answerability_logits"][row]) for row in rows)
    answers, odds = squad_utils.joint_answers(examples, features, outputs, n_best_size, max_answer_length, temperature)
    assert_same_answers(answers, expected)
    assert odds == expected_odds
    del outputs["answerability_logits"]
    assert squad_utils.joint_answers(examples, features, outputs, n_best_size, max_answer_length, temperature) == (
        answers, {})


@pytest.mark.parametrize("n_best_size, max_answer_length, temperature", [
    (20, 30, 1.0), (3, 4, 1.0), (1, 1, 2.5), (500, 2, 0.3)])
def test_independent_answers_are_those_of_a_slow_search(n_best_size, max_answer_length, temperature, searched):
    examples, features = searched
    rng = np.random.default_rng(8)
    logits = {name: rng.normal(size=features.input_ids.shape).astype(np.float32)
              for name in ("start_logits", "end_logits")}
    expected, expected_odds = {}, {}
    for index, e in enumerate(examples):
        rows = np.flatnonzero(features.example_index == index)
        spans, every = [], []
        for row in rows:
            own = [(float(logits["start_logits"][row, s]) + float(logits["end_logits"][row, t]),
                    features.char_start[row, s], features.char_end[row, t])
                   for s in range(24) for t in range(24) if allowed(features, row, s, t, max_answer_length)]
            every += own
            spans += sorted(own, key=lambda span: -span[0])[:n_best_size]
        expected[e.id] = slow_n_best(e, spans, n_best_size, every, temperature)
        null = min(float(logits["start_logits"][row, 0]) + float(logits["end_logits"][row, 0]) for row in rows)
        expected_odds[e.id] = null - expected[e.id][0].score
    answers, odds = squad_utils.independent_answers(examples, features, logits, n_best_size, max_answer_length,
                                                    temperature)
    assert_same_answers(answers, expected)
    assert odds == pytest.approx(expected_odds, rel=1e-5, abs=1e-6)


def test_many_windows_are_searched_in_parts_without_mixing_them(tokenizer):
    examples = [example("the cat sat", "cat", id_=f"q{i}") for i in range(150)]  # more than two parts of 64
    features = build_features(examples, tokenizer, **LENGTHS)
    logits = np.zeros((150, 24), np.float32)
    for row in range(150):
        logits[row, 6 + row % 9] = 5
    answers, _ = squad_utils.independent_answers(examples, features, dict(start_logits=logits, end_logits=logits))
    assert [answers[f"q{row}"][0].text for row in range(150)] == ["thecatsat"[row % 9] for row in range(150)]


def test_gold_spans_come_back_as_the_gold_text(tokenizer):
    examples = random_examples(100, seed=9)
    features = build_features(examples, tokenizer, **LENGTHS)
    hit = features.is_impossible == 0
    logits = {name: np.zeros(features.input_ids.shape, np.float32) for name in ("start_logits", "end_logits")}
    logits["start_logits"][hit, features.start_positions[hit]] = 5
    logits["end_logits"][hit, features.end_positions[hit]] = 5
    answers, odds = squad_utils.independent_answers(examples, features, logits)
    best = squad_utils.predictions(answers, odds)
    # An answer can lie beyond the window in which its first token has most context: it is then not to be found.
    reachable = {examples[features.example_index[row]].id for row in np.flatnonzero(hit)
                 if features.is_max_context[row, features.start_positions[row]]}
    assert len(reachable) > 60
    for e in examples:
        if e.id in reachable:
            assert best[e.id] == e.answers[0][0]


def test_equal_texts_are_merged_with_the_best_score(vocab_file):
    e = example("cat dog cat", question="")
    features = build_features([e], tokenization.ElectraTokenizer(vocab_file), 8, 1, 4)  # [CLS] [SEP] cat dog cat
    start, end = np.zeros((1, 8), np.float32), np.zeros((1, 8), np.float32)
    start[0, :] = [9, 9, 1, 0, 2, 9, 9, 9]
    answers, odds = squad_utils.independent_answers([e], features, dict(start_logits=start, end_logits=end),
                                                    max_answer_length=1)
    assert [answer[:4] for answer in answers["q"]] == [("cat", 8, 11, 2.0), ("dog", 4, 7, 0.0)]
    total = np.exp(2) + np.exp(0) + np.exp(1)  # the other `cat` too
    assert [answer.probability for answer in answers["q"]] == pytest.approx([np.exp(2) / total, 1 / total])
    assert odds == {"q": 9.0 - 2.0}  # [CLS] [CLS] against the best span


def test_probabilities_are_finite_for_any_scores(searched):
    examples, features = searched
    for shift in (-1e4, 1e4):
        logits = np.full(features.input_ids.shape, shift, np.float32)
        answers, _ = squad_utils.independent_answers(examples, features, dict(start_logits=logits, end_logits=logits))
        for best in answers.values():
            assert [answer.probability for answer in best] == [best[0].probability] * len(best)
            assert 0 < best[0].probability <= 1 / len(best) + 1e-9


def heads(features, seed=11, scale=3.0):
    """Outputs of both heads, as (joint_head, outputs); the joint one with answerability."""
    rng = np.random.default_rng(seed)
    count, length = features.input_ids.shape
    normal = [scale * rng.normal(size=shape).astype(np.float32) for shape in (
        (count, length), (count, length), (count, 4), (count, 4, 4), (count,))]
    pick = np.argsort(rng.random((count, 5, length)), axis=-1)[..., :4]
    return [(False, dict(start_logits=normal[0], end_logits=normal[1])),
            (True, dict(start_log_probs=normal[2], start_index=pick[:, 0], end_log_probs=normal[3],
                        end_index=pick[:, 1:], answerability_logits=normal[4]))]


@pytest.mark.parametrize("version_2", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_probabilities_do_not_depend_on_how_many_answers_are_kept(version_2, temperature, searched):
    examples, features = searched
    for joint_head, outputs in heads(features):
        found = {n: squad_utils.search_answers(joint_head, examples, features, outputs, n, version_2=version_2,
                                               temperature=temperature) for n in (1, 3, 10000)}
        for e in examples:
            every = found[10000].nbest[e.id]
            for n in (1, 3):
                assert found[n].nbest[e.id] == every[:n] and found[n].no_answer == found[10000].no_answer
            none = found[1].no_answer.get(e.id, 0.0)
            total = sum(answer.probability for answer in every if answer.text) + none
            assert total <= 1 + 1e-9 and all(answer.probability >= 0 for answer in every)
            if version_2:
                assert (none == 1.0) == (not every[0].text)


def test_all_spans_and_no_answer_add_up_to_1(tokenizer):
    e = example("ab c", question="")  # of three tokens, so that every text is there once
    features = build_features([e], tokenizer, 8, 1, 4)
    for joint_head, outputs in heads(features, scale=1.0):
        if joint_head:
            outputs.update(start_index=np.array([[2, 3, 4, 0]]), end_index=np.array([[[2, 3, 4, 0]] * 4]))
        for temperature in (1.0, 0.4):
            nbest, odds, none = squad_utils.search_answers(joint_head, [e], features, outputs, 99, version_2=True,
                                                           temperature=temperature)
            assert len(nbest["q"]) == 6
            assert sum(answer.probability for answer in nbest["q"]) + none["q"] == pytest.approx(1)
            logit = odds["q"] / temperature
            if joint_head:
                assert none["q"] == pytest.approx(1 / (1 + np.exp(-logit)))
            else:
                assert none["q"] == pytest.approx(nbest["q"][0].probability * np.exp(logit))


def test_outputs_that_are_not_finite_are_an_error(searched):
    examples, features = searched
    for joint_head, outputs in heads(features):
        name = "end_log_probs" if joint_head else "end_logits"
        outputs[name][1] = np.nan
        with pytest.raises(RunFailed, match=name):
            squad_utils.search_answers(joint_head, examples, features, outputs)


# --- Calibration ---


def overconfident(tokenizer, version_2, count=400):
    """Questions, and outputs of both heads that are right as often as a softmax of a third of their scores says."""
    rng = np.random.default_rng(4)
    examples, place = [], {}
    for number in range(count):
        impossible = version_2 and number % 4 == 0
        answer = None if impossible else "abcdefgh"[number % 8]
        examples.append(example("a b c d e f g h", answer, question="", id_=f"q{number}", is_impossible=impossible))
        place[number] = 0 if impossible else 2 + number % 8
    features = build_features(examples, tokenizer, 16, 1, 4)
    start = np.full((count, 16), -99, np.float32)
    for row in range(count):
        logits = rng.normal(size=9)
        chosen = rng.choice(9, p=np.exp(logits) / np.exp(logits).sum())  # the truth is as likely as this says
        spots = [0, *range(2, 10)] if version_2 else list(range(2, 10)) + [0]
        logits[[spots.index(place[row]), chosen]] = logits[[chosen, spots.index(place[row])]]
        start[row, spots] = 3.0 * logits
    if not version_2:
        start[:, 0] = -99
    end = np.zeros_like(start)
    return examples, features, dict(start_logits=start, end_logits=end)


def calibrated(examples, features, outputs, version_2):
    raw = squad_utils.search_answers(False, examples, features, outputs, 1, 1, version_2, temperature=7.0)
    predicted = squad_utils.predictions(raw.nbest, raw.null_odds, 0.0 if version_2 else None)
    right = {e.id: predicted[e.id] == (e.answers[0][0] if e.answers else "") for e in examples}
    return squad_utils.calibrate(False, examples, features, outputs, raw, predicted, right, 1)


@pytest.mark.parametrize("version_2", [False, True])
def test_the_temperature_of_overconfident_scores_is_found(version_2, tokenizer):
    examples, features, outputs = overconfident(tokenizer, version_2)
    found = calibrated(examples, features, outputs, version_2)
    assert 2.2 < found.temperature < 4.2
    assert found.error < 0.07 and found.error_uncalibrated > found.error + 0.1
    again = squad_utils.search_answers(False, examples, features, outputs, 1, 1, version_2, found.temperature)
    predicted = squad_utils.predictions(again.nbest, again.null_odds, 0.0 if version_2 else None)
    confidence = np.array([again.nbest[e.id][0].probability if predicted[e.id] else again.no_answer[e.id]
                           for e in examples])
    right = np.array([predicted[e.id] == (e.answers[0][0] if e.answers else "") for e in examples])
    assert squad_utils.expected_calibration_error(confidence, right) == pytest.approx(found.error, abs=2e-3)


def test_too_few_questions_give_no_temperature(tokenizer):
    examples, features, outputs = overconfident(tokenizer, False, count=19)
    assert calibrated(examples, features, outputs, False) is None


def test_the_calibration_error_by_hand():
    confidence, right = np.array([0.05, 0.95, 0.95, 1.0]), np.array([False, True, False, True])
    # 0.05 is in the first of ten bins; 0.95, 0.95, 1.0 with a mean of 0.9667 in the last, of which two thirds are right
    assert squad_utils.expected_calibration_error(confidence, right, 10) == pytest.approx((0.05 + 2.9 - 2) / 4)


def test_a_question_without_a_span_gets_one_empty_answer(searched):
    examples, features = searched
    zeros = np.zeros(features.input_ids.shape, np.float32)
    answers, odds = squad_utils.independent_answers(examples, features, dict(start_logits=zeros, end_logits=zeros))
    assert answers["empty"] == [Answer("", 0, 0, 0.0, 1.0)] and odds["empty"] == 0.0
    assert len(answers) == len(odds) == len(examples)


def test_answers_go_into_json(searched):
    examples, features = searched
    zeros = np.zeros(features.input_ids.shape, np.float32)
    json.dumps(squad_utils.independent_answers(examples, features, dict(start_logits=zeros, end_logits=zeros)))


def test_predictions_are_empty_above_the_threshold_only():
    nbest = {id_: [Answer(id_, 0, 1, 0.0, 0.9), Answer("other", 0, 1, 0.0, 0.1)] for id_ in "abc"}
    odds = {"a": -6.0, "b": -5.6, "c": 3.0}
    assert squad_utils.predictions(nbest, odds, -5.6) == {"a": "a", "b": "b", "c": ""}
    assert squad_utils.predictions(nbest, odds) == squad_utils.predictions(nbest, {}) == {"a": "a", "b": "b", "c": "c"}
    assert squad_utils.predictions(nbest, odds, 0.0) == {"a": "a", "b": "b", "c": ""}
