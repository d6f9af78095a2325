"""Text to ids and back: WordPiece over the `tokenizers` library (Rust), with BERT's normalisation.

`ElectraTokenizer` is what the rest of the project sees: ids, offsets into the original text, and the five special
ids. The algorithm is BERT's (Devlin et al. 2019): clean-up, optional lower-casing and accent stripping, splitting at
white space, punctuation and CJK ideographs, then greedy longest-match-first WordPiece. Everything that is particular to
WordPiece is in `_wordpiece`: another model (SentencePiece) needs a sibling of it and a line in `from_folder`.

TensorFlow is not imported: the dataset builder's workers start in a fraction of a second.
"""
from __future__ import annotations

import hashlib
import os
import re
from typing import List, NamedTuple, Optional, Tuple

import tokenizers

import configuration
import files
from configuration import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Half a UTF-16 pair, as broken JSON escapes leave it; Rust takes no such text. Clean-up drops U+FFFD, which is as long.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Encoding(NamedTuple):
    """One text: `ids`, and for each the (start, end) characters of the original text it came from."""

    ids: List[int]
    offsets: List[Tuple[int, int]]


class ElectraTokenizer:
    """A vocabulary and its casing.

    Args:
        vocab_file: one token a line, its id the line's number from 0.
        do_lower_case: True for uncased vocabularies.
        strip_accents: None follows `do_lower_case`, as in BERT; True or False set it apart from casing.
    Raises: UserError: the file is missing, empty, has a token twice, or lacks a special token.
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
        backend.decoder = tokenizers.decoders.WordPiece(prefix="##")
        return backend

    @classmethod
    def from_folder(cls, folder: str, vocab_file: Optional[str] = None, **overrides) -> ElectraTokenizer:
        """Reads `vocab.txt` (or `vocab_file`) and, where there is one, `tokenizer_config.json`, over which keyword
        arguments win."""
        config_file = os.path.join(folder, "tokenizer_config.json")
        settings = configuration.read_json_object(config_file) if os.path.exists(config_file) else {}
        kept = {key: settings[key] for key in ("do_lower_case", "strip_accents") if key in settings}
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
        """Ids that are never masked: [PAD], [UNK], [CLS], [SEP], [MASK]. See `pretrain_utils.maskable`."""
        return (self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the tokens and the casing: equal exactly where ids mean the same."""
        digest = hashlib.sha256("\n".join(self.tokens).encode("utf-8"))
        strip_accents = None if self.strip_accents == self.do_lower_case else self.strip_accents  # None follows casing
        digest.update(f"\n{self.do_lower_case} {strip_accents}".encode())
        return digest.hexdigest()

    def encode(self, text: str) -> Encoding:
        """Ids and character offsets of `text`, without special tokens."""
        encoding = self.backend.encode(_LONE_SURROGATE.sub("\ufffd", text), add_special_tokens=False)
        return Encoding(encoding.ids, encoding.offsets)

    def encode_batch(self, texts: List[str]) -> List[List[int]]:
        """Ids of many texts at once; the work is done in Rust, in parallel where the process allows it."""
        encode = getattr(self.backend, "encode_batch_fast", self.backend.encode_batch)  # tokenizers < 0.20.1: no _fast
        whole = [_LONE_SURROGATE.sub("\ufffd", text) for text in texts]
        return [encoding.ids for encoding in encode(whole, add_special_tokens=False)]

    def decode(self, ids: List[int]) -> str:
        """Readable text: continuation pieces joined, special tokens left out. Not an inverse of `encode`."""
        special = set(self.special_ids) - {self.unk_id}
        return self.backend.decode([id_ for id_ in ids if id_ not in special], skip_special_tokens=False)

    def token_to_id(self, token: str) -> Optional[int]:
        return self._ids.get(token)


def read_vocabulary(path: str) -> List[str]:
    """Tokens of a `vocab.txt`, in id order. Raises: UserError naming the file (and the repeated token)."""
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            tokens = [line.rstrip("\r\n") for line in file]
    except OSError as error:
        raise UserError(f"vocabulary {path} cannot be read ({error.strerror}): give an existing "
                        "--vocab_file.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"vocabulary {path} is not UTF-8 (byte {error.start}): convert it.") from error
    if not tokens:
        raise UserError(f"vocabulary {path} is empty: give a WordPiece vocabulary, one token a line.")
    if len(set(tokens)) != len(tokens):
        seen = set()
        twice = next(token for token in tokens if token in seen or seen.add(token))
        raise UserError(f"vocabulary {path} lists the token {twice!r} twice: ids would be ambiguous, remove one.")
    return tokens
