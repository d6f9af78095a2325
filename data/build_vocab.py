#!/usr/bin/env python3
"""Trains a vocabulary on a corpus, WordPiece or SentencePiece, in the format that build_pretraining_dataset.py reads.

    python data/build_vocab.py --corpus_dir=text --output_dir=data/mine
    python build_pretraining_dataset.py --corpus_dir=text --vocab_file=data/mine/vocab.txt --output_dir=...
    python data/build_vocab.py --type=sentencepiece --corpus_dir=text --output_dir=data/mine     # mine/spiece.model
    python data/build_vocab.py --report --vocab_file=data/mine/vocab.txt --corpus_dir=text       # trains nothing

The corpus is every regular file directly in --corpus_dir that is not hidden: UTF-8, one sentence per line. Writes to
--output_dir, and leaves the other files there alone:
    vocab.txt                 (wordpiece) one token per line: [PAD] [UNK] [CLS] [SEP] [MASK], the characters, the
                              characters inside words (##a), then merged tokens, the most frequent first
    spiece.model              (sentencepiece: unigram; bpe) the same special tokens, then pieces by their scores
    tokenizer.json            (sentencepiece, bpe) the same for Hugging Face transformers
    tokenizer_config.json     the casing of a vocab.txt; build_pretraining_dataset.py reads it
    vocab_report.json         how the vocabulary splits the corpus; the main figures are printed

# WordPiece

Text is normalised and split into words as for training. Then the most frequent pairs of tokens are merged until the
vocabulary has --vocab_size tokens or no pair occurs --min_frequency times. The alphabet is the most frequent
characters: up to 1/32 of --vocab_size, and more where --character_coverage of the text needs more (Chinese, Japanese).
A word with a rarer character is ignored here and becomes [UNK] in training. Each character of the alphabet also has its
form inside words, unless it is a word of its own (punctuation, CJK ideographs). So every word that consists of the
alphabet can be tokenized, up to BERT's limit of 100 characters.

The same texts give the same bytes with the same version of the `tokenizers` library, for any number of threads and any
order of the files. By itself the library is not deterministic: it numbers the characters inside words in the order of a
hash table with a random seed, and merges pairs of equal frequency in the order of these numbers. Therefore they are
passed to it with the special tokens, which it numbers first and in order.

The corpus is read twice. The library keeps its distinct words in memory, but not the text.

# SentencePiece

The `sentencepiece` library keeps its text in memory, so it gets at most --input_sentence_size lines: those with the
smallest hashes, in that order. With one thread, the same lines then give the same bytes, for any order of the files.
Text is normalised by NFKC, with --do_lower_case also case-folded, and split at white space. As in BERT, a piece never
joins punctuation with anything else, nor, with --tokenize_chinese_chars, an ideograph, so that answers to questions
start and end with a token. Characters beyond --character_coverage become [UNK], or with --byte_fallback their bytes.

# Report

It covers up to 8 MB of text, the beginning of each file: characters per token, the share of tokens that are [UNK], the
share of words (between white space, without punctuation around them) that are one token, and of the whole vocabulary
the longest tokens, and the rarest in that text. Each file has its own figures, for example one file per language.

TensorFlow is not imported.
Exit status: 0, 2 (invalid option or input), 1 (the training process was killed), 75 (Ctrl-C or SIGTERM: run the same
command again). Unless it is 0, nothing is written.
"""
from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import heapq
import io
import math
import multiprocessing
import os
import re
import sys
import tempfile
import threading
import time
import unicodedata
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import numpy as np
import tokenizers
import tqdm

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

import build_pretraining_dataset as builder  # noqa: E402  (found through the line above)
import command_line  # noqa: E402
import configuration  # noqa: E402
import files  # noqa: E402
import process_pool  # noqa: E402
from configuration import Interrupted, RunFailed, UserError, option  # noqa: E402
from tokenization import SPECIAL_TOKENS, ElectraTokenizer  # noqa: E402

BLOCK_BYTES = 1 << 16  # the library reads 256 blocks ahead
ALPHABET_SHARE = 32  # of the vocabulary, one in so many tokens may be a character however rare it is
WRITTEN = (*configuration.VOCABULARY_FILES, "tokenizer_config.json", "vocab_report.json")
MODEL_TYPES = {"sentencepiece": "unigram", "bpe": "bpe"}  # the option, for the library
BOUNDARY = "\ue000"  # a private-use character that pieces do not cross
IDEOGRAPHS = ("\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-"
              "\U0002b81f\U0002b820-\U0002ceaf\U0002f800-\U0002fa1f")  # BERT's
REPORT_BYTES = 8 << 20  # of the corpus
REPORT_FILES = 12  # printed; vocab_report.json has all


@dataclasses.dataclass(frozen=True)
class VocabConfig:
    corpus_dir: Optional[str] = option(None, "folder of UTF-8 text files, one sentence per line")
    output_dir: Optional[str] = option(None, "folder for the vocabulary, created if missing")
    type: str = option("wordpiece", "kind of vocabulary (sentencepiece is a unigram model, bpe a SentencePiece model "
                       "of the type BPE)", choices=("wordpiece", *MODEL_TYPES))
    vocab_size: int = option(30522, "maximum number of tokens", minimum=1, maximum=1_000_000)
    min_frequency: Optional[int] = option(
        None, "wordpiece: minimum frequency of a pair of tokens that is merged (default: 2)", minimum=1,
        maximum=2**31 - 1)
    character_coverage: float = option(
        0.9999, "minimum fraction of the characters in the text that the alphabet covers; words (sentencepiece, bpe: "
        "stretches) with rarer characters become [UNK]", minimum=0.9, maximum=1.0)
    do_lower_case: bool = option(True, "lower-case the text (an uncased vocabulary)")
    strip_accents: str = option("none", "wordpiece: strip accents: true, false, or none (as do_lower_case)",
                                choices=tuple(builder.STRIP_ACCENTS))
    tokenize_chinese_chars: bool = option(True, "each CJK ideograph is a token of its own")
    byte_fallback: bool = option(False, "sentencepiece, bpe: characters outside the alphabet become bytes, not [UNK]")
    input_sentence_size: int = option(
        1_000_000, "sentencepiece, bpe: lines to train on; a million lines of English text take about 2.5 GB of memory",
        minimum=1)
    report: bool = option(False, "train nothing: report how --vocab_file splits the corpus")
    vocab_file: Optional[str] = option(None, "with --report: a vocab.txt, a SentencePiece X.model or a tokenizer.json")
    encoding_errors: str = option("strict", "bytes that are not valid UTF-8: strict stops with an error, replace drops "
                                  "them", choices=("strict", "replace"))
    overwrite: bool = option(False, "replace a vocabulary in output_dir (never other files)")

    def __post_init__(self):
        configuration.check_options(self)
        configuration.require_options(self, "corpus_dir", "vocab_file" if self.report else "output_dir")
        if self.vocab_file and not self.report:
            raise UserError("--vocab_file is for --report: omit it to train a vocabulary.")
        for name, default in (("min_frequency", None), ("strip_accents", "none")) if self.type in MODEL_TYPES else (
                ("byte_fallback", False), ("input_sentence_size", VocabConfig.input_sentence_size)):
            if getattr(self, name) != default:
                raise UserError(f"--{name} does not apply to --type={self.type}: omit it.")
        if self.type in MODEL_TYPES and self.character_coverage < 0.98:
            raise UserError(f"--character_coverage={self.character_coverage:g} is too small for --type={self.type}: "
                            "give at least 0.98.")

    @property
    def least_pairs(self) -> int:
        return self.min_frequency or 2

    def tokenizer(self, tokens: List[str]) -> ElectraTokenizer:
        """A WordPiece tokenizer with these tokens and the casing of the options."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "vocab.txt")
            files.write_text(path, "".join(token + "\n" for token in tokens))
            return ElectraTokenizer(path, self.do_lower_case, builder.STRIP_ACCENTS[self.strip_accents],
                                    {"tokenize_chinese_chars": self.tokenize_chinese_chars})


# --- Reading ---

def read_blocks(path: str, encoding_errors: str) -> Iterator[Tuple[str, int]]:
    """The text of a file in blocks of complete lines, and the size of each in bytes.

    Raises: UserError: the file is not UTF-8, or a line is too long.
    """
    with open(path, "rb") as file:
        begin = 0
        while True:
            block = file.read(BLOCK_BYTES) + file.readline(builder.LINE_BOUND)
            if not block:
                return
            if len(block) == BLOCK_BYTES + builder.LINE_BOUND:
                raise UserError(f"{path} has a line of more than {builder.LINE_BOUND >> 20} MiB around byte {begin}: "
                                "put one sentence on each line.")
            try:
                yield block.decode("utf-8", encoding_errors), len(block)
            except UnicodeDecodeError as error:
                raise UserError(f"{path} is not UTF-8 (byte {begin + error.start}): convert it, or drop the invalid "
                                "bytes with --encoding_errors=replace.") from error
            begin += len(block)


def count_characters(sizes: Dict[str, int], encoding_errors: str) -> Tuple[Dict[str, int], int]:
    """How often each character occurs in the files, before normalisation, and the number of blocks.

    Args:
        sizes: bytes of each file by path.
    """
    tqdm.tqdm.set_lock(threading.RLock())  # the default lock leaks a semaphore where the process is terminated
    counts, blocks = np.zeros(sys.maxunicode + 1, np.int64), 0
    with tqdm.tqdm(total=sum(sizes.values()), unit="B", unit_scale=True, desc="characters", disable=None) as bar:
        for path in sizes:
            for text, size in read_blocks(path, encoding_errors):
                found = np.bincount(np.frombuffer(text.encode("utf-32-le"), np.uint32))
                counts[:len(found)] += found
                blocks += 1
                bar.update(size)
    return {chr(code): int(counts[code]) for code in np.flatnonzero(counts)}, blocks


# --- The alphabet ---

class Alphabet(NamedTuple):
    characters: List[str]  # after normalisation, in order of code point
    inside_words: List[str]  # ##c for those that do not form a word of their own
    rare: Set[str]  # characters of the text, before normalisation, that lead to others


def choose_alphabet(counts: Dict[str, int], least: int, coverage: float, backend: tokenizers.Tokenizer) -> Alphabet:
    """The `least` most frequent characters, and more until they make up `coverage` of the text.

    Characters with equal counts are taken in order of code point. BERT's normalisation maps every character on its own,
    so the counts before it are enough.
    """
    normalised = {raw: "".join(backend.normalizer.normalize_str(raw).split()) for raw in counts}
    frequencies = collections.Counter()
    for raw, count in counts.items():
        for character in normalised[raw]:
            frequencies[character] += count
    kept, needed = set(), math.ceil(coverage * sum(frequencies.values()))
    for character, count in sorted(frequencies.items(), key=lambda item: (-item[1], item[0])):
        if needed <= 0 and len(kept) >= least:
            break
        kept.add(character)
        needed -= count

    def joins_words(character):
        text = backend.normalizer.normalize_str(f"a{character}a")
        return len(backend.pre_tokenizer.pre_tokenize_str(text)) == 1

    characters = sorted(kept)
    return Alphabet(characters, [f"##{character}" for character in characters if joins_words(character)],
                    {raw for raw, text in normalised.items() if not kept.issuperset(text)})


def without_words_of(rare: Set[str], blocks: Iterator[str]) -> Iterator[str]:
    """Leaves out words (between white space) with a character of `rare`."""
    pattern = re.compile("[" + "".join(map(re.escape, sorted(rare))) + "]")
    for text in blocks:
        yield "\n".join(line if not pattern.search(line) else
                        " ".join(word for word in line.split() if not pattern.search(word))
                        for line in text.split("\n"))


# --- Training ---

class Learned(NamedTuple):
    tokens: List[str]  # in order of id
    num_characters: int
    num_rare: int  # characters that are left out
    num_bytes: int  # of the corpus
    model: bytes = b""  # of SentencePiece, in place of the tokens

    def tokenizer(self, config: VocabConfig) -> ElectraTokenizer:
        if not self.model:
            return config.tokenizer(self.tokens)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "spiece.model")
            with open(path, "wb") as file:
                file.write(self.model)
            return ElectraTokenizer(path)


def learn(config: VocabConfig) -> Learned:
    """Trains the vocabulary. Raises: UserError, OSError."""
    return learn_sentencepiece(config) if config.type in MODEL_TYPES else learn_wordpiece(config)


def learn_wordpiece(config: VocabConfig) -> Learned:
    sizes = builder.list_corpus(config.corpus_dir)
    backend = config.tokenizer(list(SPECIAL_TOKENS)).backend
    counts, num_blocks = count_characters(sizes, config.encoding_errors)
    alphabet = choose_alphabet(counts, config.vocab_size // ALPHABET_SHARE, config.character_coverage, backend)
    if not alphabet.characters:
        raise UserError(f"--corpus_dir={config.corpus_dir} contains no text: add text files.")
    first = [*SPECIAL_TOKENS, *alphabet.characters, *alphabet.inside_words]
    if len(first) > config.vocab_size:
        raise UserError(f"--vocab_size={config.vocab_size} is too small for an alphabet of "
                        f"{len(alphabet.characters):,} characters: give at least {len(first)}, or lower "
                        f"--character_coverage={config.character_coverage:g}.")
    blocks = (text for path in sizes for text, _ in read_blocks(path, config.encoding_errors))
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=config.vocab_size, min_frequency=config.least_pairs,
                                                   special_tokens=first, show_progress=sys.stderr.isatty())
    backend.train_from_iterator(without_words_of(alphabet.rare, blocks) if alphabet.rare else blocks, trainer,
                                length=num_blocks)
    vocabulary = backend.get_vocab()
    return Learned(sorted(vocabulary, key=vocabulary.get), len(alphabet.characters), len(alphabet.rare),
                   sum(sizes.values()))


def sample_lines(config: VocabConfig, sizes: Dict[str, int]) -> List[str]:
    """The --input_sentence_size lines of the corpus with the smallest hashes, in that order."""
    tqdm.tqdm.set_lock(threading.RLock())  # the default lock leaks a semaphore where the process is terminated
    kept: List[Tuple[int, str]] = []  # a heap, the largest hash first
    with tqdm.tqdm(total=sum(sizes.values()), unit="B", unit_scale=True, desc="reading", disable=None) as bar:
        for path in sizes:
            for text, size in read_blocks(path, config.encoding_errors):
                for line in filter(None, map(str.strip, text.split("\n"))):
                    digest = hashlib.blake2b(line.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                    entry = (-int.from_bytes(digest, "big"), line)
                    if len(kept) < config.input_sentence_size:
                        heapq.heappush(kept, entry)
                    elif entry > kept[0]:
                        heapq.heapreplace(kept, entry)
                bar.update(size)
    return [line for _, line in sorted(kept, reverse=True)]


def learn_sentencepiece(config: VocabConfig) -> Learned:
    import sentencepiece
    sizes = builder.list_corpus(config.corpus_dir)
    lines = [line for line in sample_lines(config, sizes)  # without lines of control characters, which all vanish
             if any(unicodedata.category(character)[0] not in "CZ" for character in line)]
    if not lines:
        raise UserError(f"--corpus_dir={config.corpus_dir} contains no text: add text files.")
    normalizer = tokenizers.normalizers.Sequence([  # the first steps of sentencepiece_model.RULES
        tokenizers.normalizers.NFKC(), *([tokenizers.normalizers.Lowercase()] if config.do_lower_case else [])])
    alone = "".join(re.escape(chr(code)) for code in range(sys.maxunicode + 1)
                    if unicodedata.category(chr(code))[0] == "P" or chr(code) in "$+<=>^`|~")
    alone += IDEOGRAPHS if config.tokenize_chinese_chars else ""
    split = re.compile(f"([{alone}])").split

    def bounded(line: str) -> str:
        parts = filter(None, split(normalizer.normalize_str(line.replace(BOUNDARY, " "))))
        return BOUNDARY.join(parts).replace(f" {BOUNDARY}", " ").replace(f"{BOUNDARY} ", " ")

    model = io.BytesIO()
    pad, unk, cls, sep, mask = SPECIAL_TOKENS
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=map(bounded, lines), model_writer=model, model_type=MODEL_TYPES[config.type],
            vocab_size=config.vocab_size, hard_vocab_limit=False, character_coverage=config.character_coverage,
            byte_fallback=config.byte_fallback, pretokenization_delimiter=BOUNDARY,
            normalization_rule_name="nmt_nfkc_cf" if config.do_lower_case else "nmt_nfkc", pad_id=0, unk_id=1, bos_id=2,
            eos_id=3, pad_piece=pad, unk_piece=unk, bos_piece=cls, eos_piece=sep, control_symbols=[mask],
            max_sentence_length=2 * builder.LINE_BOUND, num_threads=1, minloglevel=2)
    except RuntimeError as error:
        needed = re.search(r"required_chars\. \d+ vs (\d+)", str(error))
        if needed:
            raise UserError(f"--vocab_size={config.vocab_size} is too small for the alphabet: give at least "
                            f"{needed[1]}, or lower --character_coverage={config.character_coverage:g}.") from error
        raise UserError(f"sentencepiece could not train on --corpus_dir={config.corpus_dir} "
                        f"({configuration.in_short(error)}): add text.") from error
    learned = Learned([], 0, 0, sum(sizes.values()), model.getvalue())
    tokens = learned.tokenizer(config).tokens
    return learned._replace(tokens=tokens, num_characters=sum(len(token) == 1 for token in tokens))


# --- The report ---


def measure(tokenizer: ElectraTokenizer, texts: List[str], counts: np.ndarray) -> Dict[str, float]:
    """Figures of some text. counts: of each token, int64 [vocab_size]; the text's are added."""
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    ids, _ = tokenizer.encode_lines(lines)
    counts += np.bincount(ids, minlength=len(counts))
    words = collections.Counter(word for line in lines for word in line.split())
    cores = collections.Counter()
    for word, count in words.items():
        letters = [place for place, character in enumerate(word) if unicodedata.category(character)[0] != "P"]
        if letters:
            cores[word[letters[0]:letters[-1] + 1]] += count
    encoded = zip(cores.values(), tokenizer.encode_batch(list(cores)))
    whole = sum(count for count, found in encoded if len(found) == 1 and found[0] != tokenizer.unk_id)
    characters = sum(map(len, lines))
    return {"characters": characters, "tokens": len(ids), "words": sum(cores.values()),
            "characters_per_token": round(characters / max(1, len(ids)), 3),
            "tokens_per_word": round(len(ids) / max(1, sum(cores.values())), 3),
            "unknown_share": round(float((ids == tokenizer.unk_id).mean()) if len(ids) else 0.0, 6),
            "whole_word_share": round(whole / max(1, sum(cores.values())), 4)}


def make_report(config: VocabConfig, tokenizer: ElectraTokenizer) -> dict:
    """The content of vocab_report.json. Raises: UserError, OSError."""
    sizes = builder.list_corpus(config.corpus_dir)
    rest, by_file = REPORT_BYTES, []
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for number, (path, _) in enumerate(sorted(sizes.items(), key=lambda item: (item[1], item[0]))):
        share, texts, taken = rest // (len(sizes) - number), [], 0  # small files first: what they leave, others get
        for text, size in read_blocks(path, config.encoding_errors):
            if taken and taken + size > share:
                break
            texts.append(text)
            taken += size
        rest = max(0, rest - taken)
        by_file.append({"file": os.path.basename(path), "bytes": taken, **measure(tokenizer, texts, counts)})
    tokens, words = (sum(entry[key] for entry in by_file) for key in ("tokens", "words"))

    def mean(key, weight, total):
        return round(sum(entry[key] * entry[weight] for entry in by_file) / max(1, total), 6)

    ordinary = [id_ for id_ in range(tokenizer.vocab_size) if id_ not in tokenizer.special_ids]
    rarest = sorted((id_ for id_ in ordinary if counts[id_]), key=lambda id_: (counts[id_], tokenizer.tokens[id_]))
    longest = sorted(ordinary, key=lambda id_: (-len(tokenizer.tokens[id_].strip("#▁")), tokenizer.tokens[id_]))
    return {
        "vocabulary": config.type if not config.report else config.vocab_file, "vocab_size": tokenizer.vocab_size,
        "total": {"bytes": sum(entry["bytes"] for entry in by_file), "tokens": tokens, "words": words,
                  "characters_per_token": round(sum(entry["characters"] for entry in by_file) / max(1, tokens), 3),
                  "tokens_per_word": round(tokens / max(1, words), 3),
                  "unknown_share": mean("unknown_share", "tokens", tokens),
                  "whole_word_share": round(mean("whole_word_share", "words", words), 4)},
        "files": sorted(by_file, key=lambda entry: entry["file"]),
        "longest": [tokenizer.tokens[id_] for id_ in longest[:20]],
        "rarest": [[tokenizer.tokens[id_], int(counts[id_])] for id_ in rarest[:20]],
        "tokens_not_in_text": int(sum(counts[id_] == 0 for id_ in ordinary))}


def print_report(report: dict):
    rows = [(entry["file"], entry) for entry in report["files"][:REPORT_FILES]] if len(report["files"]) > 1 else []
    names = [name if len(name) <= 40 else f"{name[:37]}..." for name in ("file", *(name for name, _ in rows), "all")]
    width = max(map(len, names))
    print(f"{'':{width}}  characters/token  tokens/word    [UNK]  whole words")
    for name, entry in zip(names[1:], [*(entry for _, entry in rows), report["total"]]):
        print(f"{name:{width}}  {entry['characters_per_token']:16.2f}  {entry['tokens_per_word']:11.2f}  "
              f"{entry['unknown_share']:7.2%}  {entry['whole_word_share']:11.1%}")
    if len(report["files"]) > REPORT_FILES:
        print(f"and {len(report['files']) - REPORT_FILES} more files")
    print(f"longest: {' '.join(report['longest'][:8])}")
    print("rarest: " + ", ".join(f"{token} ({count})" for token, count in report["rarest"][:8])
          + f"; {report['tokens_not_in_text']:,} tokens do not occur in this text", flush=True)


# --- The process ---


def learn_and_report(config: VocabConfig) -> Tuple[Optional[Learned], dict]:
    """Trains the vocabulary, unless --report is given, and reports on it. Raises: UserError, OSError."""
    if config.report:
        tokenizer = ElectraTokenizer.from_folder(os.path.dirname(config.vocab_file), config.vocab_file)
        return None, make_report(config, tokenizer)
    learned = learn(config)
    return learned, make_report(config, learned.tokenizer(config))


def in_process(function: Callable, config: VocabConfig):
    """Calls `function` in a process of its own: a signal ends it at once, which it cannot while a library computes.

    Raises: RunFailed: the process was killed. UserError, OSError: as in the function.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context, process_pool.begin_worker) as pool:
        try:
            with files.blocked_signals(in_new_processes=True):  # it starts here
                future = pool.submit(function, config)
            return future.result()
        except concurrent.futures.BrokenExecutor as error:
            raise RunFailed("the training process was killed (if memory ran out, use a sample of the corpus); nothing "
                            "was written.") from error
        except Interrupted:
            for process in multiprocessing.active_children():
                process.terminate()
            raise


# --- The command ---

def check_output(config: VocabConfig):
    """Raises: UserError: the folder has a vocabulary that may not be replaced, or its files would be read as text."""
    present = [name for name in WRITTEN if os.path.lexists(os.path.join(config.output_dir, name))]
    if present and not config.overwrite:
        raise UserError(f"--output_dir={config.output_dir} already contains {present[0]}: choose another folder, or "
                        "replace the vocabulary with --overwrite.")
    if os.path.realpath(config.output_dir) == os.path.realpath(config.corpus_dir):
        raise UserError(f"--output_dir={config.output_dir} is the corpus folder, whose files are all read as text: "
                        "choose another folder.")


def build(config: VocabConfig) -> ElectraTokenizer:
    """Writes the vocabulary and returns its tokenizer. Raises: UserError, RunFailed, Interrupted."""
    start_time = time.monotonic()
    try:
        learned, report = in_process(learn_and_report, config)
        tokenizer = learned.tokenizer(config)
        # A new folder appears with all of its files: the recipes take one that exists as finished.
        exists = os.path.isdir(config.output_dir) and os.listdir(config.output_dir)
        target = contextlib.nullcontext(config.output_dir) if exists else files.new_folder(config.output_dir)
        # A signal is too late to stop the command now: it waits until all files are written.
        with contextlib.suppress(Interrupted), files.blocked_signals(), target as folder:
            tokenizer.save(folder)
            files.write_json(os.path.join(folder, "vocab_report.json"), report)
    except OSError as error:
        raise UserError(f"{error.filename or config.output_dir} could not be read or written ({error.strerror}): fix "
                        "that or choose another folder.") from error
    if tokenizer.vocab_size < config.vocab_size:
        reason = "sentencepiece found no more pieces" if learned.model else (
            f"no other pair of tokens occurs --min_frequency={config.least_pairs} times")
        print(f"the corpus is small: {tokenizer.vocab_size:,} tokens instead of --vocab_size={config.vocab_size}, "
              f"because {reason}", flush=True)
    rare = f" without {learned.num_rare:,} rare ones" if learned.num_rare else ""
    name = "spiece.model" if learned.model else "vocab.txt"
    print(f"{os.path.join(config.output_dir, name)}: {tokenizer.vocab_size:,} tokens, "
          f"{'lower-cased' if config.do_lower_case else 'cased'}, {learned.num_characters:,} characters{rare}; "
          f"{learned.num_bytes / 1e6:,.1f} MB in {time.monotonic() - start_time:,.1f} s", flush=True)
    print_report(report)
    return tokenizer


def report_only(config: VocabConfig):
    """Prints the report on --vocab_file, and with --output_dir writes it. Raises: UserError, RunFailed, Interrupted."""
    try:
        _, report = in_process(learn_and_report, config)
        if config.output_dir:
            os.makedirs(config.output_dir, exist_ok=True)
            files.write_json(os.path.join(config.output_dir, "vocab_report.json"), report)
    except OSError as error:
        raise UserError(f"{error.filename or config.corpus_dir} could not be read or written ({error.strerror}): fix "
                        "that or choose another folder.") from error
    print(f"{config.vocab_file}: {report['vocab_size']:,} tokens")
    print_report(report)


def main(argv) -> int:
    config = command_line.parse(VocabConfig, argv, __doc__)
    if config.report:
        process_pool.stop_on_signals("nothing was written, run the command again")
        report_only(config)
        return 0
    check_output(config)
    process_pool.stop_on_signals("nothing was written, run the command again")
    with configuration.sole_user(config.output_dir, "choose another --output_dir", beside=True):
        check_output(config)  # another process may have written it in the meantime
        build(config)
    return 0


if __name__ == "__main__":
    command_line.run_command(main)
