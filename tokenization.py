"""Tokenizers: BERT's WordPiece, SentencePiece, and any `tokenizer.json`, all run by the `tokenizers` library (Rust).

`ElectraTokenizer` gives token ids, character offsets into the original text, and the ids of the five special tokens. It
reads three kinds of file wherever a vocabulary is given:

    vocab.txt       WordPiece (Devlin et al. 2019): text clean-up, optional lower-casing and accent stripping, splitting
                    at white space, punctuation and CJK ideographs, then greedy longest-match-first pieces
    X.model         SentencePiece, unigram or BPE, converted by sentencepiece_model.py
    tokenizer.json  Hugging Face's format: what the `tokenizers` library supports

ELECTRA's special tokens are found by the names that the tokenizer_config.json beside the file gives for their roles, by
the roles in a SentencePiece model, by ELECTRA's own names, or by the usual ones (<pad>, <unk>, <s>, </s>, <mask>). A
special token that occurs in text is text: it never gives the id of a special token, except that of unknown text.

TensorFlow is not imported, so that the worker processes of the dataset builder start in a fraction of a second.
"""
from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import unicodedata
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import tokenizers

import configuration
import electra_config
import files
import sentencepiece_model
from configuration import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROLES = ("pad", "unk", "cls", "sep", "mask")
USUAL_NAMES = {"pad": ("<pad>",), "unk": ("<unk>",), "cls": ("<cls>", "<s>"), "sep": ("<sep>", "</s>"),
               "mask": ("<mask>",)}
# A lone UTF-16 surrogate, from broken JSON escapes; Rust strings cannot hold it. It is replaced by U+FFFD, which has
# the same length and is removed by the clean-up.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
LARGEST_FILE = 256 << 20  # bytes of a vocabulary: two million tokens need a tenth
LINES_PER_CALL = 64  # lines joined for one call of the tokenizer
LINE_END = "ꀀꀁꀂ"  # joins them: three letters of the Yi script that do not form a word


class Encoding(NamedTuple):
    """Tokens of one text: `ids`, and the `offsets` (start, end) of each in characters of the original text."""

    ids: List[int]
    offsets: List[Tuple[int, int]]


class ElectraTokenizer:
    """A vocabulary, and how text is split into its tokens.

    Args:
        vocab_file: a vocab.txt (one token per line; the token id is the line number, counted from 0), a SentencePiece
            `.model`, or a `tokenizer.json`.
        do_lower_case: True for uncased vocabularies; None: as the file says, and for a vocab.txt True. Only vocab.txt
            and a tokenizer.json with BERT's normalisation can be told otherwise.
        strip_accents: None follows `do_lower_case`, as in BERT; True or False sets it independently.
        settings: content of the tokenizer_config.json that belongs to the file. Checked by `from_folder`.
    Raises: UserError: the file is missing or empty, repeats a token, lacks a special token, or cannot be used.
    """

    def __init__(self, vocab_file: str, do_lower_case: Optional[bool] = None, strip_accents: Optional[bool] = None,
                 settings: Optional[dict] = None):
        self.vocab_file = vocab_file
        self._settings = settings = settings or {}
        self._content = None  # of a tokenizer.json, unless the vocabulary is a vocab.txt
        self._model_file = b""  # the SentencePiece model that the content was made of, where there is one
        if vocab_file.endswith((".model", ".json")):
            self.do_lower_case = self.strip_accents = None
            file_roles = self._read_content(settings, do_lower_case, strip_accents)
            self.backend = load_backend(self._content, vocab_file)
            self.tokens = tokens_by_id(self.backend, vocab_file)
        else:
            self.do_lower_case = do_lower_case is not False
            self.strip_accents = strip_accents
            self.tokens = read_vocabulary(vocab_file)
            file_roles = {}
        self._ids = {token: id_ for id_, token in enumerate(self.tokens)}
        self.special_tokens = find_special_tokens(self._ids, vocab_file, settings, file_roles)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            self._ids[self.special_tokens[role]] for role in ROLES)
        if self._content is None:
            self.splits_ideographs = settings.get("tokenize_chinese_chars", True)
            self.backend = self._wordpiece()

    def _read_content(self, settings: dict, do_lower_case, strip_accents) -> Dict[str, str]:
        """Sets `_content` and `_model_file`. Returns: the names of special tokens by role that the file gives."""
        roles = {}
        if self.vocab_file.endswith(".model"):
            self._model_file = read_file(self.vocab_file)
            self._content, roles = sentencepiece_model.read(self._model_file, self.vocab_file)
        else:
            self._content = read_content(self.vocab_file, settings)
            beside = os.path.join(os.path.dirname(self.vocab_file), "spiece.model")
            with contextlib.suppress(UserError):  # kept if it is the same vocabulary
                model_file = read_file(beside)
                content, roles_beside = sentencepiece_model.read(model_file, beside)
                if essence(content, None) == essence(self._content, None):
                    self._model_file, roles = model_file, roles_beside
        given = {key: value for key, value in (("lowercase", do_lower_case), ("strip_accents", strip_accents))
                 if value is not None}
        if given:
            normalizer = bert_normalizer(self._content)
            if normalizer is None:
                option = "do_lower_case" if "lowercase" in given else "strip_accents"
                raise UserError(f"--{option} does not apply to {self.vocab_file}, which has a normalisation of its "
                                "own: omit the option.")
            normalizer.update(given)
        return roles

    def _wordpiece(self) -> tokenizers.Tokenizer:
        backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(
            self._ids, unk_token=self.special_tokens["unk"], max_input_chars_per_word=100))
        backend.normalizer = tokenizers.normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=self.splits_ideographs, strip_accents=self.strip_accents,
            lowercase=self.do_lower_case)
        backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        return backend

    @classmethod
    def from_folder(cls, folder: str, vocab_file: Optional[str] = None, **overrides) -> ElectraTokenizer:
        """Reads the vocabulary of a folder (or `vocab_file`) and, if present, `tokenizer_config.json`.

        The settings beside `vocab_file` are read where `folder` has none. `overrides` override the casing in them.
        Raises: UserError: as the constructor, or a setting that this project does not support.
        """
        places = [folder, *([os.path.dirname(vocab_file)] if vocab_file else [])]
        vocab_file = vocab_file or configuration.find_vocabulary(folder) or os.path.join(folder, "vocab.txt")
        config_file = next((path for path in (os.path.join(place, "tokenizer_config.json") for place in places)
                            if os.path.exists(path)), "")
        settings = configuration.read_json_object(config_file) if config_file else {}
        kept = check_casing(settings, config_file)
        if vocab_file.endswith((".model", ".json")):
            kept = {}  # the file itself contains its casing
        check_settings(settings, config_file, vocab_file)
        return cls(vocab_file, settings=settings, **{**kept, **overrides})

    def with_casing(self, **casing: Optional[bool]) -> ElectraTokenizer:
        """This tokenizer, with another `do_lower_case` or `strip_accents`. Raises: UserError: it has none."""
        if not casing:
            return self
        return ElectraTokenizer(self.vocab_file, settings=self._settings, **{**self.casing, **casing})

    def save(self, folder: str):
        """Writes the files of a Hugging Face ELECTRA folder, and removes the vocabulary of another kind there.

        They are tokenizer_config.json, and `vocab.txt`, or `tokenizer.json` and, where the vocabulary was one,
        `spiece.model`.
        """
        os.makedirs(folder, exist_ok=True)
        special = {f"{role}_token": self.special_tokens[role] for role in ROLES}
        if self._content is None:
            written = ["vocab.txt"]
            files.write_text(os.path.join(folder, "vocab.txt"), "".join(token + "\n" for token in self.tokens))
            settings = {"tokenizer_class": "ElectraTokenizer", "do_lower_case": self.do_lower_case,
                        "strip_accents": self.strip_accents, "tokenize_chinese_chars": self.splits_ideographs}
        else:
            written = ["tokenizer.json", *(["spiece.model"] if self._model_file else [])]
            files.write_json(os.path.join(folder, "tokenizer.json"), self._exported())
            if self._model_file:
                with files.replacing(os.path.join(folder, "spiece.model")) as path, open(path, "wb") as file:
                    file.write(self._model_file)
            settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": [
                "input_ids", "token_type_ids", "attention_mask"]}
        files.write_json(os.path.join(folder, "tokenizer_config.json"), {**settings, **special})
        for name in configuration.VOCABULARY_FILES:
            if name not in written:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(os.path.join(folder, name))

    def _exported(self) -> dict:
        """The tokenizer.json with ELECTRA's form of one and two segments, and with the special tokens declared."""
        names = [self.special_tokens[role] for role in ROLES]
        added = [entry for entry in self._content.get("added_tokens") or [] if entry.get("content") not in names]
        added += [sentencepiece_model.added_token(self._ids[name], name) for name in names]
        cls_token, sep_token = ({"id": name, "ids": [self._ids[name]], "tokens": [name]}
                                for name in (self.special_tokens["cls"], self.special_tokens["sep"]))

        def special(token, segment):
            return {"SpecialToken": {"id": token["id"], "type_id": segment}}

        def text(name, segment):
            return {"Sequence": {"id": name, "type_id": segment}}

        single = [special(cls_token, 0), text("A", 0), special(sep_token, 0)]
        return {**self._content, "added_tokens": sorted(added, key=lambda entry: entry["id"]), "post_processor": {
            "type": "TemplateProcessing", "single": single,
            "pair": [*single, text("B", 1), special(sep_token, 1)],
            "special_tokens": {token["id"]: token for token in (cls_token, sep_token)}}}

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    @property
    def special_ids(self) -> Tuple[int, ...]:
        """Ids of tokens that are never masked: [PAD], [UNK], [CLS], [SEP], [MASK]; see `pretrain_utils.maskable`."""
        return (self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id)

    @property
    def casing(self) -> Dict[str, Optional[bool]]:
        """`do_lower_case` and `strip_accents` of a vocab.txt, which does not contain them; else empty."""
        return {"do_lower_case": self.do_lower_case, "strip_accents": self.strip_accents} if not self._content else {}

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary and the casing: equal if and only if two tokenizers give the same ids."""
        names = [self.special_tokens[role] for role in ROLES]
        if self._content is not None:
            return hashlib.sha256(f"{essence(self._content, names)} {names}".encode()).hexdigest()
        digest = hashlib.sha256("\n".join(self.tokens).encode("utf-8"))
        strip_accents = None if self.strip_accents == self.do_lower_case else self.strip_accents  # None follows casing
        digest.update(f"\n{self.do_lower_case} {strip_accents}".encode())
        if not self.splits_ideographs or names != list(SPECIAL_TOKENS):
            digest.update(f" {self.splits_ideographs} {names}".encode())
        return digest.hexdigest()

    # --- Encoding ---

    def encode(self, text: str) -> Encoding:
        """Token ids and character offsets of `text`, without special tokens."""
        encoding = self.backend.encode(_LONE_SURROGATE.sub("\ufffd", text), add_special_tokens=False)
        if self._content is None:
            return Encoding(encoding.ids, encoding.offsets)
        ids, starts, ends = self._spans(text, encoding)
        return Encoding(ids.tolist(), list(zip(starts.tolist(), ends.tolist())))

    def encode_batch(self, texts: Sequence[str]) -> List[List[int]]:
        """Token ids of many texts, encoded in Rust (in parallel, unless TOKENIZERS_PARALLELISM=false)."""
        return [ids.tolist() for ids in self._encode_batch(texts)] if self._content else [
            encoding.ids for encoding in encode_fast(self.backend, texts)]

    def _encode_batch(self, texts: Sequence[str]) -> List[np.ndarray]:
        return [self._without_special(np.array(encoding.ids, np.int32))
                for encoding in encode_fast(self.backend, texts)]

    def encode_lines(self, lines: Sequence[str]) -> Tuple[np.ndarray, np.ndarray]:
        """Token ids of many lines as one array, int32 [tokens], and the number of tokens of each line, int64 [lines].

        Lines are joined by `LINE_END`, because one long text takes less time than many short ones. The ids are the same
        as for separate lines.
        """
        backend, glue = self._joining
        mark = backend.token_to_id(LINE_END) if backend else None
        found, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for first in range(0, len(lines), LINES_PER_CALL):
            part = lines[first:first + LINES_PER_CALL]
            if backend:
                marked = np.array(encode_fast(backend, [glue.join([*part, ""])])[0].ids, np.int32)
                ends = np.flatnonzero(marked == mark)
                if len(ends) == len(part):
                    found.append(self._without_special(marked[marked != mark]))
                    lengths.append(np.diff(ends, prepend=-1) - 1)
                    continue  # unless a line contains LINE_END
            separate = self._encode_batch(part)
            found += separate
            lengths.append(np.array([len(ids) for ids in separate], np.int64))
        return np.concatenate(found), np.concatenate(lengths)

    @functools.cached_property
    def _joining(self) -> Tuple[Optional[tokenizers.Tokenizer], str]:
        """A backend that knows `LINE_END`, and how to join lines with it; None where lines cannot be joined.

        In a WordPiece vocabulary it is a word: BERT's normalisation and WordPiece never look across white space. In a
        tokenizer.json it is a special token, at which the text is split before it is normalised.
        """
        if self._content is None:
            content = json.loads(self.backend.to_str())
            content["model"]["vocab"][LINE_END] = self.vocab_size
            return load_backend(content, self.vocab_file), f" {LINE_END} "
        if any(part.get("prepend_scheme") == "first" for part in parts_of(self._content.get("pre_tokenizer"))):
            return None, ""  # what follows a special token is split as another text is
        added = [*(self._content.get("added_tokens") or []),
                 sentencepiece_model.added_token(self.vocab_size, LINE_END)]
        return load_backend({**self._content, "added_tokens": added}, self.vocab_file), LINE_END

    def encode_spans(self, texts: Sequence[str]) -> List[Tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each text the ids of its tokens, their first characters and their end characters, int32 [tokens] each.

        `text[starts[i]:ends[j]]` is the text of tokens i to j, without white space around it. Normalisation drops or
        joins combining marks, and its offsets exclude those after a token's last letter; here they belong to the token.
        A token that is nothing but white space starts after it and ends before it.
        """
        valid = [_LONE_SURROGATE.sub("\ufffd", text) for text in texts]
        return [self._spans(text, encoding) for text, encoding in zip(
            texts, self.backend.encode_batch(valid, add_special_tokens=False))]

    def _spans(self, text: str, encoding: tokenizers.Encoding) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        ids = np.array(encoding.ids, np.int32)
        starts, ends = np.array(encoding.offsets, np.int32).reshape(-1, 2).T.copy()
        if not text.isascii():
            joins = is_mark if self._content is None else is_joined
            dropped = np.array([joins(character) for character in text] + [False])
            dropped[starts] = False
            other = np.flatnonzero(~dropped)
            ends = other[np.searchsorted(other, ends)].astype(np.int32)
        if self._content is None:
            return ids, starts, ends
        filled = np.array([place for place, character in enumerate(text) if not is_blank(character)] + [len(text)])
        ended = np.concatenate([[0], filled[:-1] + 1])  # ends of the text before the first, second, ... such character
        limits = np.where(self._blank[ids], starts, ends)
        return (self._without_special(ids), filled[np.searchsorted(filled, starts)].astype(np.int32),
                ended[np.searchsorted(filled, limits)].astype(np.int32))

    def _without_special(self, ids: np.ndarray) -> np.ndarray:
        """Special tokens in the text, which a tokenizer.json matches there, become [UNK]."""
        if self._content is not None:
            ids[np.isin(ids, (self.pad_id, self.cls_id, self.sep_id, self.mask_id))] = self.unk_id
        return ids

    @functools.cached_property
    def _blank(self) -> np.ndarray:
        """Whether a token is white space alone, bool [vocab_size]."""
        return np.array([bool(token) and not token.strip("▁Ġ ") for token in self.tokens])

    # --- Other vocabularies ---

    @functools.cached_property
    def notation(self) -> str:
        """How a token says that it starts or continues a word: `##`, `▁`, or `other`."""
        if self._content is None or self._content["model"].get("continuing_subword_prefix") == "##":
            return "##"
        return sentencepiece_model.SPACE if any(
            part.get("type") == "Metaspace" for part in parts_of(self._content.get("pre_tokenizer"))) else "other"

    @functools.cached_property
    def word_forms(self) -> List[str]:
        """The tokens as WordPiece would write them, for the comparison of vocabularies of two kinds; else unchanged."""
        forms = list(self.tokens)
        if self.notation == sentencepiece_model.SPACE:
            split = tokenizers.pre_tokenizers.BertPreTokenizer()
            normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False, strip_accents=False)

            def form(token):
                if token.startswith(sentencepiece_model.SPACE):
                    return token[1:]
                joins = len(token) > 1 or len(split.pre_tokenize_str(normalizer.normalize_str(f"a{token}a"))) == 1
                return f"##{token}" if joins else token

            forms = [form(token) for token in forms]
        for name, role in zip(SPECIAL_TOKENS, ROLES):
            forms[self._ids[self.special_tokens[role]]] = name
        return forms


def encode_fast(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> List[tokenizers.Encoding]:
    """The encodings of texts, without offsets where the library can leave them out (from 0.20.1 on)."""
    encode = getattr(backend, "encode_batch_fast", backend.encode_batch)
    return encode([_LONE_SURROGATE.sub("\ufffd", text) for text in texts], add_special_tokens=False)


# --- Characters ---


def is_mark(character: str) -> bool:
    """Combining accents, which BERT's normalisation drops."""
    return unicodedata.category(character) == "Mn"


def is_joined(character: str) -> bool:
    """What NFKC may join with the character before it: marks, Hangul vowels and finals, half-width voiced marks."""
    return (unicodedata.category(character) in ("Mn", "Mc", "Me") or "\u1160" <= character <= "\u11ff"
            or character in "\uff9e\uff9f")


def is_blank(character: str) -> bool:
    """What SentencePiece takes for white space."""
    return character.isspace() or character in "▁\u200b\ufeff"


# --- Settings ---

# Classes of Hugging Face transformers whose vocab.txt is read as BERT's.
BERT_CLASSES = re.compile("(Bert|Electra|DistilBert|ConvBert|MobileBert|SqueezeBert|RetriBert|Lxmert|Funnel|LayoutLM)"
                          "Tokenizer(Fast)?")
# Settings of tokenizer_config.json that change the ids, with the only value that this project supports.
SUPPORTED = {"word_tokenizer_type": "basic", "subword_tokenizer_type": "wordpiece", "do_basic_tokenize": True,
             "do_word_tokenize": True, "do_subword_tokenize": True, "clean_text": True, "wordpieces_prefix": "##",
             "max_input_chars_per_word": 100}
EMPTY = ("never_split", "mecab_kwargs", "sudachi_kwargs", "jumanpp_kwargs", "sp_model_kwargs",
         "additional_special_tokens", "extra_special_tokens")


def check_casing(settings: dict, path: str) -> Dict[str, Optional[bool]]:
    """`do_lower_case` and `strip_accents` of a JSON file's content, where it has them. Raises: UserError."""
    kept = {key: settings[key] for key in ("do_lower_case", "strip_accents") if key in settings}
    for key, value in kept.items():
        if not isinstance(value, bool) and not (value is None and key == "strip_accents"):
            raise UserError(f"{path}: {key} is {configuration.in_brief(value)}: it must be true or false.")
    return kept


def check_settings(settings: dict, config_file: str, vocab_file: str):
    """Raises UserError: the settings of a tokenizer_config.json contain one that changes the ids and is not supported.

    A tokenizer.json contains its settings itself, and is as transformers reads it.
    """
    if type(settings.get("tokenize_chinese_chars", True)) is not bool:
        raise UserError(f"{config_file}: tokenize_chinese_chars is "
                        f"{configuration.in_brief(settings['tokenize_chinese_chars'])}: it must be true or false.")
    if vocab_file.endswith(".json"):
        problems = [key for key in ("word_tokenizer_type",) if settings.get(key, SUPPORTED[key]) != SUPPORTED[key]]
    else:
        problems = [key for key, value in SUPPORTED.items() if settings.get(key) not in (None, value)]
        problems += [key for key in EMPTY if settings.get(key)]
    kind = str(settings.get("tokenizer_class") or "ElectraTokenizer")
    if vocab_file.endswith(".model") and kind not in ("PreTrainedTokenizerFast", "ElectraTokenizer"):
        problems.append("tokenizer_class")  # such a class changes the text before, or the ids after, SentencePiece
    elif not vocab_file.endswith((".model", ".json")) and not BERT_CLASSES.fullmatch(kind):
        problems.append("tokenizer_class")
    if vocab_file.endswith(".model"):
        problems += [key for key in ("do_lower_case", "keep_accents") if key in settings]
    if not vocab_file.endswith(".json"):
        special = {token_name(settings.get(f"{role}_token")) for role in ROLES} | set(SPECIAL_TOKENS)
        if any(token not in special for token in added_tokens(settings)):
            problems.append("added_tokens_decoder")
    if problems:
        key = problems[0]
        raise UserError(f"{config_file}: {key} is {configuration.in_brief(settings[key])}, which this project does not "
                        f"support for {os.path.basename(vocab_file)}: give the tokenizer.json of the model as "
                        "--vocab_file (transformers writes it with save_pretrained), or another vocabulary.")


def token_name(value) -> Optional[str]:
    """A special token of a settings file: its text, or an object with it as `content`."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if value is None else str(value)


def added_tokens(settings: dict) -> List[str]:
    """The tokens that a tokenizer_config.json declares, special ones among them."""
    entries = settings.get("added_tokens_decoder")
    return [token_name(entry) for entry in entries.values()] if isinstance(entries, dict) else []


def find_special_tokens(ids: Dict[str, int], path: str, settings: dict, by_file: Dict[str, str]) -> Dict[str, str]:
    """The names of ELECTRA's five special tokens in a vocabulary, by role.

    Args:
        settings: the tokenizer_config.json beside the vocabulary; its names come first.
        by_file: names that the vocabulary itself gives.
    Raises: UserError: there is no token for a role, or one for two.
    """
    found = {}
    for role, electra_name in zip(ROLES, SPECIAL_TOKENS):
        named = token_name(settings.get(f"{role}_token"))
        names = [named] if named else [by_file.get(role), electra_name, *USUAL_NAMES[role]]
        name = next((name for name in names if isinstance(name, str) and name in ids), None)
        if name is None:
            where = f"although its tokenizer_config.json names it as {role}_token" if named else (
                f"or {', '.join(USUAL_NAMES[role])}; ELECTRA needs it")
            raise UserError(f"{path} lacks the special token {named or electra_name}, {where}: use a vocabulary that "
                            "has it, such as one of data/build_vocab.py.")
        found[role] = name
    for role, name in found.items():
        others = [other for other in ROLES if other != role and found[other] == name]
        if others:
            raise UserError(f"{path} has one special token, {name}, as {role}_token and as {others[0]}_token: name two "
                            "in the tokenizer_config.json beside it.")
    return found


# --- Files ---


def read_file(path: str) -> bytes:
    """The content of a vocabulary file. Raises: UserError: it cannot be read, or is too large."""
    try:
        with files.open_regular(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UserError(f"vocabulary {path} cannot be read ({error.strerror}): set --vocab_file to an existing "
                        "file.") from error
    if len(content) > LARGEST_FILE:
        raise UserError(f"vocabulary {path} has more than {LARGEST_FILE >> 20} MB: use a WordPiece vocabulary with "
                        "one token per line.")
    return content


def read_vocabulary(path: str) -> List[str]:
    """The tokens of a `vocab.txt` in order of id; a byte order mark and Windows' line ends are left out.

    Raises: UserError: the file cannot be used as a vocabulary.
    """
    try:
        lines = read_file(path).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"vocabulary {path} is not UTF-8 (byte {error.start}): convert it.") from error
    tokens = [line.rstrip("\r") for line in (lines if lines[-1] else lines[:-1])]
    if not tokens:
        raise UserError(f"vocabulary {path} is empty: use a WordPiece vocabulary with one token per line.")
    check_size(len(tokens), path, "lines")
    binary = next((number for number, token in enumerate(tokens, 1) if "\0" in token), 0)
    if binary:
        raise UserError(f"vocabulary {path} has a NUL character in line {binary}: use a text file with one token per "
                        "line, or name a SentencePiece model X.model.")
    if len(set(tokens)) != len(tokens):
        seen = set()
        twice = next(token for token in tokens if token in seen or seen.add(token))
        raise UserError(f"vocabulary {path} contains the token {twice!r} twice: remove one of them.")
    return tokens


def check_size(count: int, path: str, what: str):
    if count > electra_config.LARGEST_VOCABULARY:
        raise UserError(f"vocabulary {path} has {count:,} {what}, more than {electra_config.LARGEST_VOCABULARY:,}: "
                        "use a WordPiece vocabulary with one token per line.")


def read_content(path: str, settings: dict) -> dict:
    """The content of a `tokenizer.json`, with what the settings beside it change (as in transformers).

    Raises: UserError: it is not one, or a setting contradicts it.
    """
    read_file(path)  # its size
    content = configuration.read_json_object(path)
    model = content.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), (dict, list)):
        raise UserError(f"{path} is not a tokenizer.json of the tokenizers library (it has no model with a vocab): "
                        "give one, a vocab.txt, or a SentencePiece model.")
    if model.get("dropout"):
        raise UserError(f"{path}: model.dropout is {configuration.in_brief(model['dropout'])}, with which ids are "
                        "random: remove it from the file.")
    content = {**content, "truncation": None, "padding": None}
    normalizer = bert_normalizer(content)
    if normalizer is not None:
        for theirs, key in (("lowercase", "do_lower_case"), ("strip_accents", "strip_accents"),
                            ("handle_chinese_chars", "tokenize_chinese_chars")):
            if key in settings:
                normalizer[theirs] = settings[key]
    for part in parts_of(content.get("pre_tokenizer")):
        if part.get("type") == "ByteLevel" and type(settings.get("add_prefix_space")) is bool:
            part["add_prefix_space"] = settings["add_prefix_space"]
    entries = content.get("added_tokens")
    added = [entry.get("content") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    for token in added_tokens(settings):
        if token not in added and token not in model["vocab"]:
            raise UserError(f"{path} lacks the token {token!r}, which the tokenizer_config.json beside it adds: save "
                            "the tokenizer again with transformers, which writes both.")
    return content


def parts_of(step: Optional[dict]) -> List[dict]:
    """The steps of a normalizer or pre-tokenizer of a tokenizer.json, also those of a sequence."""
    if not isinstance(step, dict):
        return []
    inner = step.get("normalizers") or step.get("pretokenizers")
    return [step, *(found for part in (inner if isinstance(inner, list) else []) for found in parts_of(part))]


def bert_normalizer(content: dict) -> Optional[dict]:
    return next((part for part in parts_of(content.get("normalizer")) if part.get("type") == "BertNormalizer"), None)


def essence(content: dict, special: Optional[Sequence[str]]) -> str:
    """What decides the ids of a tokenizer.json, as one string; special: tokens that are declared in it or not (None:
    all), which makes no difference here."""
    parts = {key: content.get(key) for key in ("normalizer", "pre_tokenizer", "model")}
    parts["added_tokens"] = [] if special is None else sorted(
        (entry["id"], json.dumps(entry, sort_keys=True)) for entry in content.get("added_tokens") or []
        if entry["content"] not in special)
    return json.dumps(parts, sort_keys=True)


def load_backend(content: dict, path: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"{path} cannot be loaded by tokenizers {tokenizers.__version__} "
                        f"({configuration.in_short(error)}): give another vocabulary.") from error


def tokens_by_id(backend: tokenizers.Tokenizer, path: str) -> List[str]:
    """The tokens in order of id; an id without a token gets a name that no text has."""
    ids = backend.get_vocab(with_added_tokens=True)
    if not ids:
        raise UserError(f"{path} has no tokens: give another vocabulary.")
    check_size(max(ids.values()) + 1, path, "ids")
    tokens = {id_: token for token, id_ in ids.items()}
    return [tokens.get(id_, f"<id {id_} without a token>") for id_ in range(max(tokens) + 1)]
