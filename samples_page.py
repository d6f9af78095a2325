"""The part "What it learnt" of a run's page: the passages, calibration, errors and losses that samples.py recorded.

Everything is shown as of one evaluation; a slider chooses it (templates/samples.js). Without scripts the page shows the
last one. Word pieces are joined to text; colors are those of the discriminator's probability, and what is right or
wrong has a mark and words for screen readers as well.
"""
from __future__ import annotations

import os
import unicodedata
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import page
from page import Markup, Section, element, join
from run_folder import Run
from run_log import log_lines

FIRST = 4  # passages shown at once; the others unfold
OPENING, CLOSING = "([{«“‘（【「『《", ".,;:!?%)]}»”’…、。，！？；：）】」』》،؛؟"
LINKING = "-/'’"  # no space on either side
RADIUS = 11  # of the largest circle of the calibration
LEFT, TOP, SIZE = 40, 8, 240  # of the calibration's axes
DAMAGE = KeyError, TypeError, ValueError, IndexError, AttributeError  # of a file whose lines hold something else

# What a word piece is, by letter: (class, mark in the legend, meaning, words for screen readers).
STATES = {
    "f": ("found", "replaced, and found", "replaced, found"),
    "m": ("missed", "replaced, and missed", "replaced, missed"),
    "x": ("flagged", "original, but taken for replaced", "original, taken for replaced"),
    "k": ("kept", "masked, and the generator wrote the original", "masked, the original again"),
    "c": ("found", "predicted", "predicted"),
    "e": ("missed", "another word than the original", "not predicted"),
}

# --- Text ---


class Piece(NamedTuple):
    text: str
    space: bool  # whether a space stands before it


def as_text(pieces: Sequence[str], notation: str) -> List[Piece]:
    """Word pieces as parts of a text that reads well; `notation` is that of `ElectraTokenizer.notation`."""
    found: List[Piece] = []
    for number, piece in enumerate(pieces):
        before = found[-1].text if found else ""
        if notation == "##":
            joined = piece.startswith("##") and len(piece) > 2
            text = piece[2:] if joined else piece
            linked = before in LINKING and number > 1 and not found[-1].space
            digits = before in ".," and text[0].isdigit() and number > 1 and found[-2].text[-1:].isdigit()
            joined |= (text in CLOSING or text in LINKING or before in OPENING or linked or digits
                       or before[-1:] != "" and is_ideograph(before[-1]) and is_ideograph(text[0]))
        else:
            text = from_bytes(piece) if notation == "other" else piece
            joined = text[:1] not in ("▁", "Ġ", " ")
            text = text if joined else text[1:]
        found.append(Piece(text, bool(found) and not joined))
    return found


def is_ideograph(character: str) -> bool:
    """What BERT's tokenizer separates although no space stands between."""
    return "\u3400" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or character >= "\U00020000"


def byte_letters() -> Dict[str, int]:
    """The letter that byte-level vocabularies (GPT-2) write for each byte: itself where it is printable in Latin-1."""
    plain = [byte for byte in range(256) if 33 <= byte <= 126 or byte >= 161 and byte != 173]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{chr(byte): byte for byte in plain}, **{chr(256 + i): byte for i, byte in enumerate(others)}}


BYTES = byte_letters()


def from_bytes(piece: str) -> str:
    """A token of a byte-level vocabulary as text; others, and parts of a character, as they are."""
    try:
        return bytes(BYTES[letter] for letter in piece).decode()
    except (KeyError, UnicodeDecodeError):
        return piece


def direction(pieces: Sequence[Piece]) -> str:
    """`rtl` where most letters are of a script that is written from right to left."""
    kinds = [unicodedata.bidirectional(letter) for piece in pieces for letter in piece.text]
    return "rtl" if sum(kind in ("R", "AL") for kind in kinds) > kinds.count("L") else "ltr"


# --- A passage at an evaluation ---


def states(original: Sequence[str], filled: Sequence[str], positions: Sequence[int], percent: Optional[Sequence[int]]
           ) -> str:
    """A letter for every word piece: see STATES; `-` where nothing is to be said."""
    found = []
    masked = set(positions)
    for at, (before, now) in enumerate(zip(original, filled)):
        if percent is None:
            found.append("-" if at not in masked else "c" if before == now else "e")
        elif before != now:
            found.append("f" if percent[at] >= 50 else "m")
        else:
            found.append("x" if percent[at] >= 50 else "k" if at in masked else "-")
    return "".join(found)


def filled_in(passage: dict, fills: Sequence[str]) -> List[str]:
    pieces = list(passage["pieces"])
    for at, fill in zip(passage["positions"], fills):
        pieces[at] = fill
    return pieces


def says(state: str, before: str, percent: Optional[int]) -> str:
    """What a screen reader and the tooltip say of a word piece."""
    words = STATES[state][2]
    was = f"; originally {before}" if state in "fme" else ""
    return f"{words}{was}" + ("" if percent is None else f"; {percent}% replaced")


def span(piece: Piece, class_: str, hidden: str = "", **attributes: str) -> Markup:
    extra = [element("span", f" ({hidden}) ", class_="hidden")] if hidden else []
    return join([" " if piece.space else "", element("span", piece.text, *extra, class_=f"piece {class_}".strip(),
                                                     **attributes)])


def passage_article(number: int, passage: dict, notation: str, row: dict) -> Markup:
    """The passage as it was, masked, and as the discriminator sees it."""
    original = as_text(passage["pieces"], notation)
    way, hidden, positions = direction(original), set(passage["hidden"]), set(passage["positions"])
    masked = [span(piece._replace(text="____"), "hole", "masked") if at in hidden else
              span(piece, "kept", "to be predicted, but shown") if at in positions else span(piece, "")
              for at, piece in enumerate(original)]
    shown = list(original)
    for at, text, space in row["changed"]:
        shown[at] = Piece(text, bool(space))
    seen = []
    for at, (piece, letter) in enumerate(zip(shown, row["states"])):
        percent = row["percent"][at] if row["percent"] else None
        style = {"style": f"--p: {percent}%"} if percent is not None else {}
        state = STATES[letter][0] if letter in STATES else ""
        words = says(letter, original[at].text, percent) if letter in STATES else ""
        seen.append(span(piece, state, words, **style))
    label = "Filled in by the generator" + (", as the discriminator judges it" if row["percent"] else "")
    lines = (("Original", "original", join([span(piece, "") for piece in original])),
             ("Masked", "masked", join(masked)), (label, "seen", join(seen)))
    return element("article", element("h4", f"Passage {number}"), *(
        join([element("p", name, class_="facts"), element("p", text, class_=f"text {class_}", dir=way)])
        for name, class_, text in lines), class_="passage")


# --- Tables ---


def percents(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "–"


def class_names(frequency: Sequence[dict]) -> List[str]:
    """Such as `12: the · of · and`."""
    return [f"{row['pieces']:,}: {' · '.join(row['examples'])}" for row in frequency]


def table_rows(names: Sequence[str], evaluation: dict) -> List[List[List[str]]]:
    """The rows of the tables of an evaluation: by frequency, highest loss, lowest loss, calibration."""
    if "calibration" in evaluation:
        frequency = [[name, percents(row["flagged"], row["original"]), percents(row["found"], row["replaced"]),
                      f"{row['replaced']:,}", f"{row['auc']:.3f}"]
                     for name, row in zip(names, evaluation["frequency"])]
        listed = [[[name, f"{count:,}", percents(share, 1), percents(mean, 1), f"{loss:.3f}"]
                   for name, count, loss, share, mean in evaluation[key]] for key in ("worst", "best")]
        bins = [[percents(mean, 1), percents(share, 1), f"{count:,}"] for count, mean, share in
                evaluation["calibration"]]
        return [frequency, *listed, bins]
    frequency = [[name, f"{row['masked']:,}", percents(row["correct"], row["masked"]), f"{row['loss']:.3f}"]
                 for name, row in zip(names, evaluation["frequency"])]
    listed = [[[name, f"{count:,}", percents(share, 1), f"{loss:.3f}"] for name, count, loss, share in evaluation[key]]
              for key in ("worst", "best")]
    return [frequency, *listed]


def tables(rows: Sequence[Sequence[Sequence[str]]], of: str) -> Markup:
    """Every table has the same rows at all evaluations, but other values: the script writes them.

    Args:
        of: what captions end with, unique on the page.
    """
    with_discriminator = len(rows) == 4
    if with_discriminator:
        by_class = ("word pieces of the class", "originals taken for replaced", "replaced found", "replaced", "AUC")
        listed = ("word piece", "seen", "replaced", "mean probability", "loss")
    else:
        by_class = ("word pieces of the class", "masked", "predicted", "loss")
        listed = ("word piece", "masked", "predicted", "loss")
    intro = page.paragraph(
        "Classes of word pieces from the most to the least frequent, each about a fifth of the held-out text. The "
        "lists below are of word pieces that occur often enough; losses are means in nats.")
    return join([element("h3", "By frequency"), intro, page.table(f"Errors by frequency{of}", by_class, rows[0]),
                 page.columns(page.table(f"Highest loss{of}", listed, rows[1]),
                              page.table(f"Lowest loss{of}", listed, rows[2]))])


# --- Calibration ---


def circles(evaluation: dict) -> List[Tuple[float, float, float]]:
    """Center and radius of a circle per bin; its area is that of the logarithm of its tokens."""
    bins = evaluation["calibration"]
    most = max(count for count, _, _ in bins)
    return [(round(LEFT + SIZE * mean, 1), round(TOP + SIZE * (1 - share), 1),
             round(2 + (RADIUS - 2) * (count / most) ** 0.25, 1)) for count, mean, share in bins]


def calibration(evaluation: dict, rows: Sequence[Sequence[str]], of: str) -> Markup:
    """Share of replaced tokens by predicted probability: a figure and the table of its values. `of`: see `tables`."""
    right, bottom = LEFT + SIZE, TOP + SIZE
    ticks = []
    for tenth in (0, 2, 4, 6, 8, 10):
        x, y = LEFT + SIZE * tenth / 10, bottom - SIZE * tenth / 10
        ticks += [element("path", d=f"M{x} {TOP}V{bottom}M{LEFT} {y}H{right}", class_="grid"),
                  element("text", f"{10 * tenth}", x=f"{x}", y=f"{bottom + 16}", text_anchor="middle"),
                  element("text", f"{10 * tenth}", x=f"{LEFT - 6}", y=f"{y + 4}", text_anchor="end")]
    drawn = [element("circle", cx=f"{x}", cy=f"{y}", r=f"{r}") for x, y, r in circles(evaluation)]
    figure = element(
        "svg", *ticks, element("path", d=f"M{LEFT} {bottom}L{right} {TOP}", class_="ideal"),
        element("g", *drawn, class_="bins"),
        element("text", "mean probability, %", x=f"{LEFT + SIZE / 2}", y=f"{bottom + 34}", text_anchor="middle"),
        element("text", "replaced, %", x="12", y=f"{TOP + SIZE / 2}", text_anchor="middle",
                transform=f"rotate(-90 12 {TOP + SIZE / 2})"),
        viewBox=f"0 0 {right + 16} {bottom + 40}", role="img",
        aria_label="Share of replaced tokens by the discriminator's probability; the table has the values.")
    return join([element("h3", "Calibration"), page.columns(
        element("figure", figure, element(
            "figcaption", "Tokens by their probability of being replaced, and how many of them were. On the dashed "
            "line the probabilities are right; larger circles are more tokens."), class_="calibration"),
        page.table(f"By probability{of}", ("mean probability", "replaced", "tokens"), rows))])


# --- The section ---


def label(evaluation: dict) -> str:
    """Where the slider stands, such as `update 1,200: AUC 0.713, gain +4.1%, recall 2.0%`."""
    metrics, said = evaluation["metrics"], []
    if "discriminator_auc" in metrics:
        said += [f"AUC {metrics['discriminator_auc']:.3f}", f"gain {100 * metrics['discriminator_gain']:+.1f}%",
                 f"recall {100 * metrics['discriminator_recall']:.1f}%"]
    if "generator_accuracy" in metrics:
        said.append(f"generator right {100 * metrics['generator_accuracy']:.1f}%")
    return f"update {evaluation['step']:,}: {', '.join(said)}"


def for_script(constant: dict, evaluation: dict) -> dict:
    """What changes from one evaluation to the other."""
    rows = []
    for number, (passage, fills) in enumerate(zip(constant["passages"], evaluation["fills"])):
        percent = evaluation["percent"][number] if "percent" in evaluation else None
        filled, before = filled_in(passage, fills), as_text(passage["pieces"], constant["notation"])
        now = as_text(filled, constant["notation"])
        rows.append({"percent": percent, "states": states(passage["pieces"], filled, passage["positions"], percent),
                     "changed": [[at, piece.text, int(piece.space)] for at, (piece, old) in enumerate(zip(now, before))
                                 if piece != old]})
    return {"label": label(evaluation), "passages": rows,
            "tables": table_rows(class_names(constant["frequency"]), evaluation),
            "circles": circles(evaluation) if "calibration" in evaluation else []}


def legend(has_discriminator: bool) -> Markup:
    letters = "fmxk" if has_discriminator else "ce"
    marks = [join([element("span", "word", class_=f"piece {STATES[letter][0]}"), f" {STATES[letter][1]}"])
             for letter in letters]
    if has_discriminator:
        scale = [element("span", f"{percent}%", class_="piece shade", style=f"--p: {percent}%")
                 for percent in (0, 25, 50, 75, 100)]
        marks.append(join(["probability of “replaced” ", *scale]))
    kept = element("span", "word", class_="piece kept")
    marks.append(join([kept, " in the masked line: to be predicted, but shown"]))
    return element("ul", *(element("li", mark) for mark in marks), class_="marks")


def phase_block(number: int, constant: dict, evaluations: Sequence[dict]) -> Markup:
    """The slider and what it changes, for a phase."""
    steps, of = [for_script(constant, evaluation) for evaluation in evaluations], f", phase {number}"
    last, has_discriminator = steps[-1], "calibration" in evaluations[-1]
    articles = [passage_article(i, passage, constant["notation"], row)
                for i, (passage, row) in enumerate(zip(constant["passages"], last["passages"]), 1)]
    more = [element("details", element("summary", f"{len(articles) - FIRST} more passages"), *articles[FIRST:],
                    id=f"passages-{number}")] if len(articles) > FIRST else []
    slider = Markup(f'<input type="range" id="evaluation-{number}" min="0" max="{len(steps) - 1}" step="1" '
                    f'value="{len(steps) - 1}" aria-valuetext="{page.escape(last["label"])}">')
    content = {"steps": steps, "words": {letter: [entry[0], entry[2]] for letter, entry in STATES.items()}}
    return element(
        "div", element("h3", f"Passages, phase {number}"),
        element("div", element("button", "Play", type="button"),
                element("label", "Evaluation", for_=f"evaluation-{number}"), slider,
                element("output", last["label"], for_=f"evaluation-{number}"), class_="chosen"),
        legend(has_discriminator), *articles[:FIRST], *more,
        *([calibration(evaluations[-1], last["tables"][3], of)] if has_discriminator else []),
        tables(last["tables"], of),
        page.data_for_script(content, f"samples-{number}"), class_="learnt")


def read(path: str) -> Tuple[dict, List[dict]]:
    """The first line of a file of samples.py, and its evaluations; ({}, []) where there is none."""
    first, *evaluations = [entry for _, entry in log_lines(path)] or [{}]
    return (first, evaluations) if first.get("kind") == "passages" and evaluations else ({}, [])


def section(run: Run) -> Optional[Section]:
    """What a run learnt; None where nothing is recorded: without held-out data, or in a run of an earlier release."""
    blocks = []
    for number in (1, 2):
        path = os.path.join(run.logs, f"samples_phase{number}.jsonl")
        try:
            constant, evaluations = read(path)
            if evaluations:
                blocks.append(phase_block(number, constant, evaluations))
        except (OSError, *DAMAGE):
            blocks.append(page.paragraph(f"{path} cannot be read: it is damaged."))
    if not blocks:
        return None
    intro = page.paragraph(
        "Held-out passages, the same at every evaluation, with the same masked words. Move the slider, also with the "
        "arrow keys, from the first evaluation to the last to see what the network learns. The gain is 1 - loss / "
        "entropy of the share of replaced tokens: 0 for the best constant probability and 100% for a perfect "
        "discriminator. It leaves 0 before the recall does.")
    return Section("What it learnt", [intro, *blocks], page.template("samples.js"), page.template("samples.css"))


def last_evaluation(run: Run) -> Optional[Tuple[int, dict, dict]]:
    """The last phase with an evaluation, what is constant in it, and the evaluation; None where nothing is recorded."""
    for number in (2, 1):
        try:
            constant, evaluations = read(os.path.join(run.logs, f"samples_phase{number}.jsonl"))
        except OSError:
            continue
        if evaluations:
            return number, constant, evaluations[-1]
    return None


def side_by_side(runs: Sequence[Run], names: Sequence[str]) -> Optional[Section]:
    """What several runs learnt: the first passages as of the last evaluation of each; None where nothing is
    recorded."""
    found, with_discriminator = [], False
    for run, name in zip(runs, names):
        last = last_evaluation(run)
        try:
            if last:
                number, constant, evaluation = last
                row = for_script(constant, evaluation)
                articles = [passage_article(i, passage, constant["notation"], shown) for i, (passage, shown) in
                            enumerate(zip(constant["passages"][:FIRST], row["passages"]), 1)]
                found.append(element("div", element("h3", name), page.paragraph(f"Phase {number}, {row['label']}"),
                                     *articles))
                with_discriminator |= "calibration" in evaluation
        except DAMAGE:
            found.append(element("div", element("h3", name), page.paragraph("What was recorded of it is damaged.")))
    if not found:
        return None
    intro = page.paragraph(
        "Held-out passages as of the last evaluation of each run. The page of a run shows all of its evaluations. Runs "
        "with the same held-out data and the same --seed have the same passages and masked words.")
    return Section("What they learnt", [element("div", intro, legend(with_discriminator), page.columns(*found),
                                                class_="learnt")], style=page.template("samples.css"))
