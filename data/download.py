#!/usr/bin/env python3
"""Downloads public text and questions: Wikipedia dumps, books of Project Gutenberg, SQuAD and datasets like it.

    python data/download.py --dataset=wikipedia --language=de --output_dir=downloads/dewiki
    python data/download.py --dataset=gutenberg --books=1342,84 --output_dir=downloads/books
    python data/download.py --dataset=squad --output_dir=downloads/squad
    python data/download.py --dataset=xquad --language=de --output_dir=downloads/xquad_de

Every file is verified (size, checksum where one is published), and a call that is repeated resumes where the last one
stopped and downloads nothing twice. docs/downloads.md has the datasets, their licenses and their mirrors. Written to
--output_dir, which holds one dataset:
    manifest.json             source, license, and of every file URL, size, SHA-256 and how it was verified
    *.xml.bz2                 Wikipedia: the dump, or its parts
    <number>.txt              Gutenberg: the books, in UTF-8, with Project Gutenberg's header and license
    train-v1.1.json ...       questions, in the format of SQuAD 1.1 (2.0) and under the names that
                              scripts/electra_squad.sh --squad_dir reads
    original/                 the files that these were converted from

A file without a published checksum is verified by its structure; its SHA-256 is recorded at the first download and
compared from then on. TensorFlow is not imported.
Exit status: 0, 2 (invalid option, or no server has the file), 75 (Ctrl-C or SIGTERM: run the same command again).
"""
from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import re
import shutil
import sys
import threading
import time
from typing import Dict, List, NamedTuple, Optional, Tuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

import tqdm  # noqa: E402
from downloads import Corrupt, Missing, extract, fetch, fetch_text, open_session, verify  # noqa: E402
from question_sets import QUESTION_SETS, Source, check_json, convert, read  # noqa: E402

import command_line  # noqa: E402  (found through the line above)
import configuration  # noqa: E402
import files  # noqa: E402
import process_pool  # noqa: E402
from configuration import UserError, option  # noqa: E402

# https://dumps.wikimedia.org/mirrors.html; the first one allows two connections at a time
WIKIPEDIA_MIRRORS = ("https://dumps.wikimedia.org", "https://mirror.accum.se/mirror/wikimedia.org/dumps",
                     "https://wikimedia.mirror.clarkson.edu", "https://wikipedia.c3sl.ufpr.br",
                     "https://wikimedia.bringyour.com")
WIKIPEDIA_LICENSE = "CC BY-SA 4.0 and GFDL"
WIKI_NAMES = {"be-tarask": "be_x_old", "gsw": "als", "lzh": "zh_classical", "nan": "zh_min_nan", "nb": "no",
              "yue": "zh_yue"}  # where the name of the dump is not the language code
DATES_TRIED = 6  # the newest dump may be unfinished
# https://www.gutenberg.org/policy/robot_access.html forbids programs on www.gutenberg.org and sends them to its mirrors
GUTENBERG_MIRRORS = ("https://gutenberg.pglaf.org", "https://aleph.gutenberg.org")
GUTENBERG_LICENSE = "public domain in the USA, except books that say otherwise"
PAUSE_SECONDS = 2.0  # between two books, as that page asks


@dataclasses.dataclass(frozen=True)
class DownloadConfig:
    dataset: Optional[str] = option(None, "what to download", choices=("wikipedia", "gutenberg", "bookcorpus",
                                                                       *QUESTION_SETS))
    output_dir: Optional[str] = option(None, "folder of this dataset, created if missing")
    language: Optional[str] = option(None, "language code, such as de; required for wikipedia and where a set of "
                                     "questions has several languages")
    date: str = option("latest", "wikipedia: date of the dump, such as 20240101, or latest")
    num_parts: Optional[int] = option(None, "wikipedia: download only this many parts of a dump that is split into "
                                      "parts, as the English one is", minimum=1)
    books: Optional[str] = option(None, "gutenberg: numbers of books, separated by commas, such as 1342,84")
    book_list: Optional[str] = option(None, "gutenberg: file with a number on each line; text after # is ignored")
    mirror: Optional[str] = option(None, "URL to use in place of the built-in servers, or several separated by commas: "
                                   "the folder that holds dewiki/ (wikipedia), 1/3/4/1342/ (gutenberg) or the files")
    offline: bool = option(False, "connect to no server: verify, and convert, the files that are there")

    def __post_init__(self):
        configuration.check_options(self)
        configuration.require_options(self, "dataset", "output_dir")
        if self.dataset == "bookcorpus":
            raise UserError("--dataset=bookcorpus can no longer be downloaded, because its source has withdrawn it: "
                            "prepare a folder of text files that you have with data/prepare_corpus.py --input_dir, or "
                            "download books with --dataset=gutenberg.")
        self._check_language()
        if not re.fullmatch("latest|[0-9]{8}", self.date):
            raise UserError(f"--date={self.date} must be latest, or a date such as 20240101.")
        gutenberg = self.dataset == "gutenberg"
        if gutenberg and not (self.books or self.book_list):
            raise UserError("--dataset=gutenberg needs --books=1342,84 or --book_list=FILE: choose books by their "
                            "number.")
        for name, belongs in (("books", gutenberg), ("book_list", gutenberg),
                              ("num_parts", self.dataset == "wikipedia")):
            if getattr(self, name) and not belongs:
                raise UserError(f"--{name} does not belong to --dataset={self.dataset}: omit it.")
        if self.date != "latest" and self.dataset != "wikipedia":
            raise UserError(f"--date does not belong to --dataset={self.dataset}: omit it.")
        for url in self.mirrors(()):
            if not re.match("https?://[^/]", url):
                raise UserError(f"--mirror={url} is not a URL: give one that begins with http:// or https://.")

    def _check_language(self):
        if self.dataset in QUESTION_SETS:
            languages = QUESTION_SETS[self.dataset].languages
            if self.language not in (languages if len(languages) > 1 else (None, *languages)):
                given = f"--language={self.language} is not in" if self.language else "--language is missing for"
                raise UserError(f"{given} --dataset={self.dataset}: choose one of {', '.join(languages)}.")
        elif self.dataset == "wikipedia" and not re.fullmatch("[a-z]{2,3}[a-z-]{0,20}", self.language or ""):
            given = f"--language={self.language} is not a language code" if self.language else "--language is missing"
            raise UserError(f"{given}: choose that of a Wikipedia, such as --language=de.")
        elif self.dataset == "gutenberg" and self.language:
            raise UserError("--language does not belong to --dataset=gutenberg: choose books by their number.")

    def mirrors(self, default: Tuple[str, ...]) -> List[str]:
        return [url.rstrip("/") for url in (self.mirror.split(",") if self.mirror else default)]


# --- The folder of a dataset ---


class Folder:
    """--output_dir and its manifest, which is written after every file."""

    def __init__(self, config: DownloadConfig, license: str, page: str):
        self.config, self.path = config, os.path.join(config.output_dir, "manifest.json")
        self.session = open_session()
        self.manifest = {"made_by": "data/download.py", "dataset": config.dataset, "language": config.language or "",
                         "license": license, "page": page, "files": {}}
        if os.path.lexists(self.path):
            self._resume()

    def _resume(self):
        found = configuration.read_record(self.path, "choose another --output_dir", dataset=str, language=str,
                                          files=dict)
        for key in ("dataset", "language"):
            if found[key] != self.manifest[key]:
                raise UserError(f"--output_dir={self.config.output_dir} holds --dataset={found['dataset']} "
                                f"--language={found['language']}: choose another folder.")
        self.manifest = {**found, **self.manifest, "files": found["files"]}

    def save(self):
        files.write_json(self.path, self.manifest)

    def target(self, name: str) -> str:
        return os.path.join(self.config.output_dir, name)

    def record(self, name: str, **entry):
        self.manifest["files"][name] = entry
        self.save()

    def obtain(self, name: str, urls: List[str], digest: str = "", size: Optional[int] = None, check=None) -> str:
        """Downloads a file, or verifies that which is there, and returns its path. Raises: UserError."""
        path, known = self.target(name), self.manifest["files"].get(name, {})
        published = bool(digest)
        digest = digest or (f"sha256:{known['sha256']}" if "sha256" in known else "")
        if os.path.lexists(path) and not known:
            try:
                verify(path, size, digest, check)
            except Corrupt as reason:
                raise UserError(f"{path} {reason}, and this command did not write it: move it, or choose another "
                                "--output_dir.") from reason
        folder = os.path.dirname(path)
        os.makedirs(folder, exist_ok=True)
        try:
            fetched = fetch(urls, path, size=size, digest=digest, check=check, offline=self.config.offline,
                            session=self.session)
        except UserError:
            with contextlib.suppress(OSError):  # it holds something
                os.rmdir(folder)
            raise
        by = f"{digest.partition(':')[0]}, published" if published else known.get(
            "verified_by", "structure; sha256 recorded at the first download")
        self.record(name, url=fetched.url or known.get("url", ""), bytes=fetched.size, sha256=fetched.sha256,
                    verified_by=by, time=known.get("time", "") if not fetched.url else _now())
        return path


def _now() -> str:
    return datetime.datetime.now().isoformat(" ", "seconds")


# --- Wikipedia ---


class Dump(NamedTuple):
    date: str
    digests: Dict[str, str]  # by name in the dump's folder


def download_wikipedia(config: DownloadConfig) -> Folder:
    """Downloads the dump, and resumes the date that an earlier call has chosen."""
    wiki = WIKI_NAMES.get(config.language, config.language.replace("-", "_")) + "wiki"
    folder = Folder(config, WIKIPEDIA_LICENSE, "https://dumps.wikimedia.org/legal.html")
    mirrors = config.mirrors(WIKIPEDIA_MIRRORS)
    begun, chosen = folder.manifest.get("date", ""), config.date
    if begun:
        if chosen not in ("latest", begun):
            raise UserError(f"--output_dir={config.output_dir} holds the dump of {begun}: choose another folder for "
                            f"--date={chosen}.")
        chosen = begun
    if begun and (config.offline or folder.manifest.get("num_parts") == config.num_parts):
        dump = Dump(begun, folder.manifest["digests"])
    elif config.offline:
        raise UserError(f"--offline: {config.output_dir} holds no dump that was begun: omit --offline.")
    else:
        dump = find_dump(mirrors, wiki, chosen, config.num_parts)
        folder.manifest.update(date=dump.date, digests=dump.digests, num_parts=config.num_parts)
        folder.save()
    for name, digest in dump.digests.items():
        folder.obtain(local_name(name), [f"{mirror}/{wiki}/{dump.date}/{name}" for mirror in mirrors], digest,
                      check=check_bz2)
    return folder


def local_name(name: str) -> str:
    """`..multistream1.xml-p1p41242.bz2` as `..multistream1-p1p41242.xml.bz2`: readers go by the end of the name."""
    return re.sub(r"\.xml(-p\d+p\d+)\.bz2$", r"\1.xml.bz2", name)


def find_dump(mirrors: List[str], wiki: str, date: str, num_parts: Optional[int]) -> Dump:
    """The files of a dump. `latest` is the newest one that is complete. Raises: UserError."""
    dates = [date]
    if date == "latest":
        try:
            index = fetch_text([f"{mirror}/{wiki}/" for mirror in mirrors])
        except Missing as error:
            raise UserError(f"there is no dump of {wiki} on {', '.join(mirrors)}: check --language.") from error
        dates = sorted(set(re.findall(r'href="(?:[^"]*/)?(\d{8})/?"', index)), reverse=True)[:DATES_TRIED]
    for candidate in dates:
        for kind in ("sha1", "md5"):
            name = f"{wiki}-{candidate}-{kind}sums.txt"
            try:
                sums = fetch_text([f"{mirror}/{wiki}/{candidate}/{name}" for mirror in mirrors])
            except Missing:
                continue
            digests = choose_files(sums, kind, wiki, candidate, num_parts)
            if digests:
                return Dump(candidate, digests)
    raise UserError(f"there is no complete dump of {wiki} of --date={date} on {', '.join(mirrors)}: choose another "
                    "--date or --mirror (servers keep the dumps of the last months only).")


def choose_files(sums: str, kind: str, wiki: str, date: str, num_parts: Optional[int]) -> Dict[str, str]:
    """Digests by name: the one file with all articles, or the parts where that is missing or `num_parts` says so."""
    digests = {name: f"{kind}:{digest}" for digest, name in re.findall(r"^([0-9a-f]{32,40}) [ *](\S+)$", sums, re.M)}
    stem = f"{wiki}-{date}-pages-articles-multistream"
    parts = []
    for name in digests:
        match = re.fullmatch(re.escape(stem) + r"(\d+)\.xml-p(\d+)p\d+\.bz2", name)
        if match:
            parts.append((int(match[1]), int(match[2]), name))
    if num_parts and f"{stem}.xml.bz2" in digests and not parts:
        raise UserError(f"--num_parts={num_parts}: the dump of {wiki} of {date} is a single file: omit the option.")
    if f"{stem}.xml.bz2" in digests and not num_parts:
        return {f"{stem}.xml.bz2": digests[f"{stem}.xml.bz2"]}
    return {name: digests[name] for _, _, name in sorted(parts)[:num_parts]}


def check_bz2(path: str):
    with open(path, "rb") as file:
        if not re.match(b"BZh[1-9]", file.read(4)):
            raise Corrupt("is not a bz2 file")


# --- Project Gutenberg ---


def download_gutenberg(config: DownloadConfig) -> Folder:
    folder = Folder(config, GUTENBERG_LICENSE, "https://www.gutenberg.org/policy/license.html")
    mirrors, missing, numbers = config.mirrors(GUTENBERG_MIRRORS), [], list_books(config)
    temporary = folder.target(".download")  # hidden from readers of the folder
    for number in tqdm.tqdm(numbers, desc="books", disable=None):
        name = f"{number}.txt"
        urls = [f"{mirror}/{place}" for mirror in mirrors for place in places_of(number)]
        if has_book(folder, name, urls[0]):
            continue
        os.makedirs(temporary, exist_ok=True)
        path = os.path.join(temporary, name)
        try:
            fetched = fetch(urls, path, check=check_text, session=folder.session)
        except Missing:
            missing.append(number)
            continue
        files.write_text(folder.target(name), decoded(path))
        size, sha256 = verify(folder.target(name))
        folder.record(name, url=fetched.url, bytes=size, sha256=sha256, time=_now(),
                      verified_by="structure; sha256 recorded at the first download")
        os.remove(path)
        if number != numbers[-1]:
            time.sleep(PAUSE_SECONDS)
    shutil.rmtree(temporary, ignore_errors=True)
    if missing:
        raise UserError(f"{len(missing)} of {len(numbers)} books were not found on {', '.join(mirrors)}: remove the "
                        f"numbers {', '.join(map(str, missing[:20]))} (all others are in {config.output_dir}).")
    return folder


def has_book(folder: Folder, name: str, url: str) -> bool:
    """Whether a book is there. Raises: UserError: it is not, or is damaged, and may not be downloaded."""
    path, known = folder.target(name), folder.manifest["files"].get(name, {})
    if not os.path.lexists(path):
        if folder.config.offline:
            raise UserError(f"{path} does not exist, and --offline forbids its download: download {url} to there, or "
                            "omit --offline.")
        return False
    try:
        size, sha256 = verify(path, digest=f"sha256:{known['sha256']}" if known else "", check=check_text)
    except Corrupt as reason:
        if folder.config.offline or not known:
            raise UserError(f"{path} {reason}: delete it, and run the command again without --offline.") from reason
        print(f"{path} {reason}: it is downloaded again", flush=True)
        return False
    if not known:
        folder.record(name, url="", bytes=size, sha256=sha256, verified_by="structure", time=_now())
    return True


def list_books(config: DownloadConfig) -> List[int]:
    """The numbers of --books and --book_list, without repetitions. Raises: UserError."""
    words = [("--books", word) for word in (config.books or "").split(",") if word.strip()]
    if config.book_list:
        try:
            with files.open_regular(config.book_list, encoding="utf-8") as file:
                words += [(config.book_list, line.partition("#")[0]) for line in file]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--book_list={config.book_list} cannot be read ({configuration.in_short(error)}): give a "
                            "text file with the number of a book on each line.") from error
    numbers: Dict[int, None] = {}
    for source, word in words:
        word = word.strip()
        if word and not re.fullmatch("[1-9][0-9]{0,6}", word):
            raise UserError(f"{source} has {word[:40]!r}, which is not the number of a book: give numbers such as "
                            "1342, which is in the address of the book's page.")
        if word:
            numbers[int(word)] = None
    if not numbers:
        raise UserError(f"{words[0][0] if words else config.book_list} has no number of a book.")
    return list(numbers)


def places_of(number: int) -> List[str]:
    """Where a mirror may have the text of a book: made from its master in UTF-8, then by hand in UTF-8, Latin-1, ASCII.
    """
    tree = "/".join([*(str(number)[:-1] or "0"), str(number)])
    return [f"cache/epub/{number}/pg{number}.txt", f"{tree}/{number}-0.txt", f"{tree}/{number}-8.txt",
            f"{tree}/{number}.txt"]


def check_text(path: str):
    with open(path, "rb") as file:
        begin = file.read(4096)
    if not begin.strip() or b"\0" in begin or re.match(rb"\s*<(!doctype|html|\?xml)", begin, re.IGNORECASE):
        raise Corrupt("is not plain text")


def decoded(path: str) -> str:
    with open(path, "rb") as file:
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")  # the old files: Latin-1, some with Windows' quotation marks


# --- Questions ---


def download_questions(config: DownloadConfig) -> Folder:
    entry = QUESTION_SETS[config.dataset]
    language = config.language or entry.languages[0]
    folder = Folder(config, entry.license, entry.page)
    for name, source in entry.files.items():
        if not entry.is_original and os.path.lexists(folder.target(name)) and name not in folder.manifest["files"]:
            raise UserError(f"{folder.target(name)} exists, and this command did not write it: choose another "
                            "--output_dir.")
        file = source.file(language)
        urls = [f"{mirror}/{file}" for mirror in config.mirrors(())] or [source.url.format(language=language)]
        digest = source.digest or (source.digests or {}).get(language, "")
        is_json = source.kind == "squad" and not source.member
        if entry.is_original:
            folder.obtain(name, urls, digest, source.size, check_json)
            continue
        original = folder.obtain(f"original/{file}", urls, digest, source.size,
                                 check_json if is_json else None)
        id_prefix = (entry.language_in_id or {}).get(language, "")
        convert_file(folder, name, original, source, language, id_prefix)
    return folder


def convert_file(folder: Folder, name: str, original: str, source: Source, language: str, id_prefix: str):
    """Writes a file in SQuAD's format from a downloaded one, which may be an archive."""
    path, content = original, folder.target(".content")
    shutil.rmtree(content, ignore_errors=True)  # of a killed process
    if source.member:
        extract(original, content)
        path = os.path.join(content, source.member.format(language=language))
        if not os.path.isfile(path):
            raise UserError(f"{original} does not contain {source.member.format(language=language)}: it may have "
                            "changed since this version of the command.")
    version = "1.1" if name.endswith("v1.1.json") else "2.0"
    converted = convert(read(path, source.kind), version, original, id_prefix)
    shutil.rmtree(content, ignore_errors=True)
    folder.record(name, bytes=0)  # after a kill, the next call knows that this file is its own
    files.write_text(folder.target(name), json.dumps(converted.content, ensure_ascii=False) + "\n")
    size, sha256 = verify(folder.target(name))
    folder.record(name, converted_from=os.path.relpath(original, folder.config.output_dir), bytes=size, sha256=sha256,
                  questions=converted.questions, moved_answers=converted.moved, dropped_questions=converted.dropped)
    notes = [f"{count:,} {what}" for count, what in (
        (converted.moved, "answers moved to where their text is"), (converted.dropped, "questions dropped")) if count]
    print(f"{folder.target(name)}: {converted.questions:,} questions{', ' if notes else ''}{', '.join(notes)}",
          flush=True)


# --- The command ---


def download(config: DownloadConfig) -> dict:
    """Returns the manifest. Raises: UserError, Interrupted, OSError."""
    run = {"wikipedia": download_wikipedia, "gutenberg": download_gutenberg}.get(config.dataset, download_questions)
    with configuration.sole_user(config.output_dir, "choose another --output_dir"):
        return run(config).manifest


def main(argv) -> int:
    config = command_line.parse(DownloadConfig, argv, __doc__)
    tqdm.tqdm.set_lock(threading.RLock())  # the default lock leaks a semaphore where the process is terminated
    process_pool.stop_on_signals("run the same command again to resume")
    manifest = download(config)
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    print(f"{config.output_dir}: {len(manifest['files']):,} files, {total / 1e6:,.1f} MB; license: "
          f"{manifest['license']} ({manifest['page']})", flush=True)
    return 0


if __name__ == "__main__":
    command_line.run_command(main)
