"""SentencePiece models as the content of a `tokenizer.json` (Kudo and Richardson 2018, arXiv:1808.06226).

`read` turns a `.model` file into the JSON object that the `tokenizers` library loads, so that a SentencePiece
vocabulary has the same ids here as in Hugging Face transformers, and offsets into the text. The file is a protocol
buffer message (sentencepiece_model.proto); the few fields that matter are decoded here, because the protobuf package
belongs to TensorFlow and its version changes with it.

The ids equal those of the `sentencepiece` library for text in Unicode's composed form (NFC), as most text is. Unicode's
NFKC is applied before the character map of the model, because the map alone, as the `tokenizers` library applies it,
loses some combining marks and does not compose Hangul. Differences remain for marks in another than Unicode's order,
which NFKC sorts and SentencePiece does not, for U+FF5E and, with case folding, U+0130; and where two segmentations have
the same score.
"""
from __future__ import annotations

import base64
import struct
from typing import Dict, Iterator, List, NamedTuple, Tuple, Union

from configuration import UserError

SPACE = "▁"  # U+2581, what SentencePiece writes for white space
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5  # ModelProto.SentencePiece.Type; 6 is a byte
MASKS = ("[MASK]", "<mask>")  # often a user-defined symbol, because SentencePiece has no role for it
UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType; 3 is word and 4 is char
RULES = {"identity": [], "": []}  # what is applied before the character map of the model, by the rule's name
RULES.update({name: [{"type": "NFKC"}] for name in ("nfkc", "nmt_nfkc")})
RULES.update({f"{name}_cf": [*steps, {"type": "Lowercase"}] for name, steps in list(RULES.items()) if steps})


class Model(NamedTuple):
    """What a `.model` file contains, as far as encoding needs it."""

    pieces: List[Tuple[str, float, int]]  # text, score (log probability, or minus the rank), type
    model_type: int
    ids: Dict[str, int]  # of the special pieces by role: pad, unk, cls (bos), sep (eos); without those that are absent
    byte_fallback: bool
    rule: str  # name of the normalisation
    character_map: bytes  # the normalisation itself: a trie and the strings that replace its matches
    dummy_prefix: bool  # white space is added in front of the text
    extra_whitespace: bool  # leading, trailing and repeated white space is kept


# --- Protocol buffers ---


def fields(message: bytes) -> Iterator[Tuple[int, Union[int, bytes]]]:
    """The fields of a message in order: number, and value as int (varint), or bytes (float32 and strings).

    Raises: ValueError, IndexError: not a message.
    """
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a varint of more than ten bytes")

    while position < len(message):
        key = varint()
        wire_type = key & 7
        if wire_type == 0:
            yield key >> 3, varint()
            continue
        if wire_type not in (1, 2, 5):
            raise ValueError(f"wire type {wire_type}")
        size = varint() if wire_type == 2 else {1: 8, 5: 4}[wire_type]
        if position + size > len(message):
            raise ValueError("a field longer than the message")
        yield key >> 3, message[position:position + size]
        position += size


def signed(value: int) -> int:
    """A varint as int32."""
    return value - (1 << 64) if value >> 63 else value


def parse(content: bytes) -> Model:
    """Raises: ValueError, IndexError, TypeError, struct.error: not a SentencePiece model."""
    pieces, trainer, normalizer = [], {}, {}
    for number, value in fields(content):
        if number == 1:  # SentencePiece: piece, score, type
            piece = dict(fields(value))
            pieces.append((piece[1].decode("utf-8"), struct.unpack("<f", piece.get(2, bytes(4)))[0],
                           piece.get(3, NORMAL)))
        elif number == 2:
            trainer = dict(fields(value))
        elif number == 3:
            normalizer = dict(fields(value))
    if not pieces:
        raise ValueError("no pieces")
    if trainer.get(24):
        raise UserError("treat_whitespace_as_suffix is set")
    roles = {role: signed(trainer.get(number, default)) for role, number, default in (
        ("unk", 40, 0), ("cls", 41, 1), ("sep", 42, 2), ("pad", 43, (1 << 64) - 1))}  # unk_id, bos_id, eos_id, pad_id
    return Model(pieces, trainer.get(3, UNIGRAM), {role: id_ for role, id_ in roles.items() if 0 <= id_ < len(pieces)},
                 bool(trainer.get(35)), normalizer.get(1, b"").decode("utf-8"), normalizer.get(2, b""),
                 bool(normalizer.get(3, 1)), not normalizer.get(4, 1))


# --- The tokenizer.json ---


def read(content: bytes, path: str) -> Tuple[dict, Dict[str, str]]:
    """The content of a `.model` file as that of a `tokenizer.json`.

    Returns: the JSON object; the special pieces by role (pad, unk, cls, sep), as far as the file names them.
    Raises: UserError: not a SentencePiece model, or of a kind that this project does not support.
    """
    try:
        model = parse(content)
    except UserError as error:
        raise UserError(f"{path}: {error}, which is not supported: train the vocabulary without it.") from error
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UserError(f"{path} is not a SentencePiece model ({type(error).__name__}: {error}): give the .model file "
                        "that sentencepiece wrote, or a vocab.txt.") from error
    unknown = [number for number, piece in enumerate(model.pieces) if piece[2] == UNKNOWN]
    if len(unknown) != 1:
        raise UserError(f"{path} has {len(unknown)} pieces for unknown text, not one: train it again.")
    if model.model_type not in (UNIGRAM, BPE):
        raise UserError(f"{path} is a SentencePiece model of type {'word' if model.model_type == 3 else 'char'}: only "
                        "unigram and bpe are supported.")
    user_defined = [piece for piece, _, kind in model.pieces if kind == USER_DEFINED and piece not in MASKS]
    if user_defined and model.model_type == BPE:
        raise UserError(f"{path} has user_defined_symbols ({user_defined[0]!r}), which are not supported in a model of "
                        "type bpe: train it without them.")
    content = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added_token(number, piece) for number, (piece, _, kind) in enumerate(model.pieces)
                         if kind in (UNKNOWN, CONTROL) or piece in MASKS],
        "normalizer": {"type": "Sequence", "normalizers": normalizers(model)},
        "pre_tokenizer": {"type": "Metaspace", "replacement": SPACE,
                          "prepend_scheme": "always" if model.dummy_prefix and not model.extra_whitespace else "never",
                          "split": not model.extra_whitespace and not crosses_spaces(model)},
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            *([{"type": "ByteFallback"}] if model.byte_fallback else []),
            {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always" if model.dummy_prefix else "never",
             "split": True}]},
        "model": unigram(model, unknown[0]) if model.model_type == UNIGRAM else bpe(model, unknown[0])}
    ids = {**model.ids, "unk": unknown[0]}
    return content, {role: model.pieces[id_][0] for role, id_ in ids.items()}


def added_token(number: int, text: str) -> dict:
    """An entry of `added_tokens`: a special token."""
    return {"id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": True}


def normalizers(model: Model) -> List[dict]:
    steps = list(RULES.get(model.rule, [{"type": "NFKC"}] if "nfkc" in model.rule else []))
    if model.character_map:
        steps.append({"type": "Precompiled",
                      "precompiled_charsmap": base64.b64encode(model.character_map).decode("ascii")})
    if model.extra_whitespace:
        return [*steps, *([{"type": "Prepend", "prepend": " "}] if model.dummy_prefix else [])]
    return [*steps, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            {"type": "Strip", "strip_left": True, "strip_right": True}]


def crosses_spaces(model: Model) -> bool:
    """Whether a piece may contain several words (trained with split_by_whitespace=false)."""
    return any(SPACE in piece.lstrip(SPACE) for piece, _, kind in model.pieces if kind == NORMAL)


def name_of(piece: str, kind: int) -> str:
    """The piece's name in the vocabulary; one that is switched off gets a space, which no text has when it is split."""
    return f"{piece} " if kind == UNUSED else piece


def unigram(model: Model, unknown: int) -> dict:
    scores = [score for _, score, kind in model.pieces if kind == NORMAL] or [0.0]

    def score_of(piece, score, kind):
        if kind != USER_DEFINED:
            return score
        return max(min(scores), len(piece.encode()) * max(scores) - 0.1)  # SentencePiece always prefers such a piece

    return {"type": "Unigram", "unk_id": unknown, "byte_fallback": model.byte_fallback,
            "vocab": [[name_of(piece, kind), score_of(piece, score, kind)] for piece, score, kind in model.pieces]}


def bpe(model: Model, unknown: int) -> dict:
    """The merges are all pairs of pieces whose concatenation is a piece; SentencePiece merges by the latter's score."""
    usable = {piece: (-score, number) for number, (piece, score, kind) in enumerate(model.pieces) if kind == NORMAL}
    merges = []
    for piece in sorted(usable, key=usable.get):
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += [[left, right] for left, right in pairs if left in usable and right in usable]
    return {"type": "BPE", "dropout": None, "unk_token": model.pieces[unknown][0], "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": model.byte_fallback, "ignore_merges": False,
            "vocab": {name_of(piece, kind): number for number, (piece, _, kind) in enumerate(model.pieces)},
            "merges": merges}
