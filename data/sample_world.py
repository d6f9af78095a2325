"""An invented world, province by province, from the lists in world/.

A province (people, towns, rivers, hills, ships, works, guilds, events) is drawn as a whole and then described by many
documents (sample_documents.py), so facts agree between documents: the bridge of a town has one builder in the town's
article, in the builder's life and in the register of bridges. Names come from one syllable grammar per land, so that
unseen names keep appearing. A province uses every name word once, and provinces set apart for questions on unseen names
(`held_out`) use words that no other province can have.
"""
from __future__ import annotations

import zlib
from random import Random
from typing import List, NamedTuple, Optional, Sequence, Tuple

from sample_templates import by_key, read_world, words


class Land(NamedTuple):
    """A land's syllables, see world/lands.txt, and what is usual there."""

    name: str
    starts: Tuple[str, ...]
    middles: Tuple[str, ...]
    female: Tuple[str, ...]
    male: Tuple[str, ...]
    family: Tuple[str, ...]
    town: Tuple[str, ...]
    river: Tuple[str, ...]
    hill: Tuple[str, ...]
    trades: Tuple[str, ...]
    crop: str


class Trade(NamedTuple):
    name: str
    made: str   # past tense
    goods: str  # plural
    stuff: str
    tool: str
    shop: str


def _land(name: str, items: List[str]) -> Land:
    fields = {key: value for key, (value,) in by_key(items).items()}
    crop = fields.pop("crop")
    return Land(name, crop=crop, **{key: tuple(value.split()) for key, value in fields.items()})


_BLOCKS = read_world("lands.txt")
TRADES = {trade.name: trade for trade in (Trade(*line.split(", ")) for line in _BLOCKS.pop("trades"))}
LANDS = tuple(_land(heading.split(": ")[1], items) for heading, items in _BLOCKS.items())
MONTHS, WEEKDAYS = words("month"), words("weekday")
WORKS, MATERIALS, FISH, FREIGHT, DISASTERS = map(words, ("work", "material", "fish", "freight", "disaster"))

# Which values a slot could have had: years and numbers near the actual one, the province's names, or a list.
SLOT_POOLS = {
    **dict.fromkeys("name given family teacher spouse founder builder leader master member person traveller surveyor "
                    "captain".split(), "people"),
    **dict.fromkeys("birthplace home town other_town disaster_town mouth_town port".split(), "towns"),
    **dict.fromkeys("river other_river".split(), "rivers"), "hill": "hills", "ship": "ships",
    **dict.fromkeys("born died married office_year founded work_year disaster_year year year1 year2 year3 master_year "
                    "member_year member_died launched".split(), "years"),
    **dict.fromkeys("population cost toll length distance members crew".split(), "numbers"),
    **dict.fromkeys("trade other_trade".split(), tuple(TRADES)),
    "goods": tuple(trade.goods for trade in TRADES.values()), "work": WORKS, "material": MATERIALS, "fish": FISH,
    "cargo": FREIGHT, "disaster": DISASTERS, "month": MONTHS, "month2": MONTHS, "market_day": WEEKDAYS,
}


def trade_slots(name: str) -> dict:
    trade = TRADES[name]
    return dict(trade=name, made=trade.made, wares=trade.goods, stuff=trade.stuff, tool=trade.tool, shop=trade.shop)


class Province:
    """One province: its names and facts.

    Args:
        seed, index, held_out: the province is a function of these alone.
        held_out: draw names from words that provinces with False never use.
    """

    def __init__(self, seed: int, index: int, held_out: bool):
        self.held_out = held_out
        self.rng = Random(f"{seed}/{index}")
        self.random = self.rng.random
        self.land = self.pick(LANDS)
        self.used = set()
        self.name = self._name("town")
        self.era = self.rng.randrange(880, 1500)
        hills = tuple(self._name("hill") for _ in range(7))
        families = [self._name("family") for _ in range(26)]
        self.rivers = [self._river(hills) for _ in range(7)]
        self.towns = [self._town() for _ in range(9)]
        self.ancestors = [f"{self._name(sex)} {self.pick(families)}" for sex in ("female", "male") * 5]
        self.people = [self._person(families) for _ in range(40)]
        self._connect_people()
        for town in self.towns:
            self._history(town)
        for river in self.rivers:
            river.update(mouth_town=self.pick(self.towns)["town"], surveyor=self.pick(self.people)["name"])
        self.ships = [self._ship() for _ in range(9)]
        people = {word for name in [*self.ancestors, *(person["name"] for person in self.people)]
                  for word in name.split()}
        self.names = {"towns": tuple(town["town"] for town in self.towns), "hills": hills,
                      "people": tuple(sorted(people)), "rivers": tuple(river["river"] for river in self.rivers),
                      "ships": tuple(ship["ship"] for ship in self.ships)}
        self.pools = {slot: self.names.get(pool, pool) for slot, pool in SLOT_POOLS.items()}

    def pick(self, options: Sequence):
        return options[int(self.random() * len(options))]

    def other(self, options: Sequence, than):
        # By identity: a trade from the land's list is another object than that in TRADES, and so may be drawn again.
        while True:
            option = self.pick(options)
            if option is not than:
                return option

    def adult(self, year: int) -> dict:
        """A person who was grown and alive in `year`."""
        adults = [person for person in self.people if person["born"] + 18 <= year <= person["died"]]
        return self.pick(adults or self.people)

    def _name(self, kind: str) -> str:
        """A new name word. A tenth of all words, by checksum, is reserved for provinces that are held out."""
        starts, middles, endings = self.land.starts, self.land.middles, getattr(self.land, kind)
        while True:
            chance = self.random()
            count = 0 if chance < 0.5 else 1 if chance < 0.94 else 2
            start = self.pick(starts)  # the parts one by one: Python 3.8 would draw a generator's last
            middle = "".join(self.pick(middles) for _ in range(count))
            word = (start + middle + self.pick(endings)).capitalize()
            if word not in self.used and (zlib.crc32(word.encode()) % 10 == 0) == self.held_out:
                self.used.add(word)
                return word

    def _trade(self, usual: Optional[str] = None) -> str:
        """The usual trade of the place, one of the land's, or any."""
        chance = self.random()
        if usual and chance < 0.3:
            return usual
        return self.pick(self.land.trades) if chance < 0.6 else self.pick(list(TRADES))

    def _river(self, hills) -> dict:
        return dict(river=self._name("river"), hill=self.pick(hills), length=self.rng.randrange(20, 400),
                    fish=self.pick(FISH), trade=self._trade())

    def _town(self) -> dict:
        river = self.pick(self.rivers)
        trade = river["trade"] if self.random() < 0.6 else self._trade()
        return dict(town=self._name("town"), river=river["river"], hill=river["hill"], **trade_slots(trade),
                    goods=TRADES[trade].goods, population=self.rng.randrange(300, 9900, 10), crop=self.land.crop,
                    founded=self.era - self.rng.randrange(20, 180), market_day=self.pick(WEEKDAYS))

    def _person(self, families) -> dict:
        woman = self.random() < 0.5
        given, family = self._name("female" if woman else "male"), self.pick(families)
        birthplace, home = self.pick(self.towns), self.pick(self.towns)
        born, age = self.era + self.rng.randrange(70), self.rng.randrange(45, 90)
        return dict(name=f"{given} {family}", given=given, family=family, woman=woman, he="she" if woman else "he",
                    his="her" if woman else "his", him="her" if woman else "him", child="girl" if woman else "boy",
                    birthplace=birthplace["town"], home=home["town"], river=birthplace["river"], born=born,
                    died=born + age, age=age, office_year=born + self.rng.randrange(30, 44),
                    married=born + self.rng.randrange(18, 30), **trade_slots(self._trade(home["trade"])))

    def _connect_people(self):
        """Teachers, and couples; both partners give the same year."""
        women = [person for person in self.people if person["woman"]]
        men = [person for person in self.people if not person["woman"]]
        for person in self.people:
            older = [other for other in self.people if person["born"] - 50 < other["born"] < person["born"] - 10]
            teacher = self.pick(older) if older else {}
            person.update(teacher=teacher.get("name") or self.pick(self.ancestors),
                          teacher_home=teacher.get("home", person["birthplace"]), spouse=None)
        for woman, man in zip(women, men):
            woman["spouse"], man["spouse"] = man["name"], woman["name"]
            year = max(woman["born"], man["born"]) + self.rng.randrange(18, 26)
            if year < min(woman["died"], man["died"]):
                woman["married"] = man["married"] = year
            else:
                woman["spouse"] = man["spouse"] = None

    def _history(self, town: dict):
        """What happened to a town: founder, work, disaster, guild, neighbour."""
        near, some = self.other(self.towns, town), self.pick
        work_year, disaster_year = self.era + self.rng.randrange(30, 120), self.era + self.rng.randrange(40, 120)
        master_year = self.era + self.rng.randrange(60, 120)
        town.update(
            founder=some(self.ancestors), work=some(WORKS), work_year=work_year,
            builder=self.adult(work_year)["name"], material=some(MATERIALS), cost=self.rng.randrange(40, 990),
            disaster=some(DISASTERS), disaster_year=disaster_year, disaster_town=town["town"],
            leader=self.adult(disaster_year)["name"], toll=self.rng.randrange(20, 900), other_town=near["town"],
            distance=self.rng.randrange(5, 90), other_trade=self.other(list(TRADES), town["trade"]),
            guild=dict(founded=self.era - self.rng.randrange(20), founder=some(self.ancestors),
                       members=self.rng.randrange(12, 200), master=self.adult(master_year)["name"],
                       master_year=master_year))

    def _ship(self) -> dict:
        launched = self.era + self.rng.randrange(30, 120)
        return dict(ship=self._name("female"), captain=self.adult(launched)["name"], cargo=self.pick(FREIGHT),
                    port=self.pick(self.towns)["town"], launched=launched, crew=self.rng.randrange(12, 240))
