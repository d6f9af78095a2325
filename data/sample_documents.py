"""Documents about a province, from the sentences in world/: narratives, ledgers, registers and gazetteers.

A narrative (a life, a town, a river, a guild, a chronicle, a journey) has one or two sentences on most of the topics of
its kind. Registers and gazetteers are what questions are about: a register states the same few facts about several
things of one kind, a gazetteer some facts about things of different kinds. Some of those that training reads are
lessons: with questions before or after them, and the answers.
"""
from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from sample_templates import Draw, Writer, by_key, capitalized, compile_template, read_world
from sample_world import MONTHS, Province, trade_slots


class Document(NamedTuple):
    """`sentences`, one a line. `draws` belong to the marks in them; `passage` is what can be asked about."""

    sentences: List[str]
    draws: List[Draw]
    passage: Optional[Passage]


class Row(NamedTuple):
    """One entity of a passage: its name in sentences, its text, the facts stated and those left out."""

    kind: str  # of REGISTERS
    entity: str
    text: str
    stated: Dict[str, str]
    unstated: List[str]


class Passage(NamedTuple):
    """What questions can be asked about: a register (entities of one kind) or a gazetteer (of several)."""

    opening: str
    rows: List[Row]


# --- The sentences of world/ ---


class Fact(NamedTuple):
    """The ways to state a fact and to ask about it. `{v}` is its value and `{it}` the entity."""

    asides: Tuple[tuple, ...]  # templates
    claims: Tuple[tuple, ...]  # templates
    claim_texts: Tuple[str, ...]
    questions: Tuple[str, ...]


class Register(NamedTuple):
    name: str  # how a sentence or a question names the entity
    pronoun: str
    name_template: tuple
    openings: Tuple[tuple, ...]  # templates
    facts: Dict[str, Fact]


def _stories() -> Dict[str, Dict[str, List[tuple]]]:
    """Templates by kind and topic."""
    stories: Dict[str, Dict[str, List[tuple]]] = {}
    for heading, sentences in read_world("stories.txt").items():
        kind, topic = heading.split(": ")
        stories.setdefault(kind, {})[topic] = [compile_template(sentence) for sentence in sentences]
    return stories


def _registers(blocks: Dict[str, List[str]]) -> Dict[str, Register]:
    registers: Dict[str, Register] = {}
    for heading, items in blocks.items():
        kind, _, fact = heading.partition(": ")
        given = by_key(items)
        if fact:
            asides, claims = (tuple(compile_template(text.replace("{v}", "{" + fact + "}")) for text in given[key])
                              for key in ("aside", "claim"))
            registers[kind].facts[fact] = Fact(asides, claims, tuple(given["claim"]), tuple(given["question"]))
        else:
            (name,), (pronoun,) = given["name"], given["pronoun"]
            registers[kind] = Register(name, pronoun, compile_template(name),
                                       tuple(compile_template(text) for text in given["opening"]), {})
    return registers


STORIES = _stories()
_BLOCKS = read_world("registers.txt")
LESSONS = by_key(_BLOCKS.pop("lessons"))
REGISTERS = _registers(_BLOCKS)

# --- Documents ---


class DocumentWriter:
    """Writes the documents of a province; they are drawn from the province's random numbers.

    Args:
        long_registers: let a few registers name 14 to 16 people.
        gazetteers: number of gazetteers. If there are any, they are the passages instead of registers.
    """

    def __init__(self, province: Province, long_registers: bool = False, gazetteers: int = 0):
        self.province, self.long_registers, self.gazetteers = province, long_registers, gazetteers
        self.rng, self.random, self.pick = province.rng, province.random, province.pick

    def documents(self, marked=lambda: False):
        """Yields every `Document` of the province, in a shuffled order. `marked()` says whether to mark the next."""
        province = self.province
        jobs = [(self._life, person) for person in province.people if self.random() < 0.5]
        for town in province.towns:
            jobs += [(self._town, town), (self._guild, town), (self._chronicle, town), *[(self._ledger, town)] * 3,
                     *[(self._journey, town)] * 3]
        jobs += [(self._river, river) for river in province.rivers]
        jobs += [(self._register, kind) for kind in REGISTERS for _ in range(3)]
        jobs += [(self._gazetteer, sorted(REGISTERS))] * self.gazetteers
        self.rng.shuffle(jobs)
        for write, subject in jobs:
            yield write(subject, marked())

    def narrative(self, kind: str) -> Document:
        """A document of a kind of STORIES about a random subject."""
        subjects = {"life": self.province.people, "river": self.province.rivers}.get(kind, self.province.towns)
        return getattr(self, f"_{kind}")(self.pick(subjects), False)

    def _writer(self, slots: dict, marking: bool) -> Writer:
        return Writer(self.random, slots, self.province.pools, marking)

    # --- Narratives and ledgers ---

    def _dated(self, **slots) -> dict:
        province = self.province
        return dict(slots, province=province.name, land=province.land.name, crop=province.land.crop,
                    month=self.pick(MONTHS), month2=self.pick(MONTHS), year=province.era + self.rng.randrange(30, 120))

    def _narrative(self, topics: List[List[tuple]], slots: dict, marking: bool) -> Document:
        """One or two sentences of most topics; the first and the last topic keep their places."""
        writer = self._writer(slots, marking)
        middle = topics[1:-1]
        if self.random() < 0.4:
            self.rng.shuffle(middle)
        sentences = [writer.sentence(writer.pick(topics[0]))]
        for topic in middle:
            chance = self.random()
            if chance < 0.9:
                start = int(self.random() * len(topic))
                sentences += [writer.sentence(topic[(start + i) % len(topic)]) for i in range(1 if chance < 0.6 else 2)]
        sentences.append(writer.sentence(writer.pick(topics[-1])))
        return Document([sentence for sentence in sentences if sentence], writer.draws, None)

    def _life(self, person: dict, marking: bool) -> Document:
        towns = self.province.towns
        events = [town for town in towns if person["born"] + 15 <= town["disaster_year"] < person["died"]]
        event = self.pick(events) if events else {}
        left_out = {"marriage", "family"} if person["spouse"] is None else set()
        if not events:
            left_out.add("disaster")
        topics = [sentences for topic, sentences in STORIES["life"].items() if topic not in left_out]
        slots = {key: event.get(key) for key in ("disaster", "disaster_year", "disaster_town")}
        slots = self._dated(**{**slots, **person, "other_town": self.pick(towns)["town"]})
        return self._narrative(topics, slots, marking)

    def _town(self, town: dict, marking: bool) -> Document:
        return self._narrative([*STORIES["town"].values()], self._dated(**town), marking)

    def _river(self, river: dict, marking: bool) -> Document:
        province = self.province
        on_it = [town for town in province.towns if town["river"] == river["river"]] or province.towns
        slots = {**self.pick(on_it), **river, "other_river": province.other(province.rivers, river)["river"]}
        slots.update(trade_slots(slots["trade"]))
        return self._narrative([*STORIES["river"].values()], self._dated(**slots), marking)

    def _guild(self, town: dict, marking: bool) -> Document:
        people = self.province.people
        member = self.pick([person for person in people if person["trade"] == town["trade"]] or people)
        slots = {**town, **town["guild"], "member": member["name"], "member_year": member["born"] + 25,
                 "member_died": member["died"]}
        return self._narrative([*STORIES["guild"].values()], self._dated(**slots), marking)

    def _chronicle(self, town: dict, marking: bool) -> Document:
        years = {f"year{i}": self.province.era + self.rng.randrange(30, 120) for i in (1, 2, 3)}
        return self._narrative([*STORIES["chronicle"].values()], self._dated(**town, **years), marking)

    def _journey(self, town: dict, marking: bool) -> Document:
        slots = self._dated(**town)
        traveller, host = self.province.adult(slots["year"]), self.province.adult(slots["year"])
        slots = {**traveller, **slots, "traveller": traveller["name"], "person": host["name"]}
        return self._narrative([*STORIES["journey"].values()], slots, marking)

    def _ledger(self, town: dict, marking: bool) -> Document:
        slots = self._dated(**town)
        slots["person"] = self.province.adult(slots["year"])["name"]
        writer = self._writer(slots, marking)
        sentences = [writer.sentence(writer.pick(STORIES["ledger"]["opening"]))]
        for _ in range(6 + int(self.random() * 6)):
            slots["person"] = self.province.adult(slots["year"])["name"]
            sentences.append(writer.sentence(writer.pick(STORIES["ledger"]["entry"])))
        return Document(sentences, writer.draws, None)

    # --- Registers and gazetteers ---

    def _register(self, kind: str, marking: bool) -> Document:
        """Five to seven entities with the same three facts of each; now and then a fact is left out."""
        columns = self.rng.sample(sorted(REGISTERS[kind].facts), 3)
        count = self.pick((5, 6, 6, 6, 7, 7))
        if kind == "people" and self.long_registers and self.random() < 0.1:
            count = self.pick((14, 15, 16))
        writer = self._writer(dict(province=self.province.name), marking)
        opening = writer.sentence(writer.pick(REGISTERS[kind].openings))
        rows = [self._row(writer, kind, entity, columns) for entity in self._distinct(kind, columns, count)]
        return self._passage(writer, opening, rows, lessons=0.5, asked=not self.gazetteers)

    def _gazetteer(self, kinds: Sequence[str], marking: bool) -> Document:
        """Three to six entities, of as many kinds as there are, with up to three facts of each."""
        kinds = self.rng.sample(kinds, len(kinds))
        kinds = (kinds + [self.pick(kinds)])[:3 + int(self.random() * 4)]
        writer = self._writer(dict(province=self.province.name), marking)
        rows, named = [], set()
        for kind in kinds:
            columns = self.rng.sample(sorted(REGISTERS[kind].facts), 3)
            for entity in self._distinct(kind, columns, 2):
                row = self._row(writer, kind, entity, columns)
                if row.entity not in named:
                    named.add(row.entity)
                    rows.append(row._replace(unstated=[fact for fact in REGISTERS[kind].facts
                                                       if fact not in row.stated]))
                    break
        return self._passage(writer, "", rows, lessons=0.75, asked=True)

    def _distinct(self, kind: str, columns, count: int) -> List[dict]:
        """`count` entities in random order, preferably without a value twice in a column."""
        entities = self.province.towns if kind == "works" else getattr(self.province, kind)
        shuffled = [entity for entity in self.rng.sample(entities, len(entities))
                    if all(entity[column] is not None for column in columns)]
        seen, chosen, spare = set(), [], []
        for entity in shuffled:
            values = {(column, entity[column]) for column in columns}
            (spare if values & seen else chosen).append(entity)
            seen |= values
        return (chosen + spare)[:count]

    def _row(self, writer: Writer, kind: str, entity: dict, columns: List[str]) -> Row:
        """One entity in one or two sentences, separated by a newline."""
        stated = [column for column in self.rng.sample(columns, 3) if self.random() < 0.88] or columns[:1]
        writer.slots.update(entity)
        register = REGISTERS[kind]

        def aside(fact):
            return writer.pick(register.facts[fact].asides)

        def claim(fact):
            return writer.pick(register.facts[fact].claims)

        first, *rest = stated
        if rest and self.random() < 0.6:
            parts = (*register.name_template, ", ", *aside(first), ", ", *claim(rest.pop(0)))
            if rest and self.random() < 0.4:
                parts = (*parts, " and ", *claim(rest.pop(0)))
        elif len(rest) == 2 or (rest and self.random() < 0.5):
            parts = (*register.name_template, " ", *claim(first), " and ", *claim(rest.pop(0)))
        else:
            parts = (*register.name_template, " ", *claim(first))
        texts = [writer.sentence((*parts, "."))]
        if rest:
            texts.append(writer.sentence((register.pronoun.format(**entity) + " ", *claim(rest[0]), ".")))
        return Row(kind, register.name.format(**entity), "\n".join(texts),
                   {column: str(entity[column]) for column in stated},
                   [column for column in columns if column not in stated])

    def _passage(self, writer: Writer, opening: str, rows: List[Row], lessons: float, asked: bool) -> Document:
        """A document of rows; in training provinces the share `lessons` of them are lessons.

        asked: the others can be asked about.
        """
        sentences = [opening] * bool(opening) + [sentence for row in rows for sentence in row.text.split("\n")]
        rows = [row._replace(text=row.text.replace("\n", " ")) for row in rows]
        if not self.province.held_out and self.random() < lessons:
            return self._lesson(writer, sentences, rows)
        return Document(sentences, writer.draws, Passage(opening, rows) if asked else None)

    def _lesson(self, writer: Writer, sentences: List[str], rows: List[Row]) -> Document:
        """The sentences with a question before them, or some after them, and the answers."""
        def ask():
            row = writer.pick(rows)
            fact = writer.pick(list(row.stated))
            wordings = REGISTERS[row.kind].facts[fact]
            question = writer.pick(wordings.questions).format(it=row.entity)
            claim = writer.pick(wordings.claim_texts).format(v=row.stated[fact])
            answer = writer.pick(LESSONS["answer"]).format(v=row.stated[fact], it=row.entity, claim=claim)
            return [capitalized(question), capitalized(answer)]

        if self.random() < 0.5:
            question, answer = ask()
            return Document([question, *sentences, answer], writer.draws, None)
        introduction = writer.pick(LESSONS["introduction"])
        asked = [line for _ in range(2 + int(self.random() * 3)) for line in ask()]
        introduced = [capitalized(introduction)] if introduction else []
        return Document([*sentences, *introduced, *asked], writer.draws, None)
