"""tokenization.py against hand-made vocabularies and a reference WordPiece after Devlin et al. 2019; ids are exact."""
import json
import os
import random
import unicodedata

import languages
import numpy as np
import pytest

import configuration
import electra_config
import tokenization
from tokenization import SPECIAL_TOKENS, ElectraTokenizer, read_vocabulary


@pytest.fixture
def make(tmp_path):
    """Makes a tokenizer from its ordinary tokens."""

    def tokenizer(tokens, **settings) -> ElectraTokenizer:
        path = tmp_path / "vocab.txt"
        path.write_text("".join(token + "\n" for token in [*SPECIAL_TOKENS, *tokens]), encoding="utf-8")
        return ElectraTokenizer(str(path), **settings)

    return tokenizer


def tokens_of(tokenizer, text):
    return [tokenizer.tokens[i] for i in tokenizer.encode(text).ids]


def sources_of(tokenizer, text):
    return [text[start:end] for start, end in tokenizer.encode(text).offsets]


# --- Golden ids ---


def test_ids_of_the_papers_example(make):
    # The example of google-research/bert's tokenization_test.py (FullTokenizer), ids counted by hand.
    tokenizer = make(["want", "##want", "##ed", "wa", "un", "runn", "##ing", ","])
    assert tokenizer.encode("UNwant\u00E9d,running").ids == [9, 6, 7, 12, 10, 11]


@pytest.mark.parametrize("text, tokens", [
    ("unwanted", ["un", "##want", "##ed"]),
    ("unwantedx", ["[UNK]"]),  # a word with one unmatched piece is unknown as a whole
    ("low lowest lowers", ["low", "low", "##est", "low", "##er", "##s"]),
    ("lower low er", ["low", "##er", "low", "[UNK]"]),  # `er` is known as a continuation only
    ("the cat sat, and ran!", ["the", "cat", "sat", ",", "and", "ran", "!"]),
    ("cat's-mat", ["cat", "'", "[UNK]", "-", "mat"]),
    ("the\t cat\n\r\u00a0\u3000dog", ["the", "cat", "dog"]),
    ("\u0000the\ufffd \u200bc\u200bat", ["the", "cat"]),  # control characters vanish
    ("", []), (" \n", []),
])
def test_longest_match_from_the_left(text, tokens, vocab_file):
    assert tokens_of(ElectraTokenizer(vocab_file), text) == tokens


def test_longest_piece_wins_even_where_a_shorter_one_would_succeed(make):
    assert tokens_of(make(["a", "ab", "abc", "##c", "##d", "##cd", "##e"]), "abc abd abcd ac") == [
        "abc", "ab", "##d", "abc", "##d", "a", "##c"]
    assert tokens_of(make(["a", "abc", "##bcde"]), "abcde") == ["[UNK]"]  # a + ##bcde is never tried


def test_ideographs_are_words_of_their_own(vocab_file):
    text = "中国low中x国"
    assert tokens_of(ElectraTokenizer(vocab_file), text) == ["中", "国", "low", "中", "[UNK]", "国"]
    assert sources_of(ElectraTokenizer(vocab_file), text) == ["中", "国", "low", "中", "x", "国"]


def test_ideographs_of_every_block_are_split_and_kana_are_not(make):
    tokenizer = make(["か", "##な"])
    assert len(tokenizer.encode("\u4e00\u9fff\u3400\uf900\U00020000\U0002f800").ids) == 6
    assert tokens_of(tokenizer, "かな") == ["か", "##な"]


def test_words_of_more_than_100_characters_are_unknown(make):
    tokenizer = make(["x", "##x"])
    assert len(tokenizer.encode("x" * 100).ids) == 100
    assert tokenizer.encode("x" * 101).ids == [tokenizer.unk_id]


@pytest.mark.parametrize("settings, tokens", [
    # text: É é cafés, and e with a combining accent; `É`, `é`, `e` are all in the vocabulary
    ({}, ["e", "e", "cafe", "##s", "e"]),
    ({"do_lower_case": True, "strip_accents": False}, ["é", "é", "caf", "##é", "##s", "[UNK]"]),
    ({"do_lower_case": False}, ["É", "é", "caf", "##é", "##s", "[UNK]"]),
    ({"do_lower_case": False, "strip_accents": True}, ["[UNK]", "e", "cafe", "##s", "e"]),
])
def test_accents_follow_casing_unless_set(settings, tokens, vocab_file):
    assert tokens_of(ElectraTokenizer(vocab_file, **settings), "É é cafés e\u0301") == tokens


def test_cased_vocabularies_keep_capitals(make):
    assert tokens_of(make(["The", "the"], do_lower_case=False), "The the THE") == ["The", "the", "[UNK]"]
    assert tokens_of(make(["The", "the"]), "The the THE") == ["the", "the", "the"]


def test_special_tokens_in_the_text_are_text(vocab_file):
    tokenizer = ElectraTokenizer(vocab_file)
    ids = tokenizer.encode("the [MASK] cat [SEP][CLS] [PAD]").ids
    assert set(ids) & set(tokenizer.special_ids) == {tokenizer.unk_id}


def test_special_tokens_may_have_any_id(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("x\n[MASK]\n[SEP]\n[unused]\n[CLS]\n[UNK]\n[PAD]\n")
    tokenizer = ElectraTokenizer(str(path))
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id) == (6, 5, 4)
    assert (tokenizer.sep_id, tokenizer.mask_id) == (2, 1)
    assert tokenizer.special_ids == (6, 5, 4, 2, 1)
    assert tokenizer.vocab_size == 7
    assert tokenizer.encode("x y").ids == [0, 5]


# --- Offsets ---


@pytest.mark.parametrize("text, sources", [
    ("  UNwanted,running", ["UN", "want", "ed", ",", "runn", "ing"]),
    ("Cafés ca\u0301fes", ["Café", "s", "ca\u0301fe", "s"]),  # accents inside a piece belong to it
    ("a\u0000 c\u200bat", ["a", "c\u200bat"]),
    ("the 😀 cat", ["the", "😀", "cat"]),
])
def test_offsets_point_into_the_original_text(text, sources, vocab_file):
    assert sources_of(ElectraTokenizer(vocab_file), text) == sources


def test_offsets_rise_and_stay_inside_the_text(vocab_file):
    for strip_accents in (None, False):
        tokenizer = ElectraTokenizer(vocab_file, strip_accents=strip_accents)
        for text in random_texts(200):
            end = 0
            for start, stop in tokenizer.encode(text).offsets:
                assert end <= start <= stop <= len(text), repr(text)
                end = stop


# --- Against a reference implementation, and on random text ---


def reference(text, vocabulary, lower, strip):
    """BERT's algorithm, character by character, for text without control characters."""
    cleaned = "".join(f" {c} " if 0x4E00 <= ord(c) <= 0x9FFF else c for c in text)
    if strip:
        cleaned = "".join(c for c in unicodedata.normalize("NFD", cleaned) if unicodedata.category(c) != "Mn")
    if lower:
        cleaned = cleaned.lower()
    words, previous_is_letter = [], False
    for c in cleaned:
        if c.isspace():
            previous_is_letter = False
        elif unicodedata.category(c).startswith("P"):
            words.append(c)
            previous_is_letter = False
        else:
            words[len(words) - previous_is_letter:] = [words[-1] + c if previous_is_letter else c]
            previous_is_letter = True
    pieces = []
    for word in words:
        found, start = [], 0
        while start < len(word):
            ends = [end for end in range(len(word), start, -1)
                    if ("##" if start else "") + word[start:end] in vocabulary]
            if not ends:
                found = ["[UNK]"]
                break
            found.append(("##" if start else "") + word[start:ends[0]])
            start = ends[0]
        pieces += found
    return pieces


@pytest.mark.parametrize("lower, strip", [(True, None), (True, False), (False, None), (False, True)])
def test_random_words_and_vocabularies_agree_with_the_reference(lower, strip, make):
    generator = random.Random(f"{lower}{strip}")
    letters = "abAé"
    unknown = known = 0
    for _ in range(20):
        pieces = {"".join(generator.choices(letters, k=generator.randint(1, 3))) for _ in range(25)}
        vocabulary = sorted({("##" if generator.random() < 0.6 else "") + piece for piece in pieces} | {"中", ","})
        tokenizer = make(vocabulary, do_lower_case=lower, strip_accents=strip)
        for _ in range(20):
            text = "".join(generator.choices(letters + letters + " ,中", k=20))
            expected = reference(text, set(vocabulary), lower, lower if strip is None else strip)
            assert tokens_of(tokenizer, text) == expected, text
            unknown += expected.count("[UNK]")
            known += len(expected) - expected.count("[UNK]")
    assert unknown > 100 and known > 100  # the comparison is about both


def random_texts(count):
    """Code points from all planes, lone surrogates and combining marks among them."""
    generator = random.Random(0)
    ranges = [(0, 0x7F), (0, 0x2FF), (0x300, 0x36F), (0x590, 0x6FF), (0x2000, 0x206F), (0x4E00, 0x4FFF),
              (0xAC00, 0xD7AF), (0xD800, 0xDFFF), (0xF900, 0xFFFF), (0x1F300, 0x1F6FF), (0, 0x10FFFF)]
    for _ in range(count):
        yield "".join(chr(generator.randint(*generator.choice(ranges))) for _ in range(generator.randint(0, 40)))


@pytest.mark.parametrize("settings", [{}, {"strip_accents": False}, {"do_lower_case": False}])
def test_random_text_is_encoded_and_a_batch_gives_the_same_ids(settings, vocab_file):
    tokenizer = ElectraTokenizer(vocab_file, **settings)
    texts = [*random_texts(1000), "half a pair \ud83d here", "the cat's Café"]
    encodings = [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts) == [encoding.ids for encoding in encodings]
    for encoding in encodings:
        assert len(encoding.ids) == len(encoding.offsets)
        assert all(0 <= i < tokenizer.vocab_size for i in encoding.ids)
    assert tokenizer.encode_batch([]) == []


def test_a_lone_surrogate_is_dropped_like_other_invalid_characters(vocab_file):
    encoding = ElectraTokenizer(vocab_file).encode("c\ud83dat sat")
    assert encoding == ElectraTokenizer(vocab_file).encode("c\ufffdat sat")
    assert encoding.offsets == [(0, 4), (5, 8)]


# --- Folders and fingerprints ---


@pytest.mark.parametrize("settings", [
    {}, {"do_lower_case": False}, {"strip_accents": False}, {"do_lower_case": False, "strip_accents": True}])
def test_saved_folder_reads_back_as_the_same_tokenizer(settings, vocab_file, tmp_path):
    tokenizer = ElectraTokenizer(vocab_file, **settings)
    tokenizer.save(str(tmp_path / "new" / "folder"))
    again = ElectraTokenizer.from_folder(str(tmp_path / "new" / "folder"))
    assert (again.tokens, again.do_lower_case, again.strip_accents) == (
        tokenizer.tokens, tokenizer.do_lower_case, tokenizer.strip_accents)
    assert again.fingerprint == tokenizer.fingerprint
    text = "É the Cafés e\u0301 中 lowest"
    assert again.encode(text) == tokenizer.encode(text)
    written = json.loads((tmp_path / "new" / "folder" / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "ElectraTokenizer" and written["mask_token"] == "[MASK]"


def test_a_folder_without_settings_is_uncased_and_arguments_override_it(vocab_file, tmp_path):
    folder = os.path.dirname(vocab_file)
    assert ElectraTokenizer.from_folder(folder).do_lower_case is True
    assert ElectraTokenizer.from_folder(folder, do_lower_case=False).do_lower_case is False
    ElectraTokenizer(vocab_file, do_lower_case=False).save(str(tmp_path))
    assert ElectraTokenizer.from_folder(str(tmp_path)).do_lower_case is False
    assert ElectraTokenizer.from_folder(str(tmp_path), do_lower_case=True).do_lower_case is True


def test_fingerprints_are_equal_if_and_only_if_the_ids_are(make, vocab_file):
    fingerprint = ElectraTokenizer(vocab_file).fingerprint
    assert ElectraTokenizer(vocab_file).fingerprint == fingerprint
    assert ElectraTokenizer(vocab_file, strip_accents=True).fingerprint == fingerprint  # the meaning of None
    cased = ElectraTokenizer(vocab_file, do_lower_case=False)
    assert ElectraTokenizer(vocab_file, do_lower_case=False, strip_accents=False).fingerprint == cased.fingerprint
    different = [
        fingerprint, cased.fingerprint,
        ElectraTokenizer(vocab_file, strip_accents=False).fingerprint,
        ElectraTokenizer(vocab_file, do_lower_case=False, strip_accents=True).fingerprint,
        make(["a", "b"]).fingerprint, make(["b", "a"]).fingerprint, make(["a", "b", "c"]).fingerprint,
        make(["a", "##b"]).fingerprint]
    assert len(set(different)) == len(different)


# --- Invalid vocabularies ---


@pytest.mark.parametrize("content, part", [
    (b"", "is empty"),
    (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nx\ny\nx\n", "'x' twice"),
    (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nx\n", "[MASK]"),
    (b"the\ncat\n", "[PAD]"),
    (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncaf\xe9\n", "not UTF-8 (byte 34)"),
    (b"".join(b"x%d\n" % number for number in range(9999)) + b"\xe9", "not UTF-8 (byte 58884)"),
    (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\0b\n", "NUL character in line 6"),
])
def test_bad_vocabulary_is_refused_by_its_path(content, part, tmp_path, refuses):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    text = refuses(ElectraTokenizer, str(path))
    assert str(path) in text and part in text


def test_missing_vocabulary_is_refused_by_its_path(tmp_path, refuses):
    assert str(tmp_path / "none.txt") in refuses(ElectraTokenizer, str(tmp_path / "none.txt"))
    assert str(tmp_path) in refuses(ElectraTokenizer, str(tmp_path))  # a folder
    assert "vocab.txt" in refuses(ElectraTokenizer.from_folder, str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    assert str(tmp_path / "fifo") in refuses(ElectraTokenizer, str(tmp_path / "fifo"))


def test_a_vocabulary_beyond_what_records_can_hold_is_refused(tmp_path, monkeypatch, refuses):
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{number}\n" for number in range(9)))
    monkeypatch.setattr(electra_config, "LARGEST_VOCABULARY", 8)
    assert "9 lines" in refuses(read_vocabulary, str(path))
    monkeypatch.setattr(tokenization, "LARGEST_FILE", 17)
    assert str(path) in refuses(read_vocabulary, str(path))


def test_a_byte_order_mark_windows_line_ends_and_blanks_are_accepted(vocab_file, tmp_path):
    lines = open(vocab_file, encoding="utf-8").read().split("\n")[:-1]
    text = "\r\n".join(["\ufeff" + lines[0], *lines[1:], "two words", "\ta ", ""])
    (tmp_path / "vocab.txt").write_bytes(text.encode())
    tokenizer = ElectraTokenizer(str(tmp_path / "vocab.txt"))
    assert tokenizer.tokens == [*lines, "two words", "\ta "]
    assert tokenizer.encode("the cat two words").ids == [*ElectraTokenizer(vocab_file).encode("the cat").ids, 1, 1]


@pytest.mark.parametrize("key, value", [("do_lower_case", "yes"), ("do_lower_case", None), ("do_lower_case", 1),
                                        ("strip_accents", "no"), ("strip_accents", [])])
def test_a_casing_that_is_not_true_or_false_is_refused_by_file_and_key(key, value, vocab_file, tmp_path, refuses):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({key: value}))
    text = refuses(ElectraTokenizer.from_folder, str(tmp_path), vocab_file)
    assert str(tmp_path / "tokenizer_config.json") in text and f"{key} is {value!r}" in text


def test_lines_of_a_vocabulary_end_only_at_newlines(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("[PAD]\r\na\u2028b\r\n\u0085\r\nlast".encode())
    assert read_vocabulary(str(path)) == ["[PAD]", "a\u2028b", "\u0085", "last"]


# --- SentencePiece and tokenizer.json ---


KINDS = ("unigram", "bpe", "bytes")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """SentencePiece models of text in three languages, by kind."""
    folder = tmp_path_factory.mktemp("models")
    lines = [line for name in languages.LANGUAGES for line in languages.corpus(name, 300) if line] + [
        "the cat sat on the mat", "a (cat)"] * 50
    options = {"unigram": {}, "bpe": {"model_type": "bpe"}, "bytes": {"model_type": "bpe", "byte_fallback": True}}
    for kind in KINDS:
        options[kind]["vocab_size"] = 800
    return {kind: languages.train_sentencepiece(folder / f"{kind}.model", lines, **options[kind]) for kind in KINDS}


def write_tokenizer_json(path, vocabulary, settings=None, **parts):
    """A tokenizer.json of words, and the settings beside it."""
    words = {word: number for number, word in enumerate(vocabulary)}
    content = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "Whitespace"},
               "model": {"type": "WordLevel", "vocab": words, "unk_token": vocabulary[0]}, **parts}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    if settings:
        (path.parent / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sentencepiece_model_has_electras_special_tokens_and_saves_as_itself(kind, models, tmp_path):
    tokenizer = ElectraTokenizer(models[kind])
    assert tokenizer.special_ids == (0, 1, 2, 3, 4) and tokenizer.tokens[:5] == list(SPECIAL_TOKENS)
    (tmp_path / "vocab.txt").write_text("of another vocabulary")
    tokenizer.save(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["spiece.model", "tokenizer.json", "tokenizer_config.json"]
    assert (tmp_path / "spiece.model").read_bytes() == open(models[kind], "rb").read()
    again = ElectraTokenizer.from_folder(str(tmp_path))
    assert again.fingerprint == tokenizer.fingerprint and again.tokens == tokenizer.tokens
    again.save(str(tmp_path / "again"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == {
        name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path / "again")}
    assert len(os.listdir(tmp_path / "again")) == 3
    others = {ElectraTokenizer(models[other]).fingerprint for other in KINDS}
    assert len(others) == 3 and tokenizer.fingerprint in others


def test_offsets_of_sentencepiece_are_those_of_the_original_characters(models):
    tokenizer = ElectraTokenizer(models["bytes"])
    for text, part in [
            ("das  Haus", "Haus"), ("ein\u00a0Haus\u3000hier", "Haus"), ("Scho\u0308nﬁeld ist", "Scho\u0308nﬁeld"),
            ("im Jahre １９１２ war", "１９１２"), ("\u1112\u1161\u11ab \u1100\u116e\u11a8", "\u1100\u116e\u11a8"),
            ("ｶﾞｷﾞ ｶﾞ", "ｶﾞ"), ("😀 ½ x", "½"), ("于1949年在北京出生。", "北京"), ("x 中", "中"),
            ("قال مُحَمَّد في", "مُحَمَّد"), ("zero\u200bwidth space", "width"), ("(cat) sat", "cat")]:
        start = text.rindex(part)
        encoding = tokenizer.encode(text)
        inside = [(begin, end) for begin, end in encoding.offsets if begin < start + len(part) and end > start]
        assert text[inside[0][0]:inside[-1][1]] == part, text
        starts, ends = zip(*encoding.offsets)
        assert list(starts) == sorted(starts) and list(ends) == sorted(ends)


@pytest.mark.parametrize("kind", ["wordpiece", *KINDS])
def test_lines_encoded_together_are_those_encoded_alone(kind, models, vocab_file):
    tokenizer = ElectraTokenizer(models.get(kind, vocab_file))
    lines = [text.replace("\n", " ") for text in random_texts(300)] + [
        "", " the cat ", "[CLS] the [MASK]", tokenization.LINE_END, f"x {tokenization.LINE_END} y", "half \ud83d"]
    lines += ["the cat sat"] * 70
    ids, lengths = tokenizer.encode_lines(lines)
    alone = tokenizer.encode_batch(lines)
    assert lengths.tolist() == [len(line) for line in alone] and ids.tolist() == sum(alone, [])
    assert alone == [tokenizer.encode(line).ids for line in lines]
    assert ids.dtype == np.int32 and len(tokenizer.encode_lines([])[0]) == 0
    for (found, starts, ends), line in zip(tokenizer.encode_spans(lines), lines):
        assert found.tolist() == tokenizer.encode(line).ids
        assert (starts >= 0).all() and (ends <= len(line)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_text_never_give_their_ids(kind, models):
    tokenizer = ElectraTokenizer(models[kind])
    for ids in (tokenizer.encode("the [MASK] cat [SEP][CLS] [PAD]").ids, tokenizer.encode_batch(["[MASK] a [CLS]"])[0],
                tokenizer.encode_lines(["[MASK] a [CLS]"])[0].tolist()):
        assert set(ids) & set(tokenizer.special_ids) == {tokenizer.unk_id}


def test_special_tokens_are_found_by_name_role_or_settings(tmp_path, refuses):
    usual = ["<unk>", "<s>", "</s>", "<pad>", "<mask>", "cat"]
    tokenizer = ElectraTokenizer(write_tokenizer_json(tmp_path / "a" / "tokenizer.json", usual))
    assert tokenizer.special_ids == (3, 0, 1, 2, 4) and tokenizer.encode("cat dog").ids == [5, 0]
    odd = ["U", "C", "S", "P", "M", "<mask>", "cat"]
    names = {f"{role}_token": name for role, name in zip(tokenization.ROLES, "PUCSM")}
    names["mask_token"] = {"content": "M", "special": True}
    path = write_tokenizer_json(tmp_path / "b" / "tokenizer.json", odd, names)
    assert ElectraTokenizer.from_folder(str(tmp_path / "b")).special_ids == (3, 0, 1, 2, 4)
    text = refuses(ElectraTokenizer, path)  # without the settings
    assert path in text and "[PAD]" in text and "<pad>" in text
    (tmp_path / "b" / "tokenizer_config.json").write_text(json.dumps({**names, "sep_token": "none"}))
    text = refuses(ElectraTokenizer.from_folder, str(tmp_path / "b"))
    assert "none" in text and "sep_token" in text
    (tmp_path / "b" / "tokenizer_config.json").write_text(json.dumps({**names, "sep_token": "C"}))
    text = refuses(ElectraTokenizer.from_folder, str(tmp_path / "b"))
    assert "cls_token" in text and "sep_token" in text and path in text
    (tmp_path / "vocab.txt").write_text("\n".join(usual))
    tokenizer = ElectraTokenizer(str(tmp_path / "vocab.txt"))
    assert tokenizer.special_ids == (3, 0, 1, 2, 4) and tokenizer.encode("dog").ids == [0]
    tokenizer.save(str(tmp_path / "saved"))
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["cls_token"] == "<s>"
    assert ElectraTokenizer.from_folder(str(tmp_path / "saved")).fingerprint == tokenizer.fingerprint


def test_a_model_without_a_mask_token_is_refused(tmp_path, refuses):
    path = languages.train_sentencepiece(tmp_path / "x.model", ["the cat sat"] * 9, control_symbols=[], vocab_size=30)
    assert "[MASK]" in refuses(ElectraTokenizer, path)


def test_a_tokenizer_json_of_transformers_is_read_with_its_settings(tmp_path, refuses, vocab_file):
    bert = ElectraTokenizer(vocab_file)
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                  "lowercase": True}
    model = json.loads(bert.backend.to_str())["model"]
    parts = dict(model=model, normalizer=normalizer, pre_tokenizer={"type": "BertPreTokenizer"})
    folder = tmp_path / "x"
    write_tokenizer_json(folder / "tokenizer.json", ["x"], {"tokenizer_class": "BertTokenizer"}, **parts)
    text = "The CAT's Café 中国 lowest"
    tokenizer = ElectraTokenizer.from_folder(str(folder))
    assert tokenizer.encode(text) == bert.encode(text) and tokenizer.tokens == bert.tokens
    for settings in ({"do_lower_case": False}, {"tokenize_chinese_chars": False}, {"strip_accents": False}):
        write_tokenizer_json(folder / "tokenizer.json", ["x"], settings, **parts)
        changed = ElectraTokenizer.from_folder(str(folder))
        casing = {} if "tokenize_chinese_chars" in settings else settings
        expected = ElectraTokenizer(vocab_file, settings=settings, **casing)
        assert changed.encode(text).ids == expected.encode(text).ids != bert.encode(text).ids, settings
        assert changed.fingerprint != tokenizer.fingerprint
        changed.save(str(tmp_path / "saved"))
        assert ElectraTokenizer.from_folder(str(tmp_path / "saved")).fingerprint == changed.fingerprint
    given = ElectraTokenizer.from_folder(str(folder), do_lower_case=False)
    assert given.encode("CAT").ids == [bert.unk_id]


def test_casing_of_a_file_that_has_its_own_is_refused_by_option(models, refuses):
    assert "--do_lower_case" in refuses(ElectraTokenizer, models["bpe"], do_lower_case=True)
    assert "--strip_accents" in refuses(ElectraTokenizer, models["bpe"], strip_accents=False)


def test_ideographs_are_kept_together_where_the_settings_say_so(make, tmp_path):
    tokenizer = make(["中国", "中", "国"])
    together = ElectraTokenizer(tokenizer.vocab_file, settings={"tokenize_chinese_chars": False})
    assert tokens_of(tokenizer, "中国") == ["中", "国"] and tokens_of(together, "中国") == ["中国"]
    together.save(str(tmp_path / "saved"))
    again = ElectraTokenizer.from_folder(str(tmp_path / "saved"))
    assert again.fingerprint == together.fingerprint != tokenizer.fingerprint
    assert tokens_of(again, "中国") == ["中国"]


@pytest.mark.parametrize("settings, key", [
    ({"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"}, "word_tokenizer_type"),
    ({"tokenizer_class": "BertJapaneseTokenizer"}, "tokenizer_class"), ({"never_split": ["cat"]}, "never_split"),
    ({"do_basic_tokenize": False}, "do_basic_tokenize"), ({"subword_tokenizer_type": "character"}, "subword_tokenizer"),
    ({"additional_special_tokens": ["<e>"]}, "additional_special_tokens"), ({"wordpieces_prefix": "@@"}, "prefix"),
    ({"mecab_kwargs": {"mecab_dic": "ipadic"}}, "mecab_kwargs"), ({"tokenize_chinese_chars": 1}, "chinese_chars"),
    ({"added_tokens_decoder": {"7": {"content": "<e>"}}}, "added_tokens_decoder"),
    ({"max_input_chars_per_word": 7}, "max_input_chars")])
def test_settings_that_are_not_supported_are_refused_by_name(settings, key, vocab_file, tmp_path, refuses):
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(settings))
    text = refuses(ElectraTokenizer.from_folder, str(tmp_path), vocab_file)
    assert str(path) in text and key in text


def test_usual_settings_are_accepted(vocab_file, tmp_path):
    tokens = {str(number): {"content": token} for number, token in enumerate(SPECIAL_TOKENS)}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "BertTokenizerFast", "never_split": None, "do_basic_tokenize": True, "model_max_length": 512,
        "added_tokens_decoder": tokens, "extra_special_tokens": {}, "do_lower_case": True}))
    tokenizer = ElectraTokenizer.from_folder(str(tmp_path), vocab_file)
    assert tokenizer.fingerprint == ElectraTokenizer(vocab_file).fingerprint


@pytest.mark.parametrize("settings, key", [({"tokenizer_class": "AlbertTokenizer"}, "tokenizer_class"),
                                           ({"do_lower_case": True}, "do_lower_case"),
                                           ({"sp_model_kwargs": {"nbest_size": -1}}, "sp_model_kwargs")])
def test_settings_outside_a_sentencepiece_model_are_refused_by_name(settings, key, models, tmp_path, refuses):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert key in refuses(ElectraTokenizer.from_folder, str(tmp_path), models["bpe"])


@pytest.mark.parametrize("change, part", [
    ({"model": {"type": "WordLevel"}}, "no model with a vocab"), ({"model": None}, "no model with a vocab"),
    ({"normalizer": {"type": "Unheard"}}, "tokenizers"),
    ({"model": {"type": "BPE", "vocab": {"[UNK]": 0}, "merges": [], "dropout": 0.1}}, "model.dropout")])
def test_bad_tokenizer_json_is_refused_by_its_path(change, part, tmp_path, refuses):
    path = write_tokenizer_json(tmp_path / "tokenizer.json", SPECIAL_TOKENS, **change)
    text = refuses(ElectraTokenizer, path)
    assert path in text and part in text
    (tmp_path / "tokenizer.json").write_text("{")
    assert path in refuses(ElectraTokenizer, path)


def test_any_damage_to_the_files_of_a_vocabulary_is_refused_by_path(tmp_path):
    ElectraTokenizer(write_tokenizer_json(tmp_path / "tokenizer.json", SPECIAL_TOKENS)).save(str(tmp_path))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {"4": {"content": "[MASK]"}}
    whole = {"tokenizer.json": json.loads((tmp_path / "tokenizer.json").read_text()), "tokenizer_config.json": config}
    refused = 0
    for name, content in whole.items():
        for key in content:
            for value in (None, 7, "x", [], {}, [7], {"type": 7}, {"normalizers": 7, "content": []}):
                for other, intact in whole.items():
                    (tmp_path / other).write_text(json.dumps(intact))
                (tmp_path / name).write_text(json.dumps({**content, key: value}))
                try:
                    ElectraTokenizer.from_folder(str(tmp_path)).encode("a cat")
                except configuration.UserError as error:
                    assert str(tmp_path) in str(error)
                    refused += 1
    assert refused > 40


def test_tokens_that_the_settings_add_must_be_in_the_tokenizer_json(tmp_path, refuses):
    settings = {"added_tokens_decoder": {"9": {"content": "<e>"}}}
    write_tokenizer_json(tmp_path / "tokenizer.json", [*SPECIAL_TOKENS, "cat"], settings)
    assert "<e>" in refuses(ElectraTokenizer.from_folder, str(tmp_path))
    settings = {"added_tokens_decoder": {"5": {"content": "cat"}}}
    write_tokenizer_json(tmp_path / "tokenizer.json", [*SPECIAL_TOKENS, "cat"], settings)
    assert ElectraTokenizer.from_folder(str(tmp_path)).encode("cat").ids == [5]


def test_pieces_are_compared_as_words_and_parts_of_words(models, make):
    tokenizer = ElectraTokenizer(models["bpe"])
    assert tokenizer.notation == "▁" and make(["a"]).notation == "##"
    forms = dict(zip(tokenizer.tokens, tokenizer.word_forms))
    assert forms["▁the"] == "the" and forms["[MASK]"] == "[MASK]"
    assert forms["."] == "." and forms["年"] == "年" and forms["a"] == "##a"
