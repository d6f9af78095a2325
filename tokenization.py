"""WordPiece tokenizer with BERT's normalisation, based on the `tokenizers` library (Rust).

`ElectraTokenizer` gives token ids, character offsets into the original text, and the ids of the five special tokens.
The algorithm is BERT's (Devlin et al. 2019): text clean-up, optional lower-casing and accent stripping, splitting at
white space, punctuation and CJK ideographs, then greedy longest-match-first WordPiece. Everything specific to WordPiece
is in `_wordpiece`: another model (SentencePiece) needs a counterpart of it and a line in `from_folder`.

TensorFlow is not imported, so that the worker processes of the dataset builder start in a fraction of a second.
"""
from __future__ import annotations

import hashlib
import os
import re
from typing import Dict, List, NamedTuple, Optional, Tuple

import tokenizers

import configuration
import files
from configuration import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# A lone UTF-16 surrogate, from broken JSON escapes; Rust strings cannot hold it. It is replaced by U+FFFD, which has
# the same length and is removed by the clean-up.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
LARGEST_FILE = 256 << 20  # bytes of a vocabulary: two million tokens need a tenth


class Encoding(NamedTuple):
    """Tokens of one text: `ids`, and the `offsets` (start, end) of each in characters of the original text."""

    ids: List[int]
    offsets: List[Tuple[int, int]]


class ElectraTokenizer:
    """A vocabulary and its casing.

    Args:
        vocab_file: one token per line; the token id is the line number, counted from 0.
        do_lower_case: True for uncased vocabularies.
        strip_accents: None follows `do_lower_case`, as in BERT; True or False sets it independently.
    Raises: UserError: the file is missing or empty, repeats a token, or lacks a special token.
    """

    def __init__(self, vocab_file: str, do_lower_case: bool = True, strip_accents: Optional[bool] = None):
        self.vocab_file = vocab_file
        self.do_lower_case = do_lower_case
        self.strip_accents = strip_accents
        self.tokens = read_vocabulary(vocab_file)
        self._ids = {token: id_ for id_, token in enumerate(self.tokens)}
        missing = [token for token in SPECIAL_TOKENS if token not in self._ids]
        if missing:
            raise UserError(f"{vocab_file} lacks the special token {missing[0]}: use a BERT-style WordPiece "
                            "vocabulary.")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (self._ids[t] for t in SPECIAL_TOKENS)
        self.backend = self._wordpiece()

    def _wordpiece(self) -> tokenizers.Tokenizer:
        backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(
            self._ids, unk_token="[UNK]", max_input_chars_per_word=100))
        backend.normalizer = tokenizers.normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=self.strip_accents, lowercase=self.do_lower_case)
        backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        return backend

    @classmethod
    def from_folder(cls, folder: str, vocab_file: Optional[str] = None, **overrides) -> ElectraTokenizer:
        """Reads `vocab.txt` (or `vocab_file`) and, if present, `tokenizer_config.json`, which `overrides` override."""
        config_file = os.path.join(folder, "tokenizer_config.json")
        settings = configuration.read_json_object(config_file) if os.path.exists(config_file) else {}
        kept = check_casing(settings, config_file)
        return cls(vocab_file or os.path.join(folder, "vocab.txt"), **{**kept, **overrides})

    def save(self, folder: str):
        """Writes `vocab.txt` and `tokenizer_config.json`, the files of a Hugging Face ELECTRA folder."""
        os.makedirs(folder, exist_ok=True)
        files.write_text(os.path.join(folder, "vocab.txt"), "".join(token + "\n" for token in self.tokens))
        files.write_json(os.path.join(folder, "tokenizer_config.json"), {
            "tokenizer_class": "ElectraTokenizer", "do_lower_case": self.do_lower_case,
            "strip_accents": self.strip_accents, "tokenize_chinese_chars": True,
            "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
            "mask_token": "[MASK]"})

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    @property
    def special_ids(self) -> Tuple[int, ...]:
        """Ids of tokens that are never masked: [PAD], [UNK], [CLS], [SEP], [MASK]; see `pretrain_utils.maskable`."""
        return (self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary and the casing: equal if and only if two tokenizers give the same ids."""
        digest = hashlib.sha256("\n".join(self.tokens).encode("utf-8"))
        strip_accents = None if self.strip_accents == self.do_lower_case else self.strip_accents  # None follows casing
        digest.update(f"\n{self.do_lower_case} {strip_accents}".encode())
        return digest.hexdigest()

    def encode(self, text: str) -> Encoding:
        """Token ids and character offsets of `text`, without special tokens."""
        encoding = self.backend.encode(_LONE_SURROGATE.sub("\ufffd", text), add_special_tokens=False)
        return Encoding(encoding.ids, encoding.offsets)

    def encode_batch(self, texts: List[str]) -> List[List[int]]:
        """Token ids of many texts, encoded in Rust (in parallel, unless TOKENIZERS_PARALLELISM=false)."""
        encode = getattr(self.backend, "encode_batch_fast", self.backend.encode_batch)  # new in tokenizers 0.20.1
        valid = [_LONE_SURROGATE.sub("\ufffd", text) for text in texts]
        return [encoding.ids for encoding in encode(valid, add_special_tokens=False)]


def check_casing(settings: dict, path: str) -> Dict[str, Optional[bool]]:
    """`do_lower_case` and `strip_accents` of a JSON file's content, where it has them. Raises: UserError."""
    kept = {key: settings[key] for key in ("do_lower_case", "strip_accents") if key in settings}
    for key, value in kept.items():
        if not isinstance(value, bool) and not (value is None and key == "strip_accents"):
            raise UserError(f"{path}: {key} is {configuration.in_brief(value)}: it must be true or false.")
    return kept


def read_vocabulary(path: str) -> List[str]:
    """The tokens of a `vocab.txt` in order of id; a byte order mark and Windows' line ends are left out.

    Raises: UserError: the file cannot be used as a vocabulary.
    """
    try:
        with files.open_regular(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise UserError(f"vocabulary {path} has more than {LARGEST_FILE >> 20} MB: use a WordPiece vocabulary with "
                            "one token per line.")
        lines = content.decode("utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"vocabulary {path} cannot be read ({error.strerror}): set --vocab_file to an existing "
                        "file.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"vocabulary {path} is not UTF-8 (byte {error.start}): convert it.") from error
    tokens = [line.rstrip("\r") for line in (lines if lines[-1] else lines[:-1])]
    if not tokens:
        raise UserError(f"vocabulary {path} is empty: use a WordPiece vocabulary with one token per line.")
    if len(tokens) > configuration.LARGEST_VOCABULARY:
        raise UserError(f"vocabulary {path} has {len(tokens):,} lines, more than {configuration.LARGEST_VOCABULARY:,}: "
                        "use a WordPiece vocabulary with one token per line.")
    binary = next((number for number, token in enumerate(tokens, 1) if "\0" in token), 0)
    if binary:
        raise UserError(f"vocabulary {path} has a NUL character in line {binary}: use a text file with one token per "
                        "line.")
    if len(set(tokens)) != len(tokens):
        seen = set()
        twice = next(token for token in tokens if token in seen or seen.add(token))
        raise UserError(f"vocabulary {path} contains the token {twice!r} twice: remove one of them.")
    return tokens
