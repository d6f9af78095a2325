#!/usr/bin/env python3
"""Trains a WordPiece vocabulary on a corpus, in the format that build_pretraining_dataset.py reads.

    python data/build_vocab.py --corpus_dir=text --output_dir=data/mine
    python build_pretraining_dataset.py --corpus_dir=text --vocab_file=data/mine/vocab.txt --output_dir=...

The corpus is every regular file directly in --corpus_dir that is not hidden: UTF-8, one sentence per line. Writes to
--output_dir, and leaves the other files there alone:
    vocab.txt                 one token per line: [PAD] [UNK] [CLS] [SEP] [MASK], the characters, the characters inside
                              words (##a), then merged tokens, the most frequent first
    tokenizer_config.json     the casing; build_pretraining_dataset.py reads it

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

The corpus is read twice. The library keeps its distinct words in memory, but not the text. TensorFlow is not imported.
Exit status: 0, 2 (invalid option or input), 1 (the training process was killed), 130 (Ctrl-C) or 143 (SIGTERM). Unless
it is 0, nothing is written.
"""
from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import math
import multiprocessing
import os
import re
import sys
import tempfile
import threading
import time
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import numpy as np
import tokenizers
import tqdm

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import build_pretraining_dataset as builder  # noqa: E402  (found through the line above)
import command_line  # noqa: E402
import configuration  # noqa: E402
import files  # noqa: E402
from configuration import Interrupted, RunFailed, UserError, option  # noqa: E402
from tokenization import SPECIAL_TOKENS, ElectraTokenizer  # noqa: E402

BLOCK_BYTES = 1 << 16  # the library reads 256 blocks ahead
ALPHABET_SHARE = 32  # of the vocabulary, one in so many tokens may be a character however rare it is
WRITTEN = ("vocab.txt", "tokenizer_config.json")


@dataclasses.dataclass(frozen=True)
class VocabConfig:
    corpus_dir: Optional[str] = option(None, "folder of UTF-8 text files, one sentence per line")
    output_dir: Optional[str] = option(None, "folder for vocab.txt and tokenizer_config.json, created if missing")
    vocab_size: int = option(30522, "maximum number of tokens", minimum=1, maximum=1_000_000)
    min_frequency: int = option(2, "minimum frequency of a pair of tokens that is merged", minimum=1,
                                maximum=2**31 - 1)
    character_coverage: float = option(
        0.9999, "minimum fraction of the characters in the text that the alphabet covers; words with rarer characters "
        "become [UNK]", minimum=0.9, maximum=1.0)
    do_lower_case: bool = option(True, "lower-case the text (an uncased vocabulary)")
    strip_accents: str = option("none", "strip accents: true, false, or none (as do_lower_case)",
                                choices=tuple(builder.STRIP_ACCENTS))
    encoding_errors: str = option("strict", "bytes that are not valid UTF-8: strict stops with an error, replace drops "
                                  "them", choices=("strict", "replace"))
    overwrite: bool = option(False, "replace a vocabulary in output_dir (never other files)")

    def __post_init__(self):
        configuration.check_options(self)
        configuration.require_options(self, "corpus_dir", "output_dir")

    def tokenizer(self, tokens: List[str]) -> ElectraTokenizer:
        """A tokenizer with these tokens and the casing of the options."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "vocab.txt")
            files.write_text(path, "".join(token + "\n" for token in tokens))
            return ElectraTokenizer(path, self.do_lower_case, builder.STRIP_ACCENTS[self.strip_accents])


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


def learn(config: VocabConfig) -> Learned:
    """Trains the vocabulary. Raises: UserError, OSError."""
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
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=config.vocab_size, min_frequency=config.min_frequency,
                                                   special_tokens=first, show_progress=sys.stderr.isatty())
    backend.train_from_iterator(without_words_of(alphabet.rare, blocks) if alphabet.rare else blocks, trainer,
                                length=num_blocks)
    vocabulary = backend.get_vocab()
    return Learned(sorted(vocabulary, key=vocabulary.get), len(alphabet.characters), len(alphabet.rare),
                   sum(sizes.values()))


def learn_in_process(config: VocabConfig) -> Learned:
    """`learn` in a process of its own: a signal ends it at once, which it cannot while the library computes.

    Raises: RunFailed: the process was killed. UserError, OSError: as in `learn`.
    """
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), builder.begin_worker) as pool:
        try:
            with files.blocked_signals(in_new_processes=True):  # it starts here
                future = pool.submit(learn, config)
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
        learned = learn_in_process(config)
        tokenizer = config.tokenizer(learned.tokens)
        # A signal is too late to stop the command now: it waits until both files are written.
        with contextlib.suppress(Interrupted), files.blocked_signals():
            tokenizer.save(config.output_dir)
    except OSError as error:
        raise UserError(f"{error.filename or config.output_dir} could not be read or written ({error.strerror}): fix "
                        "that or choose another folder.") from error
    if tokenizer.vocab_size < config.vocab_size:
        print(f"the corpus is small: {tokenizer.vocab_size:,} tokens instead of --vocab_size={config.vocab_size}, "
              f"because no other pair of tokens occurs --min_frequency={config.min_frequency} times", flush=True)
    rare = f" without {learned.num_rare:,} rare ones" if learned.num_rare else ""
    print(f"{os.path.join(config.output_dir, 'vocab.txt')}: {tokenizer.vocab_size:,} tokens, "
          f"{'lower-cased' if config.do_lower_case else 'cased'}, {learned.num_characters:,} characters{rare}; "
          f"{learned.num_bytes / 1e6:,.1f} MB in {time.monotonic() - start_time:,.1f} s", flush=True)
    return tokenizer


def main(argv) -> int:
    config = command_line.parse(VocabConfig, argv, __doc__)
    check_output(config)
    builder.stop_on_signals()
    with configuration.sole_user(config.output_dir, "choose another --output_dir"):
        check_output(config)  # another process may have written it in the meantime
        build(config)
    return 0


if __name__ == "__main__":
    command_line.run_command(main)
