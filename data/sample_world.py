"""An invented world and the English it is described in: the grammars behind make_sample_data.py.

The world is made province by province. A province (people, towns, rivers, hills, ships, works, guilds, events) is drawn
first and then described by many documents, so facts agree between documents: the bridge of a town has one builder in
the town's article, in the builder's life and in the register of bridges. Names come from one syllable grammar per land,
so that unseen names keep appearing; every name word of a province is used once in it, and provinces set apart for
questions on unseen names (`Province.held_out`) use words that no other province can have.

Texts come from templates:
    [a|b|c]     one of the alternatives, equally likely, nested as deep as wanted; an empty one leaves the phrase out
    {slot}      a value of the document: a name, a year, a pronoun
    <list>      one of the alternatives of LISTS
    #12-40#     a whole number from that range; #100-900:50# in steps of 50
"a" becomes "an" before a vowel, and a sentence starts with a capital, by themselves.

What an oracle knows. With `Writer.marking`, every single word that was drawn is preceded by a private-use character
whose index names the draw: the words that could as well stand there. Words of alternatives with several words are not
marked: the rest of the alternative gives them away. make_sample_data.py turns this into an upper bound on guessing.
"""
from __future__ import annotations

import re
import zlib
from random import Random
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

MARK = 0xE000       # private-use characters U+E000.. mark drawn words
MAX_MARKS = 0x1900  # and end at U+F8FF; words beyond stay unmarked, which only raises the oracle

MONTHS = "January February March April May June July August September October November December".split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday".split()

# --- Lands and their sounds ---


class Land(NamedTuple):
    """A land's name, its syllables, and what it is like. A name is start + up to two middles + one ending."""

    name: str
    starts: str
    middles: str
    female: str
    male: str
    family: str
    town: str
    river: str
    hill: str
    trades: str  # favoured: half of its people follow one of them
    crop: str


LANDS = (
    Land("Averlund", "al bren cor dal ed fen gar hol kel lor mar nor os ral sel tor ul ver wil yor",
         "a de el in la mi or ra ta ve do be", "a ia is enne ette", "an ric mund ert as", "son ling man ward gard by",
         "ford ham stead wick mere bridge", "en le a ow", "fell tor moor", "weaver brewer miller cooper", "barley"),
    Land("Quessara", "aq bes cha dez esq fal gui jes lis maq nev or pes qua res sal tez vas xa zel",
         "a al e ir lo mar o ra si ta ue va", "ita ara essa ina ora", "ando ero uel io az", "ez ado ario ales enzo ura",
         "ona illa eda alba esta", "ana ento iz", "erra onte illo", "vintner potter herbalist glazier", "olives"),
    Land("Thornmark", "bjar drot egg fros grim hjal isk jor kval lod mjol od rag sig skar thr ulf vig yng brok",
         "a ar da ei ge ka mu na ru sa ti vo", "hild dis run frid veig", "ulf bjorn stein leif grim",
         "sen dottir rud haug lien", "vik heim fjord nes holm", "elv aa strom", "tind berg kamp",
         "fisher smith boatwright ropemaker", "rye"),
    Land("Ilmoray", "ae bri cael dil eith fia gwen hael ith lir mor niam oel rhi sul tal uin wyn ysa ffi",
         "a an be da ei io la ni ra ro the we", "wen iel ona eth ira", "oc wyn adar ion eth", "rhos ddan gwy llan nor",
         "loch garth dun port bryn", "wy on esk", "ben cairn law", "shepherd tanner saddler chandler", "oats"),
    Land("Zamrakhan", "az bor dzhu ek farh gul hash iz jam khal lut maz naj ozu qar rus shir tem ush zar",
         "a ab ad bi da gu ha im ka mi no ur", "eh iya una sha ime", "bek dar khan mir oud", "zade ov yan oglu pur",
         "abad kand shahr tepe gan", "darya su ab", "dagh kuh tau", "dyer jeweller saddler papermaker", "millet"),
    Land("Oshenwa", "aki bo chi do eke fu ha iba ji ka lu mo nko osa ru so ta uwe wa ze",
         "ba chi de fo ga hi ku ma ne ro su yo", "ma ki ya ne wo", "ro ta ji ku bo", "moto wara numa zawa kawe",
         "tora nashi bira kuma hara", "gawe mizu no", "yama dake mori", "papermaker potter carpenter cutler", "rice"),
    Land("Petrovar", "bog chir dob evg fed gor ilk krav lyub mil nik ost pav rad stan tver uzh vlad yar zim",
         "a an bo de e ka li mi no ro sla vi", "ana ka ina iya ora", "mir slav ko an il", "ovich enko sky ak in",
         "grad ovo pol itsa bor", "va itza na", "gora vrh planina", "hatter carpenter beekeeper locksmith", "wheat"),
    Land("Bellamont", "ar beau chan del es fon gon hau jol lan mont noi or pont quin roch sav tour vau yv",
         "a be de fi ge la le mi no re ti vi", "ette elle ine ie ise", "ard ois eux in ert", "eau ier ac mont aud",
         "ville court champ lieu bourg", "onne oise iere", "pic crest dent", "baker bookbinder mason hatter", "spelt"),
)


class Trade(NamedTuple):
    name: str
    made: str    # past tense
    goods: str   # plural
    stuff: str
    tool: str
    shop: str


TRADES = {t.name: t for t in (Trade(*line.split(",")) for line in """\
weaver,wove,blankets,wool,loom,weaving shed
tanner,cured,hides,bark,scraper,tan yard
baker,baked,loaves,flour,oven,bakehouse
miller,ground,meal,grain,millstone,mill
smith,forged,hinges,iron,hammer,forge
potter,threw,jugs,clay,wheel,kiln
cooper,hooped,barrels,oak,adze,cooperage
mason,dressed,lintels,stone,chisel,quarry
carpenter,planed,benches,pine,saw,timber yard
fisher,landed,eels,twine,net,quay
dyer,steeped,ribbons,madder,vat,dye house
glazier,leaded,windows,glass,blowpipe,glass house
chandler,dipped,candles,tallow,ladle,candle loft
brewer,brewed,ales,malt,mash tub,brewhouse
saddler,stitched,harnesses,leather,awl,saddlery
ropemaker,twisted,cables,hemp,winch,rope walk
herbalist,mixed,salves,camphor,mortar,still room
shepherd,sheared,fleeces,wool,crook,sheepfold
vintner,pressed,wines,fruit,press,cellar
bookbinder,sewed,ledgers,paper,needle,bindery
beekeeper,gathered,combs,honey,smoker,bee garden
hatter,shaped,hats,felt,block,hat shop
cutler,polished,knives,steel,whetstone,grinding house
jeweller,set,rings,silver,graver,jewel house
boatwright,caulked,hulls,pitch,mallet,slipway
papermaker,pulped,sheets,rag,mould,paper mill
locksmith,filed,keys,brass,vice,lock shop
""".splitlines())}

WORKS = ("bridge", "tower", "mill", "hall", "well", "gate", "chapel", "lighthouse", "granary", "market cross")
MATERIALS = ("granite", "limestone", "oak", "brick", "marble", "slate", "sandstone", "elm", "flint", "cedar")
FISH = ("trout", "perch", "salmon", "pike", "eels", "carp", "bream", "roach", "crayfish", "sturgeon")
CARGOES = ("salt", "wool", "copper", "timber", "wine", "grain", "linen", "pepper", "slate", "herring", "honey", "hides")
DISASTERS = ("flood", "fire", "famine", "plague", "siege", "frost", "riot", "earthquake")

# --- Words ---

LISTS = {
    "subject": "{he}|{he}|{he}|{given}|{family}",
    # one word
    "adverb": "slowly|gladly|quietly|boldly|rarely|often|always|seldom|calmly|secretly|openly|cheerfully",
    "degree": "very|rather|quite|too|fairly|remarkably|truly|unusually",
    "small": "two|three|four|five|six|seven|eight|nine|ten",
    "dozen": "ten|eleven|twelve|fourteen|fifteen|sixteen|eighteen|twenty|thirty|forty|sixty|ninety",
    "ordinal": "first|second|third|fourth|fifth|sixth|seventh|eighth",
    "weekday": "|".join(WEEKDAYS),
    "month": "|".join(MONTHS),
    "but": "and|but|so|yet|though|while",
    "near": "beside|behind|opposite|below|above|near|before|beyond",
    "our": "the|this|our|that",
    "stream": "river|stream|water|valley",
    "then": "and|but|then|yet",
    "that": "the|this|that|another|some",
    "those": "the|these|those|many|some|most",
    "office": "mayor|bailiff|treasurer|constable|judge|warden|provost|sheriff",
    # adjectives, each list before nouns of one kind
    "size": "large|small|huge|tiny|modest|narrow|sturdy|crooked",
    "rough": "raw|foreign|dry|cheap|spare|local|costly|damp",
    "worn": "rusty|blunt|trusty|heavy|broken|borrowed|favourite|well-worn",
    "odd": "long|strange|quiet|bad|merry|weary|good|lonely",
    "grim": "terrible|sudden|great|second|notorious|forgotten|last",
    "grown": "good|thin|early|wild|sweet|tall|late",
    "fine": "fine|plain|cheap|handsome|clumsy|sturdy|unsold|faulty|splendid",
    "skilled": "skilled|poor|elderly|hasty|cunning|careful|lazy|unlucky|stubborn",
    "dim": "dim|cold|noisy|cramped|smoky|spacious|rented|shabby",
    "state": "ruined|crowded|famous|unfinished|flooded|haunted|splendid|gloomy|ancient|whitewashed",
    # nouns with what may stand before them
    "neighbour": "[deaf|retired|jovial|greedy|pious|nervous|learned|gloomy] [priest|widow|innkeeper|steward|ferryman|"
                 "schoolmaster|gravedigger|bailiff|nurse|notary]",
    "kin": "mother|father|uncle|aunt|grandfather|grandmother|brother|sister|cousin|godfather",
    "building": "<state> [chapel|bathhouse|school|prison|granary|convent|armoury|hospital]|[north|south|east|west] "
                "gate|corn exchange|<state> [fish|horse|cattle] market|town hall|[inner|outer] wall|customs house|"
                "bell tower",
    "people_group": "[wandering|foreign|hungry|young|drunken|curious|noisy|weary|honest|quarrelsome] [farmers|"
                "merchants|pilgrims|soldiers|sailors|beggars|widows|students|monks|children]",
    "season": "a [wet|late|cold|sweet|green] spring|a [dry|hot|long|dusty|cloudless] summer|a [mild|golden|windy|"
              "foggy|stormy] autumn|a [hard|bitter|long|dark|snowy] winter",
    "when": "at [dawn|noon|dusk|midnight|daybreak]|on [market|feast|fast|wash|rainy] days|in the [small|early|late] "
            "hours|after [sunset|dark|supper|mass|work]|before [breakfast|sunrise|harvest|lent|prayers]|every "
            "<weekday>|on a [cold|clear|moonless|sultry|frosty] [night|morning|evening|afternoon]|until [nightfall|"
            "supper|dawn|vespers|dusk]|during [wet|dull|short|idle|anxious] [summers|winters|weeks|days]|[once|twice] "
            "a [week|month|year|day]",
    "weather": "[heavy|endless|warm] [rain|snow|showers|thunder]|thick [fog|smoke]|bitter [cold|frost]|[cold|sharp|"
               "salt|icy|northerly] [winds|gales|gusts|squalls]|fierce [heat|sun]|driving [sleet|hail|rain|snow|"
               "spray]|deep [snow|mud]|low [cloud|mist|fog|haze]",
    "food": "a [loaf|crust|basket|slice|heel] of [black|white|stale|fresh] [bread|rye]|a [cup|flask|barrel|goblet|"
            "jar] of [sour|red|warm|spiced] [wine|cider|mead|perry]|a [bowl|kettle|ladle|pot|basin] of [thin|hot|fish|"
            "onion] [broth|soup|stew|porridge]|a [slice|wheel|wedge|lump|rind] of [hard|soft|goat|mouldy] cheese|a "
            "[jug|mug|keg|tankard|pail] of [dark|weak|flat|strong] [ale|beer|stout|porter]|a [pinch|spoonful|sack|bag|"
            "crock] of [grey|sea|coarse] salt|a [handful|bucket|dish|bowl] of [dried|ripe|wild] [berries|cherries|"
            "plums|pears|figs]|a [pot|comb] of [thick|clear|heather] honey|a [plate|dish|string|tub|platter] of "
            "[smoked|fried|salted] [fish|sausages|eels|mushrooms]",
    "cargo": "[<dozen>|#11-98#] [barrels|casks|kegs|tuns|pipes] of [flat|good|cheap|spilt|strong|old] [ale|wine|"
             "herring|pitch|tar|cider]|[<dozen>|#11-98#] [sacks|bags|bushels|tons|pecks] of [damp|milled|tithe|seed|"
             "sifted|black] [grain|flour|salt|beans|peas|malt]|[<dozen>|#11-98#] [bolts|bales|yards|rolls|lengths] of "
             "[coarse|striped|dyed|plain|soft|faded] [cloth|linen|silk|felt|canvas|wool]|[<dozen>|#11-98#] [bundles|"
             "stacks|heaps|ropes] of [tied|dried|mouldy|sorted|cut] [hides|furs|reeds|rushes|sticks|flax]|[<dozen>|"
             "#11-98#] [crates|boxes|baskets|trays|hampers] of [cracked|packed|polished|wrapped|spotted] [candles|"
             "glass|apples|tiles|eggs|bottles]|[<dozen>|#11-98#] [jars|flasks|bottles|pitchers] of [sealed|scented|"
             "bitter|strained|old] [honey|oil|ink|vinegar|mustard|dye]|[<dozen>|#11-98#] [loads|carts|wagons|rafts] "
             "of [rough|split|wet|heavy|loose] [stone|timber|turf|gravel|sand|clay]|[<dozen>|#11-98#] [pounds|ounces|"
             "stones|lumps] of [pure|bright|ground|clean|hard] [wax|butter|copper|pepper|tin|cheese]|[<dozen>|"
             "#11-98#] head of [fat|stolen|branded|lean|young] [cattle|sheep|oxen|goats|swine|horses]",
    "path": "[over|across] <that> [icy|steep|old|windy|broken|narrow] [bridge|hill|moor|wall]|[along|down] <that> "
            "[muddy|winding|grassy|empty|stony|quiet] [river|bank|shore|ridge]|through <that> [silent|dripping|dark|"
            "trampled|old|upper] [wood|gate|marsh|town]|across the [sunny|frozen|busy|wide|dusty|green] [square|field|"
            "ford|bay]|[up|down] <that> [worn|slippery|spiral|wooden] [stair|ladder|scaffold]|under <that> [low|shady|"
            "mossy|crumbling] [arch|oak|roof|tree]|round <that> [crowded|sharp|noisy|far] [market|pond|corner|bend]",
    "place": "in <that> [fertile|lonely|misty|lower|wooded|upper|distant] [valley|wood|marsh|meadow|hollow]|on <that> "
             "[rocky|barren|windy|sandy|rainy|southern] [coast|plain|moor|heath|island]|by <that> [shallow|paved|"
             "frozen|forgotten|flooded|royal] [ford|sea|road|lake|forest]|under <that> [chalk|steep|black] [cliff|"
             "crag|slope|rock|ridge]|at <that> [busy|northern|gloomy|old|distant] [crossroads|harbour|border|ferry]",
    "feeling": "[proud|ashamed] of [work|sons|learning|riches|horses|handwriting]|[afraid|terrified] of [fire|water|"
               "dogs|debt|thunder|ghosts|spiders]|[fond|weary] of [music|cards|gossip|fishing|wine|dancing|sermons]|"
               "[famous|notorious] for [honesty|patience|courage|thrift|lies|kindness|cruelty]|[rich|poor] in [land|"
               "friends|years|cattle|enemies|books]|[good|hopeless] at [sums|chess|wrestling|singing|spelling|cooking|"
               "flattery]|[slow|quick] to [anger|pay|forgive|laugh|learn|quarrel]|deaf to [reason|praise|blame|music|"
               "advice|warnings]",
    "said": "[said|wrote|swore|claimed|insisted|believed|knew|feared|hoped|dreamed] that",
    "saying": "the [river|sea|road|winter|forest|mountain] [takes|keeps|forgets|forgives|hides|returns] what the "
              "[town|king|merchant|fool|miller|soldier] [gives|builds|sells|promises|loses|hides]|[bread|salt|silver|"
              "iron] is [dearer|better|older|softer] than [pride|honour|sleep|law]|no [wall|door|lock|oath] [holds|"
              "stops|outlives] a [thief|flood|rumour|debt]|a [fool|guest|clerk|fish] [stinks|talks|learns|eats] after "
              "<small> days|he who [sows|lends|borrows|lies] in [spring|haste|anger|youth|fear] [reaps|pays|weeps|"
              "starves|repents] in [autumn|sorrow|silence|winter|prison]|[two|three|many] [cooks|bells|kings|clocks] "
              "[never|seldom|rarely|hardly|always] [agree|wait|sleep|rhyme]",
    "animal": "[black|lame|stubborn|sulky] [mule|donkey]|[grey|blind|faithful|snarling] [dog|hound|puppy|wolf]|[white|"
              "tame|clever|talking] [goose|raven|parrot|swan]|[brown|skinny|spotted] [cow|goat|ox|pig]|[ginger|lazy|"
              "one-eyed] [cat|kitten|fox|ferret]",
    "thing": "[silver|dented|pewter|golden|stolen] [spoon|ring|cup|brooch|bell]|[leather|bulging|empty|sealed|velvet] "
             "[purse|bag|chest|trunk|basket]|[wooden|painted|carved|broken|gilded] [box|stool|cradle|flute|saint]|"
             "[rusty|long|iron|heavy|notched] [key|sword|chain|knife|spear]|[woollen|patched|green|muddy|striped] "
             "[cloak|coat|shawl|hood|scarf]",
    "aye": "[all|most|many|they|both] [agreed|voted|shouted|drank|laughed|prayed]|[nobody|everybody|someone] [spoke|"
           "agreed|objected|laughed|slept|wept]|[few|none|some|two|several] [cared|noticed|complained|remembered|"
           "listened|survived]",
}

# --- Narrative documents: a kind is a list of topics, a topic a list of sentences ---

LIFE = [
    ["{name} was born in {birthplace} [early|late] in {month} of the year {born}, the [eldest|second|youngest|only] "
     "child of a [poor|honest|stubborn|wealthy] <neighbour>.",
     "{given} {family} came into the world at {birthplace} in {born}, after <season>.",
     "In {born}, a year of <weather>, {name} was born in a [low|narrow|crooked|draughty] house [beside|behind|"
     "opposite] <that> <building> of {birthplace}.",
     "The {trade} {name} was born in {born} on the [left|right|north|south] bank of the {river}, not far from "
     "{birthplace}.",
     "{name}, a {trade} of {home} in {province}, was born at {birthplace} in the year {born}, [when|while] <weather> "
     "lay over the [valley|harbour|fields|roofs]."],
    ["as a {child} {he} <adverb> [carried|fetched|hauled|stole|sold] [water|firewood|turf|milk] for <that> "
     "<neighbour> <then> [learned|began|hoped|tried|longed] to read from an old [almanac|psalter|atlas|ledger].",
     "{his} <kin> [taught|showed|helped|urged|forbade] {him} to [mend nets|card wool|tally sacks|tend bees|read the "
     "stars|shoe horses] before {he} was <small> years old.",
     "<subject> grew up with <small> <odd> [brothers|sisters|cousins|uncles|orphans] in a <size> [cottage|loft|cellar|"
     "tower] <place>, <then> [often|always|seldom|never] went to bed without <food>.",
     "when {he} was <small>, {his} <kin> died in a [flood|fire|famine|plague], and a [kind|strict|distant|rich|"
     "childless] <kin> took {him} in.",
     "neither {his} [mother|aunt|sister] nor {his} [father|uncle|brother] could [read|swim|count|sing], but both "
     "[told|knew|loved|feared|collected] the [oldest|longest|strangest|saddest|shortest] [stories|songs|prayers|"
     "riddles|jokes] of {land}.",
     "<that> <neighbour> of {birthplace} <said> the {child} would [hang|drown|starve|prosper] before {he} was [grown|"
     "twenty|wise|married]."],
    ["at the age of [twelve|thirteen|fourteen|fifteen] {he} was bound to {teacher} of {teacher_home} for <small> "
     "<odd> years.",
     "<subject> learned the craft from {teacher} of {teacher_home}, whose [house|<dim> {shop}] [stood|lay|burned] "
     "<near> the <building>.",
     "{teacher} took {him} on as an apprentice in {teacher_home}, [gave|lent|sold|denied|offered] {him} a <worn> "
     "{tool}, and taught {him} how <fine> {wares} are made from <rough> {stuff}.",
     "in {teacher_home} {he} found work with {teacher}, who was as [strict|patient|clever|silent|famous|rich] as {he} "
     "was [lazy|eager|clumsy|proud|shy|poor]."],
    ["<subject> {made} <fine> {wares} from the [best|local|cheapest|finest] <rough> {stuff} and never [lent|sold|left|"
     "showed|promised] {his} <worn> {tool} to a [stranger|rival|neighbour|fool].",
     "{his} <fine> {wares} were [sold|praised|copied|wanted] [as far away as|even in] {other_town}, where a {trade} "
     "could [earn|ask|lose|get|charge] <small> crowns a [day|week|month|season|year].",
     "the <dim> {shop} smelled of <rough> {stuff} [and|, sweat and] [smoke|rain|onions|cats], and {his} <worn> {tool} "
     "was heard <when>.",
     "a [good|true|careful|hasty] {trade}, {he} used to say, [knows|trusts|wastes|loves|smells] {his} <rough> {stuff} "
     "before {he} <adverb> [touches|lifts|buys|cleans|sells] {his} <worn> {tool}.",
     "<when> {he} {made} <fine> {wares} for <those> <people_group> of {home}, who paid with <food> or with a <thing>.",
     "not only <those> <people_group> but also <those> <people_group> of {home} [bought|ordered|admired|wanted|"
     "collected] the <fine> {wares} that {he} {made} <when>."],
    ["in {married} {he} married {spouse}, [a|the only] daughter of <that> <office>, who <adverb> [brought|owned|kept|"
     "inherited|sold] <cargo>.",
     "<subject> was wed to {spouse} in {month} {married}, and <cargo> were [shared|counted|sold|given away] at the "
     "feast.",
     "{spouse}, whom {he} married in {married}, was <degree> [tall|kind|rich|merry|shy] and <feeling>.",
     "the [wedding|marriage] of {given} and {spouse} was [held|kept|blessed|feasted|celebrated] at {home} in "
     "{married} <but> <aye>."],
    ["they had <small> <odd> children, of whom [two|three] [became|married|buried] <skilled> {trade}s and one [sailed|"
     "rode|walked] to {other_town}.",
     "the couple had <small> <odd> [sons|daughters|children] and kept a <animal>, which <adverb> [slept|ate|died|hid|"
     "barked] <place>.",
     "their house stood <place>, [between|behind] <that> <building> and <that> <building>, <then> [smelled|shook|"
     "leaked|groaned|flooded] <when>.",
     "{his} [first|eldest|youngest|second] [son|daughter] [left|ran away|went] <path> with a <thing> and was [never|"
     "seldom] seen again."],
    ["<subject> was <feeling>, <degree> [stout|thin|tall|pale], and went nowhere without a <animal>.",
     "<people_group> who <adverb> [met|knew|served|feared|visited] {him} [remembered|described|mocked|praised|envied] "
     "{his} [beard|voice|laugh|temper|hat|nose] and the <thing> that {he} <adverb> [wore|carried|hid|kissed|counted] "
     "<when>.",
     "<subject> ate <food> <when>, <then> [walked|rode|limped|strolled|hurried] <path> before {he} <adverb> [opened|"
     "locked|swept|entered|closed] the <dim> {shop}.",
     "<subject> liked to say that <saying>.",
     "<saying>, {he} told {his} [pupils|children|rivals|friends] <but> <aye>.",
     "no sooner had {he} <adverb> [bought|lost|found|won|mended] a <thing> than {he} <adverb> [sold|hid|missed|broke|"
     "hated] it [again|too|, to {his} shame]."],
    ["in {office_year} the [people|elders|burghers] of {home} [chose|made|elected|named|crowned] {him} <office>, and "
     "{he} [held|kept|filled|enjoyed|abused] the office for <small> <odd> years.",
     "<subject> served as <office> of {home} from {office_year}, and <said> <saying>.",
     "in {office_year} {he} <adverb> [joined|left|led|served|founded] the guild of {trade}s, which <adverb> [met|"
     "feasted|prayed|argued|sang] <when> <then> [owned|sold|lent|bought|hid] <cargo>."],
    ["{given} {family} died at {home} in {died}, aged {age}, and was [buried|mourned|laid to rest] [beside|behind|"
     "under] <that> <building>.",
     "<subject> died in {month2} {died}, during <season>, at the age of {age}.",
     "after a [short|long|sudden|mysterious|painful] illness {he} passed away in {died}; {his} <worn> {tool} [hangs|"
     "stands|lies] in <that> <building> of {home}.",
     "death came to {family} in {died}, <when>, as {he} <adverb> [mended|cleaned|looked for] a <thing>."],
]

LIFE_DISASTER = [
    "during the <grim> {disaster} of {disaster_year} {he} <adverb> [gave|sold|carried|sent|promised] <cargo> to the "
    "[poor|sick|hungry|homeless] of {disaster_town}.",
    "when the <grim> {disaster} came to {disaster_town} in {disaster_year}, {he} <adverb> [fled|marched|rode|came|"
    "sailed] <path> with <cargo>.",
    "the <grim> {disaster} of {disaster_year} in {disaster_town} [killed|spared|took|blinded|ruined] {his} <kin>, and "
    "{he} <adverb> [mourned|prayed|drank|fasted|wept] for <small> <odd> [days|weeks|years].",
    "{he} <adverb> [survived|escaped|saw|remembered|described] the <grim> {disaster} of {disaster_year} by [hiding|"
    "climbing|running|swimming|praying] <path>.",
]

TOWN = [
    ["{town} is a <size> town in {province}, <place>, on the [left|right|north|south] bank of the {river}.",
     "the town of {town} lies <place> in {province}, where the {river} [bends|widens|narrows|slows|turns] before it "
     "[leaves|reaches|enters|crosses|floods] the [plain|gorge|marshes|desert|lake].",
     "{town}, on the {river}, is the [oldest|largest|smallest|richest|poorest] town in {province} and is known for "
     "its <skilled> {trade}s.",
     "<people_group> who <adverb> [come|ride|walk|wander|travel] <path> see {town} first from the [hill|river|bridge|"
     "moor], with its [crooked|red|steep] roofs above the {river}."],
    ["it was founded in {founded} by {founder}, who <adverb> [bought|won|stole|rented|cleared] the land for <cargo>.",
     "{founder} founded it in {founded}, after <season>, with <dozen> [families|soldiers|monks|fishermen].",
     "the first [houses|walls|huts|ovens|streets] were built by {founder} in {founded} <but> <aye>.",
     "in the year {founded} {founder} [drove|led|brought|sent|hauled] <cargo> <path> <then> [settled|stopped|camped|"
     "prayed|rested] where <that> <building> now stands."],
    ["[about|nearly|almost|over] {population} people live within its walls, most of them <skilled> {trade}s, "
     "<neighbour>s and <people_group>.",
     "it has {population} [people|souls|inhabitants], <small> <size> [wells|inns|churches|mills] and one <building>.",
     "at the last count there were {population} people in <our> town, [not|never] counting <those> <people_group>.",
     "of its {population} people more than half live [by|off|from] the <dim> {shop}, and the rest by [begging|farming|"
     "trade|fishing]."],
    ["market is held on {market_day}s in front of <that> <building>, and <cargo> [change hands|are sold|are weighed] "
     "before noon.",
     "on {market_day}s the market square is full of <people_group>, <fine> {wares} and <grown> {crop}, and a [cook|"
     "piper|thief] sells <food> for a penny.",
     "every {market_day} the <skilled> {trade}s [sell|show|barter|praise|display] <fine> {wares}, while <those> "
     "<people_group> [bring|buy|steal|eat|share] <food>.",
     "the {market_day} market [opens|begins|closes|ends|starts] with a [bell|drum|prayer|horn], and whoever [comes|"
     "pays|leaves] [late|early] [pays|owes|forfeits] <food>."],
    ["the <skilled> {trade}s of <our> town make <fine> {wares} from <rough> {stuff}, which comes down the {river} in "
     "[flat|narrow|heavy|painted|leaky] boats <when>.",
     "its <fine> {wares} are [made|sold|stamped] in the <dim> {shop} beside the [bridge|wharf|square|pond], and a "
     "<worn> {tool} hangs over the door.",
     "without <rough> {stuff} there would be no <skilled> {trade}s in <our> town, and without <skilled> {trade}s [no|"
     "little|less] [bread|money|noise|smoke|pride].",
     "a {trade} of <our> town must [show|sell|swear on] his <worn> {tool} before <that> <office>, and <small> of his "
     "<fine> {wares} are [burned|kept|weighed|seized|melted] if they are [bad|false|short]."],
    ["the <size> {work} was built in {work_year} by {builder} of {material} from the {hill} hills, and cost {cost} "
     "crowns.",
     "its [pride|shame|glory] is the <size> {work}, which {builder} built of {material} in {work_year}.",
     "the {material} {work} by {builder}, begun in {work_year}, [leans|stands|looks|glows|echoes] <place> <then> [has|"
     "needs|lost|shows|hides] <small> [arches|windows|steps|pillars].",
     "strangers [ask|look|pay] for the <size> {work} of {work_year}, [the|a] [great|ugly|costly] work of {builder}."],
    ["the <grim> {disaster} of {disaster_year} [killed|ruined|drove out] {toll} people <then> [left|spared|broke] "
     "only the <building>.",
     "<our> town suffered a <grim> {disaster} in {disaster_year}, which <adverb> [lasted|raged|went on] for <small> "
     "<odd> [days|weeks|months].",
     "in {disaster_year} there was a <grim> {disaster}, and {leader} [saved|fed|led|sheltered|carried] {toll} people "
     "<path>.",
     "its <people_group> still [speak|sing|dream|whisper|complain] of the <grim> {disaster} of {disaster_year}, when "
     "<weather> [covered|hid|filled|choked|buried] the [streets|fields|wells|roofs|graves]."],
    ["<grown> {crop} [grows|is grown] [on both sides of|along|above] the {river}, and the [fields|orchards|gardens|"
     "hedges|vineyards] [reach|run|stretch|spread|extend] as far as the {hill} hills.",
     "from <our> town it is {distance} miles to {other_town}, [over|by] a road that is [dusty|muddy|flooded|safe] in "
     "[spring|summer|autumn|winter].",
     "{other_town} lies {distance} miles to the [north|south|east|west], and the two towns [share|dispute|envy|guard|"
     "tax] a [judge|saint|wood|ferry].",
     "a [coach|ferry|mule train] goes to {other_town} every {market_day}, {distance} miles <path>, for <small> pence."],
    ["the people of <our> town are said to be <feeling>, and they [greet|trust|cheat|tempt|bribe] strangers with "
     "<food>.",
     "in <our> town they say that <saying>.",
     "its [arms|seal|banner] [show|shows|bears] a <animal> above a <thing>.",
     "either <that> <neighbour> or <that> <office> [rings|greases|repairs|winds|silences] the [bell|clock] <when> "
     "<but> <aye>.",
     "on the feast of the town, [early|late] in {month}, <those> <people_group> [dance|run|march|ride|crawl] <path> "
     "with a <animal>."],
]

RIVER = [
    ["the {river} is a [slow|swift|shallow|deep] river in {province}, {length} miles long, which rises in the {hill} "
     "hills.",
     "the {river} rises [above|below|among] the {hill} hills of {province} and runs for {length} miles <path>.",
     "{length} miles long, the {river} is the [longest|second|clearest|muddiest] river of {province}.",
     "from its [spring|source] in the {hill} hills to the [sea|lake|marshes] the {river} [flows|runs|winds|hurries|"
     "wanders] for {length} miles."],
    ["it [passes|washes|drives the mills of] {town}, <then> [below|beyond] {town} it [turns|widens|slows|deepens|"
     "roars] and is crossed by a [stone|wooden|narrow|covered|wide] bridge.",
     "{town}, the [first|largest|oldest] town on its banks, [drinks from|fishes|fears] it <then> [ships|loads] <fine> "
     "{wares} on it.",
     "the <skilled> {trade}s of {town} could not [work|live|pay|eat|trade] without it, for <rough> {stuff} comes by "
     "boat <when>.",
     "boats of <small> tons [reach|leave|supply|serve|visit] {town} with <cargo>, if there is [water|wind|peace|money|"
     "light] enough."],
    ["it is [rich|poor|full] in {fish}, which <people_group> [catch|spear|smoke|sell|salt] <when>.",
     "{fish} are [caught|netted|sold] there from [March|April|May] to [August|September|October], but never on a "
     "[Sunday|Friday].",
     "<small> <size> [nets|weirs|traps|hooks|baskets] for {fish} stand [above|below] {town}, and <that> <office> "
     "takes [one|every] fish in <dozen>.",
     "the [best|fattest|largest|oldest|wildest] {fish} are found [under|near] the [alders|mills|rapids|bridge], where "
     "the water is [deep|cold|brown|still]."],
    ["its water is [brown|green|clear|grey|yellow|cold] in [spring|summer|autumn|winter], <then> [tastes|smells] of "
     "[iron|peat|mud|leaves|salt|eggs].",
     "in [spring|autumn] <weather> [filled|swelled|clouded|chilled|darkened] it, and the [ferry|mill|ford|bridge|"
     "quay] was [closed|idle|lost|empty|useless] for <small> [days|weeks].",
     "after <season> it is so [low|high|dry|warm|thick] that [sheep|carts|children|soldiers|pigs|monks] can [cross|"
     "bathe|drown|swim|play] in it.",
     "[willows|reeds|alders|poplars|oaks|nettles] [grow|stand] on its banks, <then> [herons|otters|swallows|geese|"
     "frogs|swans] [nest|breed|hunt|gather|sleep] <place>."],
    ["in {disaster_year} it [flooded|burst its banks|froze] <then> [carried|swept|took|dragged|stole] <cargo> from "
     "{disaster_town}.",
     "the [high|flood|low] water of {disaster_year} is [cut|marked|remembered|carved|painted] on the [wall|door|gate] "
     "of <that> <building>.",
     "after the <grim> {disaster} of {disaster_year} at {disaster_town}, {leader} had <small> <odd> [dams|locks|"
     "ditches|weirs|canals] dug.",
     "{leader} [mapped|measured|sailed|painted|explored] it in {disaster_year} with a <thing> and <small> <odd> [men|"
     "mules|pupils|monks|oarsmen]."],
    ["<those> <people_group> say that a [drowned|silver|headless|golden|weeping] [bell|horse|king|bride] [lies|sleeps|"
     "sings|walks|waits] in it <when>.",
     "those who <adverb> [drink|swim|fish|wash|bathe] in <our> <stream>, it is said, are never <feeling>.",
     "a [song|proverb|prayer|ballad|rule] of the [boatmen|millers|ferrymen] says that <saying>.",
     "on the [first|second|last] <weekday> of {month} <that> <neighbour> throws <food> into it <but> <aye>."],
    ["<grown> {crop} and [flax|hemp|hay|apples] grow in its valley, which is <dozen> miles [wide|long] and <degree> "
     "[fertile|windy|lonely|damp].",
     "between {town} and {other_town} lie {distance} miles of [meadow|marsh|forest|heath], where <people_group> [camp|"
     "graze|hunt|hide] <when>.",
     "the [ferry|toll|bridge|mill|wharf] at {town} [costs|brings|yields|earns|takes] <small> <odd> [pence|shillings|"
     "crowns|farthings|ducats] a [head|day|week].",
     "below {other_town} it is joined by the {other_river}; [both|together they] [run|flow] on to the [sea|delta|"
     "lake]."],
]

GUILD = [
    ["the guild of {trade}s at {town} was founded in {founded} by {founder}, <then> [meets|eats|prays|feasts|votes] "
     "in a [hall|loft|cellar|barn|crypt] behind <that> <building>.",
     "{founder} founded the guild of {trade}s in {founded}, with <small> <odd> [brothers|masters] and one <worn> "
     "{tool}.",
     "of all guilds in {province} that of the <skilled> {trade}s of {town}, founded in {founded}, is the [oldest|"
     "proudest|richest].",
     "since {founded} the <skilled> {trade}s of {town} have had a guild, which <adverb> [guards|sets|raises] the "
     "price of <fine> {wares}."],
    ["it has {members} members, who pay <small> crowns a [year|month|quarter|week|season] <then> [swear|drink|march|"
     "dine|vote] on the <worn> {tool}.",
     "{members} masters belong to it, and each may keep <small> <odd> [apprentices|journeymen|widows|mules].",
     "whoever wants to [join|enter|leave] must give <food>, <small> crowns and one of his <fine> {wares}.",
     "nobody may [make|sell|mend|buy|copy] <fine> {wares} in <our> town unless he is one of its {members} members."],
    ["an apprentice [sleeps|eats|works|sings|cooks] in the <dim> {shop}, [sweeps|warms|guards|paints|leaves] it "
     "<when>, and gets <food>.",
     "a master must [know|choose|buy|test|judge] his <rough> {stuff} by [smell|touch|weight|sight], and keep his "
     "<worn> {tool} [clean|sharp|dry|hidden|safe].",
     "<fine> {wares} of [bad|old|foreign|stolen|dirty] <rough> {stuff} are [burned|drowned|broken] in front of <that> "
     "<building>, and the maker [pays|loses|owes|forfeits|offers] <small> crowns.",
     "<rough> {stuff} is bought <when> from <people_group>, [weighed|counted|tasted] by <that> <office>, and [stored|"
     "locked] in the <dim> {shop}.",
     "he who {made} <fine> {wares} <when>, says the [rule|oath|book], [shames|cheats|robs|wastes|insults] both "
     "<rough> {stuff} and <worn> {tool}."],
    ["its master is {master}, who [was chosen|took office] in {master_year} and is <feeling>.",
     "in {master_year} {master} became its master <then> [bought|sold|gave|received|seized] <cargo>.",
     "the <ordinal> master, {master}, [chosen|sworn in] in {master_year}, [banned|allowed|taxed|praised|seized] "
     "<fine> {wares} from {other_town}.",
     "under {master}, master since {master_year}, the guild [built|lost|pawned|bought|hid] a <thing> and <small> "
     "<odd> [houses|boats|barns|wagons|stalls]."],
    ["its feast is held on the #2-28# of {month}, when <cargo> are [shared|given|blessed|sold|burned].",
     "in {month} the <skilled> {trade}s [carry|burn|crown|bless|hide] a [straw|painted|wooden|paper|giant] <worn> "
     "{tool} <then> [march|dance|sing|run|drink] <path>.",
     "the guild [owns|keeps|lost|claims|wants] a <animal>, a <thing> and the [right|duty] to [ring|open|sweep|paint|"
     "lock] <that> <building> <when>.",
     "its banner shows a <worn> {tool} [between|over|under] two [lions|keys|stars|fish|crowns|bears], [blue|red|black|"
     "gold|white|green] on [white|green|silver|blue|purple]."],
    ["with the <skilled> {other_trade}s it [quarrelled|fought|went to law] for <small> <odd> years over [water|smoke|"
     "noise|a wall].",
     "the <skilled> {trade}s <said> <skilled> {other_trade}s were <feeling>, and the <skilled> {other_trade}s "
     "[answered|replied|shouted|joked] that <saying>.",
     "neither <skilled> {trade}s nor <skilled> {other_trade}s [work|drink|trade|eat|travel] on the [day|eve] of [All "
     "Saints|Saint John|the Assize].",
     "after the <grim> {disaster} of {disaster_year} it [gave|lent|sent|sold|promised] <cargo> to {disaster_town}."],
    ["the books of the guild [say|tell|prove] that <cargo> were [sold|lost|stolen|burned|given] in {year}.",
     "in {member_year} a {trade} called {member} was [fined|expelled|hanged|praised] for [selling|hiding|copying|"
     "breaking|losing] <small> <fine> {wares}.",
     "{member}, a member since {member_year}, [left|gave|owed|sold|lent] the guild <cargo> and a <thing>.",
     "when {member} died in {member_died}, <dozen> <skilled> {trade}s [followed|carried] the coffin <path> <but> "
     "<aye>."],
]

CHRONICLE = [
    ["this is the chronicle of {town} in {province}, as <that> <neighbour> [wrote|copied|remembered|found|translated] "
     "it.",
     "from the [annals|chronicle|year book] of {town}, [kept|written] by <that> <neighbour> <when>.",
     "here [begin|follow] the [years|annals] of {town} on the {river}.",
     ""],
    ["in {year1} there was <season>, and <weather> [spoiled|killed|delayed|flattened|saved] the <grown> {crop}.",
     "{year1} began with <weather>; [bread|salt|firewood|hay] cost <small> pence, and many <people_group> [begged|"
     "starved|left|stole|froze].",
     "in the year {year1} a [comet|whale|two-headed calf|white raven] was seen <place> <but> <aye>.",
     "the [harvest|vintage|haymaking] of {year1} was [good|poor|late|early], and <grown> {crop} was [cheap|dear|"
     "scarce|mouldy|plentiful]."],
    ["in {year2} {leader} was [chosen|named|made] <office> <then> [built|closed|rebuilt|sold|painted] <that> "
     "<building>.",
     "{leader} became <office> in {year2}, [promised|swore] to [lower|raise|end|halve] the [tax|toll] on <fine> "
     "{wares}, <then> [kept|broke|forgot|regretted|denied] the [oath|promise].",
     "{year2}: {leader} [bought|gave|sold] <cargo> to the town for {cost} crowns.",
     "the <skilled> {trade}s and the <skilled> {other_trade}s [fought|quarrelled|made peace] in {year2}, and {leader} "
     "had to [judge|pay|flee]."],
    ["in {disaster_year} came the <grim> {disaster}, which <adverb> [lasted|raged|dragged|smouldered] for <small> "
     "<odd> [days|weeks] and killed {toll} people.",
     "{disaster_year} is the year of the <grim> {disaster}: {toll} [died|fled|lost everything], and <that> <building> "
     "was [ruined|spared|closed|burned|robbed].",
     "the <grim> {disaster} of {disaster_year} [began|started] in {month} near <that> <building>; {leader} [led|took] "
     "{toll} people <path>.",
     "on the #2-28# of {month} {disaster_year} the <grim> {disaster} [reached|struck|ended at] <our> town, and "
     "{leader} [wept|fled|prayed|stayed]."],
    ["after this <those> <people_group> [built|asked for|paid for] <small> new [wells|gates|ovens|mills], one of them "
     "<place>.",
     "then <cargo> came from {other_town}, [half|all|none] of it [rotten|paid|free].",
     "both the <office> and <that> <neighbour> <said> it was the [fault|work|doing|plan|crime] of the <skilled> "
     "{other_trade}s.",
     "for <small> <odd> years no <fine> {wares} were sold in <our> town, and the <dim> {shop} stood [empty|open|idle|"
     "locked|silent]."],
    ["the <size> {work} was [begun|built] by {builder} in {work_year}, of {material} from the {hill} hills, for "
     "{cost} crowns.",
     "in {work_year} {builder} [built|finished] the <size> {work} of {material}, and a [mass|feast|fair] was held "
     "<when>.",
     "{work_year}: {builder} laid the first [stone|beam] of the <size> {work}, and <small> <odd> [masons|oxen|"
     "children|priests|carters] [watched|helped|slept|cheered|complained]."],
    ["in {year3} <small> ships came up the {river} with <cargo> and <cargo>.",
     "{year3}: peace with {other_town}, [sealed|sworn] <place> with <food>.",
     "in {year3} a <animal> [bit|led|saved|chased|licked] <that> <office>, and <people_group> [came|travelled] "
     "{distance} miles to see it.",
     "in {month} {year3} a [wedding|trial|fair|duel] was held at <that> <building>, to which <people_group> [brought|"
     "sold|carried|gave] <food>."],
    ["of the years [after|before] that the book says [nothing|little] [but|except] that <saying>.",
     "thus far the chronicle; the [rest|next page] was [eaten|torn|burned|stolen|stained] by [mice|thieves|monks|"
     "goats|children].",
     "the [next|last] [page|line] [speaks|tells] only of <weather>, <grown> {crop} and <cargo>.",
     ""],
]

LEDGER_OPENING = [
    "accounts of the <dim> {shop} of {person} at {town}, for {month} of {year}.",
    "here is what <that> <office> of {town} [paid|received|lent|spent|collected] in {month} of the year {year}.",
    "the [customs|toll|tithe] book of {town} for {month} {year}.",
]

LEDGER_LINE = [
    "on <weekday> the #2-28# of {month} [paid|received|borrowed|spent|earned] #3-60# crowns for <cargo>.",
    "<weekday>: <cargo> to {person}, #3-60# crowns, [paid|owed|promised|disputed].",
    "item, <cargo> from {other_town}, of which <small> [spoiled|stolen|returned|sold|wet].",
    "item, #3-60# [pence|shillings|crowns|farthings|ducats] to <that> <neighbour> for [mending|sweeping|guarding|"
    "painting] <that> <building>.",
    "item, <fine> {wares} to <that> <office>, <small> [at|for] #3-60# pence [each|the pair].",
    "to <those> <people_group>, <food> and #3-60# pence, <when>.",
    "[lost|found|sold|stolen|bought] on <weekday>: a <thing>, worth #3-60# crowns.",
    "{person} [owes|lent|returned|bought|stole] a <thing> and <cargo>.",
    "for <rough> {stuff}, [carried|brought] <path> by a <animal>, #3-60# pence.",
    "<weather> on the #2-28# of {month}; [nothing|little] [sold|bought|done].",
    "the {trade} [asked|begged|waited|called|wrote] <when> for #3-60# crowns <then> [got|took|refused|accepted|"
    "earned] <food>.",
]

JOURNEY = [
    ["{traveller} left {town} [early|late] in {month} {year} with a <animal>, a <thing> and <cargo>.",
     "in {month} of {year} {traveller} set out from {town} to [buy|sell|find|fetch|steal] <cargo> in {other_town}.",
     "the [letter|diary|report] of {traveller} [tells|speaks] of a journey from {town} to {other_town} in {year}."],
    ["on the <ordinal> day {he} <adverb> [rode|walked|limped|marched|travelled] {distance} miles <path>, in <weather>.",
     "for <small> <odd> days there was nothing but <weather>, and {he} ate <food> <then> [slept|prayed|wept|sang|"
     "shivered] under a [cart|hedge|boat|tree|rock].",
     "<subject> <adverb> [crossed|followed|reached|saw|measured] the {river} by [ferry|boat|moon light] <then> [gave|"
     "promised|offered|owed] the [ferryman|boatman] <food>.",
     "<place> {he} <adverb> [met|passed|overtook|joined|counted] <dozen> <people_group>, who <adverb> [sang|begged|"
     "swore|laughed|limped] <then> [offered|sold|gave|showed] {him} <food>."],
    ["at an inn <place> {he} <adverb> [shared|lost|won|wanted|broke] a [bed|bench|wager|candle|table] with a "
     "<neighbour>, who was <feeling>.",
     "the [innkeeper|hostess] [asked|wanted|charged|demanded|took] #3-60# pence for <food> and a [bed|blanket] full "
     "of [fleas|straw|holes|feathers|sand].",
     "there a <animal> [stole|ate|smelled|guarded|hid] {his} [supper|boots|map|hat|letters] <but> <aye>.",
     "a <neighbour> on the road told {him} that <saying>.",
     "<subject> <adverb> [dreamed|heard|wrote|feared|read] that <that> <building> of {town} was on fire, <then> "
     "[laughed|turned back|hurried on]."],
    ["in {other_town} {he} <adverb> [sold|bought|saw|stole|admired] <fine> {wares}, <cargo> and a <thing>, <then> "
     "[met|paid|kissed|visited|cheated] {person}.",
     "{other_town} [pleased|bored|frightened|amused|disgusted] {him}: the [streets|women|beds|towers|inns] were "
     "[clean|wide|cold|narrow|noisy] and the <skilled> {trade}s <feeling>.",
     "{person}, a {trade} of {other_town}, [gave|sold|showed|lent|promised] {him} a <thing> <then> [spoke|complained|"
     "told|sang] of the <grim> {disaster} of {disaster_year}.",
     "<that> <office> of {other_town} [searched|taxed|seized|praised|weighed] the <cargo>, but not the <thing>."],
    ["<subject> came home after <small> <odd> [weeks|months|seasons|years], <degree> [thin|rich|tired|wise], <path>.",
     "on the way back <weather> [blocked|closed|covered|hid|ruined] the [pass|road|ford|path|bridge], and {he} "
     "<adverb> [waited|stayed|starved|rested|prayed] <small> days.",
     "{traveller} never [travelled|rode|sailed|walked|complained] again, and <when> [told|sold] the story for <food>.",
     "of the journey {he} kept [only|nothing but] a <thing>, which <adverb> [hangs|hung] in the <dim> {shop}."],
]

# --- Registers: one entity a sentence or two, the same few facts of each; lessons and SQuAD ask about these ---


class Fact(NamedTuple):
    """A fact of a register. `{it}` is the entity, `{v}` its value; an aside follows a comma, a claim the entity."""

    asides: Tuple[str, ...]
    claims: Tuple[str, ...]
    questions: Tuple[str, ...]


class Register(NamedTuple):
    openings: Tuple[str, ...]
    entity: str                # how a sentence or question names the entity
    pronoun: str
    facts: Dict[str, Fact]


REGISTERS = {
    "people": Register(
        ("here are some people of {province}.", "the register of {province} [names|lists|praises] these people.", ""),
        "{name}", "{he}", {
            "born": Fact(("born in {v}",), ("was born in {v}", "came into the world in {v}"),
                         ("When was {it} born?", "In what year was {it} born?", "What is the year of birth of {it}?",
                          "In which year did {it} come into the world?")),
            "trade": Fact(("a {v}", "a {v} by trade"), ("worked as a {v}", "was a {v}", "earned a living as a {v}"),
                          ("What was the trade of {it}?", "What trade did {it} follow?", "What did {it} work as?",
                           "How did {it} earn a living?")),
            "home": Fact(("of {v}", "from {v}"), ("lived in {v}", "had a house in {v}"),
                         ("Where did {it} live?", "In which town did {it} live?", "In what town was the house of {it}?",
                          "Which town was {it} from?")),
            "teacher": Fact(("a pupil of {v}",), ("was taught by {v}", "learned from {v}", "was a pupil of {v}"),
                            ("Who taught {it}?", "Who was the teacher of {it}?", "Whose pupil was {it}?",
                             "From whom did {it} learn?")),
            "spouse": Fact(("married to {v}",), ("married {v}", "was wed to {v}"),
                           ("Who married {it}?", "Whom did {it} marry?", "To whom was {it} wed?",
                            "Who was {it} married to?")),
        }),
    "towns": Register(
        ("these are towns of {province}.", "the map of {province} [shows|names|lists] several towns.", ""),
        "{town}", "it", {
            "founded": Fact(("founded in {v}",), ("was founded in {v}", "dates from the year {v}"),
                            ("When was {it} founded?", "In what year was {it} founded?",
                             "From what year does {it} date?", "What is the founding year of {it}?")),
            "founder": Fact(("founded by {v}",), ("was founded by {v}", "had {v} as its founder"),
                            ("Who founded {it}?", "Who was the founder of {it}?", "By whom was {it} founded?",
                             "Which person founded {it}?")),
            "population": Fact(("a town of {v} people",), ("has {v} people", "is home to {v} people"),
                               ("How many people live in {it}?", "How many people does {it} have?",
                                "To how many people is {it} home?", "What is the number of people in {it}?")),
            "goods": Fact(("known for {v}",), ("is known for {v}", "lives by selling {v}"),
                          ("What is {it} known for?", "What does {it} live by selling?", "What does {it} sell?",
                           "For what goods is {it} known?")),
            "market_day": Fact(("with a market on {v}",), ("has its market on {v}", "holds a market on {v}"),
                               ("On what day is the market in {it}?", "When is the market held in {it}?",
                                "Which day is market day in {it}?", "On which day does {it} hold a market?")),
        }),
    "rivers": Register(
        ("these are rivers of {province}.", "{province} has many rivers.", ""),
        "the {river}", "it", {
            "length": Fact(("{v} miles long",), ("is {v} miles long", "runs for {v} miles"),
                           ("How long is {it}?", "How many miles long is {it}?", "For how many miles does {it} run?",
                            "What is the length of {it} in miles?")),
            "hill": Fact(("from the hills of {v}",), ("rises in the hills of {v}", "comes from the hills of {v}"),
                         ("Where does {it} rise?", "In which hills does {it} rise?", "From which hills does {it} come?",
                          "In what hills is the source of {it}?")),
            "fish": Fact(("rich in {v}",), ("is full of {v}", "is rich in {v}", "is known for {v}"),
                         ("What is {it} rich in?", "Of what is {it} full?", "What can be caught in {it}?",
                          "For what is {it} known?")),
            "mouth_town": Fact(("which ends at {v}",), ("reaches the sea at {v}", "ends at {v}"),
                               ("Where does {it} end?", "Where does {it} reach the sea?",
                                "At which town does {it} end?", "At what town does {it} reach the sea?")),
            "surveyor": Fact(("mapped by {v}",), ("was mapped by {v}", "was first sailed by {v}"),
                             ("Who mapped {it}?", "By whom was {it} mapped?", "Who first sailed {it}?",
                              "Who was the first to sail {it}?")),
        }),
    "ships": Register(
        ("these ships were seen in {province}.", "the harbour book of {province} [names|lists|counts] these ships.",
         ""),
        "the {ship}", "it", {
            "captain": Fact(("under {v}",), ("had {v} as captain", "was commanded by {v}", "sailed under {v}"),
                            ("Who commanded {it}?", "Who was the captain of {it}?", "Under whom did {it} sail?",
                             "By whom was {it} commanded?")),
            "cargo": Fact(("laden with {v}",), ("carried {v}", "was laden with {v}"),
                          ("What did {it} carry?", "What was {it} laden with?", "What was the cargo of {it}?",
                           "With what was {it} laden?")),
            "port": Fact(("bound for {v}",), ("sailed to {v}", "was bound for {v}"),
                         ("Where did {it} sail to?", "To which town did {it} sail?", "Where was {it} bound for?",
                          "For which town was {it} bound?")),
            "launched": Fact(("launched in {v}",), ("was launched in {v}", "left the yard in {v}"),
                             ("When was {it} launched?", "In what year was {it} launched?",
                              "In which year did {it} leave the yard?", "When did {it} leave the yard?")),
            "crew": Fact(("with a crew of {v}",), ("had a crew of {v}", "was manned by {v} sailors"),
                         ("How many sailors manned {it}?", "By how many sailors was {it} manned?",
                          "How large was the crew of {it}?", "How many were in the crew of {it}?")),
        }),
    "works": Register(
        ("these are great works of {province}.", "masons [praise|study|copy] these works in {province}.", ""),
        "the {work} of {town}", "it", {
            "builder": Fact(("by {v}",), ("was built by {v}", "is the work of {v}"),
                            ("Who built {it}?", "By whom was {it} built?", "Who was the builder of {it}?",
                             "Whose work is {it}?")),
            "work_year": Fact(("begun in {v}",), ("was built in {v}", "dates from {v}"),
                              ("When was {it} built?", "In what year was {it} built?",
                               "From what year does {it} date?", "In which year was {it} begun?")),
            "material": Fact(("made of {v}",), ("is made of {v}", "was built of {v}"),
                             ("What is {it} made of?", "Of what was {it} built?", "What was used to build {it}?",
                              "From what material is {it} made?")),
            "cost": Fact(("which cost {v} crowns",), ("cost {v} crowns", "was paid for with {v} crowns"),
                         ("How much did {it} cost?", "How many crowns did {it} cost?",
                          "What was the price of {it} in crowns?", "With how many crowns was {it} paid for?")),
        }),
}

LESSON_QUESTIONS = ("", "questions on this follow.", "now answer these questions.", "what have you read?")
LESSON_ANSWERS = ("the answer is {v}.", "{v}.", "answer: {v}.", "{it} {claim}.")

# Which values a slot could have had: years and numbers near the true one, or the province's names, or a closed list.
SLOT_POOLS = {
    **dict.fromkeys("name given family teacher spouse founder builder leader master member person traveller surveyor "
                    "captain".split(), "people"),
    **dict.fromkeys("birthplace home town other_town disaster_town mouth_town port".split(), "towns"),
    **dict.fromkeys("river other_river".split(), "rivers"), "hill": "hills", "ship": "ships",
    **dict.fromkeys("born died married office_year founded work_year disaster_year year year1 year2 year3 master_year "
                    "member_year member_died "
                    "launched".split(), "years"),
    **dict.fromkeys("population cost toll length distance members crew".split(), "numbers"),
    **dict.fromkeys("trade other_trade".split(), tuple(TRADES)),
    "goods": tuple(t.goods for t in TRADES.values()), "work": WORKS, "material": MATERIALS, "fish": FISH,
    "cargo": CARGOES, "disaster": DISASTERS, "month": tuple(MONTHS), "month2": tuple(MONTHS),
    "market_day": tuple(WEEKDAYS),
}

# --- Templates ---


class Choice:
    """Alternatives, each a tuple of parts. `words` are the alternatives of one plain word each."""

    def __init__(self, options: List[tuple]):
        self.options = options
        self.count = len(options)
        self.words = tuple(option[0] for option in options
                           if len(option) == 1 and isinstance(option[0], str) and option[0].isalnum())


class Slot(NamedTuple):
    name: str


class Number(NamedTuple):
    low: int
    high: int
    step: int


_LISTS: Dict[str, Choice] = {}
_TOKEN = re.compile(r"[\[\]|]|\{\w+\}|<\w+>|#\d+-\d+(?::\d+)?#|[^\[\]|{}<>#]+")


def compile_template(text: str) -> tuple:
    """Parts of a template: strings, `Choice`, `Slot` and `Number`. A bare `|` at the top makes it all one choice."""
    tokens, position = _TOKEN.findall(text), 0

    def alternatives() -> List[tuple]:
        nonlocal position
        options, parts = [], []
        while position < len(tokens):
            token = tokens[position]
            position += 1
            if token == "]":
                break
            if token == "|":
                options.append(tuple(parts))
                parts = []
            elif token == "[":
                parts.append(Choice(alternatives()))
            elif token[0] == "{":
                parts.append(Slot(token[1:-1]))
            elif token[0] == "<":
                parts.append(_list(token[1:-1]))
            elif token[0] == "#":
                parts.append(Number(*([int(n) for n in re.findall(r"\d+", token)] + [1])[:3]))
            else:
                parts.append(token)
        options.append(tuple(parts))
        return options

    options = alternatives()
    return options[0] if len(options) == 1 else (Choice(options),)


def _list(name: str) -> Choice:
    if name not in _LISTS:
        compiled = compile_template(LISTS[name])
        _LISTS[name] = compiled[0] if len(compiled) == 1 and isinstance(compiled[0], Choice) else Choice([compiled])
    return _LISTS[name]


def _documents(*kinds):
    return [[[compile_template(sentence) for sentence in topic] for topic in kind] for kind in kinds]


_LIFE, _TOWN, _RIVER, _GUILD, _CHRONICLE, _JOURNEY, _LEDGER = _documents(
    LIFE, TOWN, RIVER, GUILD, CHRONICLE, JOURNEY, [LEDGER_OPENING, LEDGER_LINE])
(_DISASTER,), = _documents([LIFE_DISASTER])


class _CompiledFact(NamedTuple):
    asides: List[tuple]
    claims: List[tuple]


def _compile_facts(register: Register) -> Dict[str, _CompiledFact]:
    return {name: _CompiledFact(*([compile_template(text.replace("{v}", "{" + name + "}")) for text in texts]
                                  for texts in fact[:2]))
            for name, fact in register.facts.items()}


_FACTS = {kind: _compile_facts(register) for kind, register in REGISTERS.items()}
_ENTITIES = {kind: compile_template(register.entity) for kind, register in REGISTERS.items()}
_OPENINGS = {kind: [compile_template(text) for text in register.openings] for kind, register in REGISTERS.items()}

_ARTICLE = re.compile("\\b([Aa]) (?=[\ue000-\uf8ff]?(?:[aeiouAEIOU]|honest))(?![\ue000-\uf8ff]?one-)")
_SPACE_BEFORE_MARK = re.compile(" +([,.;:])")


class Draw(NamedTuple):
    """One marked word: what was drawn, what could have been, and whether it is a value (that may show again)."""

    word: str
    pool: Sequence[str]
    is_value: bool


class Writer:
    """Turns templates into sentences for one document.

    Args:
        random: a source of numbers in [0, 1), `Random.random`.
        slots: values of `{slot}`.
        pools: for each kind of name, the province's names of that kind, as words.
        marking: True precedes drawn words by marks, see the module's docstring; the draws are the same.
    """

    def __init__(self, random, slots: dict, pools: Dict[str, Sequence[str]], marking: bool):
        self.random, self.slots, self.pools, self.marking = random, slots, pools, marking
        self.draws: List[Draw] = []

    def sentence(self, parts: tuple) -> str:
        out: List[str] = []
        self._expand(parts, out)
        text = _SPACE_BEFORE_MARK.sub(r"\1", " ".join("".join(out).split()))
        text = _ARTICLE.sub(r"\1n ", text)
        first = 1 if text and MARK <= ord(text[0]) < MARK + MAX_MARKS else 0
        return text[:first] + text[first:first + 1].upper() + text[first + 1:]

    def pick(self, options: Sequence):
        return options[int(self.random() * len(options))]

    def _expand(self, parts: tuple, out: List[str]):
        for part in parts:
            kind = part.__class__
            if kind is str:
                out.append(part)
            elif kind is Choice:
                option = part.options[int(self.random() * part.count)]
                if len(option) == 1 and option[0].__class__ is str:
                    word = option[0]
                    out.append(self._mark(word, part.words, False) if self.marking and word in part.words else word)
                else:
                    self._expand(option, out)
            elif kind is Slot:
                value = str(self.slots[part.name])
                out.append(self._mark_value(part.name, value) if self.marking else value)
            else:
                numbers = range(part.low, part.high + 1, part.step)
                value = str(numbers[int(self.random() * len(numbers))])
                out.append(self._mark(value, numbers, True) if self.marking else value)

    def _mark(self, word: str, pool: Sequence, is_value: bool) -> str:
        if len(self.draws) >= MAX_MARKS:
            return word
        self.draws.append(Draw(word, pool, is_value))
        return chr(MARK + len(self.draws) - 1) + word

    def _mark_value(self, slot: str, value: str) -> str:
        pool = SLOT_POOLS.get(slot)
        if pool is None:
            return value
        if pool == "years":
            pool = range(int(value) - 20, int(value) + 21)
        elif pool == "numbers":
            reach = max(10, int(value) // 5)
            pool = range(max(1, int(value) - reach), int(value) + reach + 1)
        elif isinstance(pool, str):
            pool = self.pools[pool]
        return " ".join(self._mark(word, pool, True) if word.isalnum() else word for word in value.split())


# --- The world ---


class Document(NamedTuple):
    """`sentences`, one a line. `draws` belong to the marks in them; `passage` is what one may ask about."""

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
    """What questions can be asked about: a register (things of one kind) or a gazetteer (of several)."""

    opening: str
    rows: List[Row]


class Province:
    """One province: its names and facts, drawn when it is made, and its documents.

    Args:
        seed, index: the province is a function of these alone.
        held_out: True draws names from words that provinces with False never use.
        long_registers: True lets a few registers name 14 to 16 people.
        gazetteers: how many of its documents are; where there are any, they are its passages in place of registers.
    """

    def __init__(self, seed: int, index: int, held_out: bool, long_registers: bool = False, gazetteers: int = 0):
        self.held_out, self.long_registers, self.gazetteers = held_out, long_registers, gazetteers
        self.rng = Random(f"{seed}/{index}")
        self.random = self.rng.random
        self.land = self._pick(LANDS)
        self.used = set()
        self.name = self._name("town")
        self.era = self.rng.randrange(880, 1500)
        hills = [self._name("hill") for _ in range(7)]
        families = [self._name("family") for _ in range(26)]
        self.rivers = [self._river(hills) for _ in range(7)]
        self.towns = [self._town() for _ in range(9)]
        self.ancestors = [f"{self._name(sex)} {self._pick(families)}" for sex in ("female", "male") * 5]
        self.people = [self._person(families) for _ in range(40)]
        self._connect_people()
        for town in self.towns:
            self._history(town, hills)
        for river in self.rivers:
            river.update(mouth_town=self._pick(self.towns)["town"], surveyor=self._pick(self.people)["name"])
        self.ships = [self._ship() for _ in range(9)]
        self.pools = {"towns": [town["town"] for town in self.towns], "hills": hills,
                      "rivers": [river["river"] for river in self.rivers], "ships": [s["ship"] for s in self.ships],
                      "people": sorted({word for name in [*self.ancestors, *(person["name"] for person in self.people)]
                                        for word in name.split()})}
        self.pools = {kind: tuple(words) for kind, words in self.pools.items()}

    def _pick(self, options: Sequence):
        return options[int(self.random() * len(options))]

    def _other(self, options: Sequence, than):
        while True:
            option = self._pick(options)
            if option is not than:
                return option

    def _adult(self, year: int) -> dict:
        """A person who was grown and alive in `year`."""
        return self._pick([person for person in self.people if person["born"] + 18 <= year <= person["died"]]
                          or self.people)

    def _name(self, kind: str) -> str:
        """A new name word. A tenth of all words, by checksum, is reserved for provinces that are held out."""
        land = self.land
        starts, middles, endings = land.starts.split(), land.middles.split(), getattr(land, kind).split()
        while True:
            chance = self.random()
            count = 0 if chance < 0.5 else 1 if chance < 0.94 else 2
            word = "".join([self._pick(starts), *(self._pick(middles) for _ in range(count)), self._pick(endings)])
            word = word.capitalize()
            if word not in self.used and (zlib.crc32(word.encode()) % 10 == 0) == self.held_out:
                self.used.add(word)
                return word

    def _trade(self, usual: Optional[str] = None) -> str:
        """The usual trade of the place, one of the land's, or any."""
        chance = self.random()
        if usual and chance < 0.3:
            return usual
        return self._pick(self.land.trades.split()) if chance < 0.6 else self._pick(list(TRADES))

    def _trade_slots(self, name: str) -> dict:
        trade = TRADES[name]
        return dict(trade=name, made=trade.made, wares=trade.goods, stuff=trade.stuff, tool=trade.tool, shop=trade.shop)

    def _river(self, hills) -> dict:
        return dict(river=self._name("river"), hill=self._pick(hills), length=self.rng.randrange(20, 400),
                    fish=self._pick(FISH), trade=self._trade())

    def _town(self) -> dict:
        river = self._pick(self.rivers)
        trade = river["trade"] if self.random() < 0.6 else self._trade()
        return dict(town=self._name("town"), river=river["river"], hill=river["hill"], **self._trade_slots(trade),
                    goods=TRADES[trade].goods, population=self.rng.randrange(300, 9900, 10), crop=self.land.crop,
                    founded=self.era - self.rng.randrange(20, 180), market_day=self._pick(WEEKDAYS))

    def _person(self, families) -> dict:
        woman = self.random() < 0.5
        given, family = self._name("female" if woman else "male"), self._pick(families)
        birthplace, home = self._pick(self.towns), self._pick(self.towns)
        born, age = self.era + self.rng.randrange(70), self.rng.randrange(45, 90)
        return dict(name=f"{given} {family}", given=given, family=family, woman=woman, he="she" if woman else "he",
                    his="her" if woman else "his", him="her" if woman else "him", child="girl" if woman else "boy",
                    birthplace=birthplace["town"], home=home["town"], river=birthplace["river"], born=born,
                    died=born + age, age=age, office_year=born + self.rng.randrange(30, 44),
                    married=born + self.rng.randrange(18, 30), **self._trade_slots(self._trade(home["trade"])))

    def _connect_people(self):
        """Teachers, and couples; both partners give the same year."""
        women = [person for person in self.people if person["woman"]]
        men = [person for person in self.people if not person["woman"]]
        for person in self.people:
            older = [other for other in self.people if person["born"] - 50 < other["born"] < person["born"] - 10]
            teacher = self._pick(older) if older else {}
            person.update(teacher=teacher.get("name") or self._pick(self.ancestors),
                          teacher_home=teacher.get("home", person["birthplace"]), spouse=None)
        for woman, man in zip(women, men):
            woman["spouse"], man["spouse"] = man["name"], woman["name"]
            year = max(woman["born"], man["born"]) + self.rng.randrange(18, 26)
            if year < min(woman["died"], man["died"]):
                woman["married"] = man["married"] = year
            else:
                woman["spouse"] = man["spouse"] = None

    def _history(self, town: dict, hills):
        """What happened to a town: founder, work, disaster, guild, neighbour."""
        near, some = self._other(self.towns, town), self._pick
        work_year, disaster_year = self.era + self.rng.randrange(30, 120), self.era + self.rng.randrange(40, 120)
        master_year = self.era + self.rng.randrange(60, 120)
        town.update(
            founder=some(self.ancestors), work=some(WORKS), work_year=work_year,
            builder=self._adult(work_year)["name"], material=some(MATERIALS), cost=self.rng.randrange(40, 990),
            disaster=some(DISASTERS), disaster_year=disaster_year, disaster_town=town["town"],
            leader=self._adult(disaster_year)["name"], toll=self.rng.randrange(20, 900), other_town=near["town"],
            distance=self.rng.randrange(5, 90), other_trade=self._other(list(TRADES), town["trade"]),
            guild=dict(founded=self.era - self.rng.randrange(20), founder=some(self.ancestors),
                       members=self.rng.randrange(12, 200), master=self._adult(master_year)["name"],
                       master_year=master_year))

    def _ship(self) -> dict:
        launched = self.era + self.rng.randrange(30, 120)
        return dict(ship=self._name("female"), captain=self._adult(launched)["name"], cargo=self._pick(CARGOES),
                    port=self._pick(self.towns)["town"], launched=launched, crew=self.rng.randrange(12, 240))

    # --- Documents ---

    def documents(self, marked=lambda: False):
        """Yields every `Document` of the province, in a shuffled order. `marked()` says whether to mark the next."""
        jobs = [(self._life, person) for person in self.people if self.random() < 0.5]
        for town in self.towns:
            jobs += [(self._about_town, town), (self._about_guild, town), (self._chronicle, town),
                     *[(self._ledger, town)] * 3, *[(self._journey, town)] * 3]
        jobs += [(self._about_river, river) for river in self.rivers]
        jobs += [(self._register, kind) for kind in REGISTERS for _ in range(3)]
        jobs += [(self._gazetteer, sorted(REGISTERS))] * self.gazetteers
        self.rng.shuffle(jobs)
        for write, subject in jobs:
            yield write(subject, marked())

    def _dated(self, **slots) -> dict:
        return dict(slots, province=self.name, land=self.land.name, crop=self.land.crop, month=self._pick(MONTHS),
                    month2=self._pick(MONTHS), year=self.era + self.rng.randrange(30, 120))

    def _narrative(self, topics, slots: dict, marking: bool) -> Document:
        """One or two sentences of most topics; the first and the last topic keep their places."""
        writer = Writer(self.random, slots, self.pools, marking)
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
        topics = list(_LIFE)
        if person["spouse"] is None:
            topics = topics[:4] + topics[6:]
        events = [town for town in self.towns if person["born"] + 15 <= town["disaster_year"] < person["died"]]
        event = self._pick(events) if events else {}
        if events:
            topics.insert(-1, _DISASTER)
        slots = {key: event.get(key) for key in ("disaster", "disaster_year", "disaster_town")}
        return self._narrative(topics, self._dated(**{**slots, **person, "other_town": self._pick(self.towns)["town"]}),
                               marking)

    def _about_town(self, town: dict, marking: bool) -> Document:
        return self._narrative(_TOWN, self._dated(**town), marking)

    def _about_river(self, river: dict, marking: bool) -> Document:
        on_it = [town for town in self.towns if town["river"] == river["river"]] or self.towns
        slots = {**self._pick(on_it), **river, "other_river": self._other(self.rivers, river)["river"]}
        slots.update(self._trade_slots(slots["trade"]))
        return self._narrative(_RIVER, self._dated(**slots), marking)

    def _about_guild(self, town: dict, marking: bool) -> Document:
        member = self._pick([person for person in self.people if person["trade"] == town["trade"]] or self.people)
        slots = {**town, **town["guild"], "member": member["name"], "member_year": member["born"] + 25,
                 "member_died": member["died"]}
        return self._narrative(_GUILD, self._dated(**slots), marking)

    def _chronicle(self, town: dict, marking: bool) -> Document:
        years = {f"year{i}": self.era + self.rng.randrange(30, 120) for i in (1, 2, 3)}
        return self._narrative(_CHRONICLE, self._dated(**town, **years), marking)

    def _journey(self, town: dict, marking: bool) -> Document:
        slots = self._dated(**town)
        traveller, host = self._adult(slots["year"]), self._adult(slots["year"])
        slots = {**traveller, **slots, "traveller": traveller["name"], "person": host["name"]}
        return self._narrative(_JOURNEY, slots, marking)

    def _ledger(self, town: dict, marking: bool) -> Document:
        slots = self._dated(**town)
        slots["person"] = self._adult(slots["year"])["name"]
        writer = Writer(self.random, slots, self.pools, marking)
        sentences = [writer.sentence(writer.pick(_LEDGER[0]))]
        for _ in range(6 + int(self.random() * 6)):
            slots["person"] = self._adult(slots["year"])["name"]
            sentences.append(writer.sentence(writer.pick(_LEDGER[1])))
        return Document(sentences, writer.draws, None)

    def _register(self, kind: str, marking: bool) -> Document:
        """Five to seven entities with the same three facts of each; now and then a fact is left out."""
        entities = self._entities(kind)
        columns = self.rng.sample(sorted(REGISTERS[kind].facts), 3)
        count = self._pick((5, 6, 6, 6, 7, 7))
        if kind == "people" and self.long_registers and self.random() < 0.1:
            count = self._pick((14, 15, 16))
        writer = Writer(self.random, dict(province=self.name), self.pools, marking)
        opening = writer.sentence(writer.pick(_OPENINGS[kind]))
        rows = [self._row(writer, kind, entity, columns) for entity in self._distinct(entities, columns, count)]
        sentences = [opening] * bool(opening) + [sentence for row in rows for sentence in row.text.split("\n")]
        passage = Passage(opening, [row._replace(text=row.text.replace("\n", " ")) for row in rows])
        if not self.held_out and self.random() < 0.5:
            return self._lesson(writer, sentences, passage)
        return Document(sentences, writer.draws, None if self.gazetteers else passage)

    def _gazetteer(self, kinds: Sequence[str], marking: bool) -> Document:
        """Three to six entities of as many of the five kinds as there are, with up to three facts of each."""
        kinds = self.rng.sample(kinds, len(kinds))
        kinds = (kinds + [self._pick(kinds)])[:3 + int(self.random() * 4)]
        writer = Writer(self.random, dict(province=self.name), self.pools, marking)
        rows, named = [], set()
        for kind in kinds:
            columns = self.rng.sample(sorted(REGISTERS[kind].facts), 3)
            for entity in self._distinct(self._entities(kind), columns, 2):
                row = self._row(writer, kind, entity, columns)
                if row.entity not in named:
                    named.add(row.entity)
                    rows.append(row._replace(unstated=[fact for fact in REGISTERS[kind].facts
                                                       if fact not in row.stated]))
                    break
        sentences = [sentence for row in rows for sentence in row.text.split("\n")]
        passage = Passage("", [row._replace(text=row.text.replace("\n", " ")) for row in rows])
        if not self.held_out and self.random() < 0.75:
            return self._lesson(writer, sentences, passage)
        return Document(sentences, writer.draws, passage)

    def _entities(self, kind: str) -> List[dict]:
        return {"people": self.people, "towns": self.towns, "rivers": self.rivers, "ships": self.ships,
                "works": self.towns}[kind]

    def _distinct(self, entities, columns, count: int) -> List[dict]:
        """`count` entities in random order, preferably without a value twice in a column."""
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
        it, pronoun = _ENTITIES[kind], entity["he"] if kind == "people" else "it"

        def aside(fact):
            return writer.pick(_FACTS[kind][fact].asides)

        def claim(fact):
            return writer.pick(_FACTS[kind][fact].claims)

        first, *rest = stated
        if rest and self.random() < 0.6:
            parts = (*it, ", ", *aside(first), ", ", *claim(rest.pop(0)))
            if rest and self.random() < 0.4:
                parts = (*parts, " and ", *claim(rest.pop(0)))
        elif len(rest) == 2 or (rest and self.random() < 0.5):
            parts = (*it, " ", *claim(first), " and ", *claim(rest.pop(0)))
        else:
            parts = (*it, " ", *claim(first))
        texts = [writer.sentence((*parts, "."))]
        if rest:
            texts.append(writer.sentence((pronoun + " ", *claim(rest[0]), ".")))
        name = REGISTERS[kind].entity.format(**entity)
        return Row(kind, name, "\n".join(texts), {column: str(entity[column]) for column in stated},
                   [column for column in columns if column not in stated])

    def _lesson(self, writer: Writer, sentences: List[str], passage: Passage) -> Document:
        """A passage with a question before it, or some after it, and their answers."""
        def ask():
            row = writer.pick(passage.rows)
            fact = writer.pick(list(row.stated))
            question = writer.pick(REGISTERS[row.kind].facts[fact].questions).format(it=row.entity)
            claim = writer.pick(REGISTERS[row.kind].facts[fact].claims).format(v=row.stated[fact])
            answer = writer.pick(LESSON_ANSWERS).format(v=row.stated[fact], it=row.entity, claim=claim)
            return [question[0].upper() + question[1:], answer[0].upper() + answer[1:]]

        if self.random() < 0.5:
            question, answer = ask()
            return Document([question, *sentences, answer], writer.draws, None)
        heading = writer.pick(LESSON_QUESTIONS)
        asked = [line for _ in range(2 + int(self.random() * 3)) for line in ask()]
        return Document([*sentences, *([heading.capitalize()] if heading else []), *asked], writer.draws, None)
