"""The true facts of tinyworld, as plain tables: subject to answer, one answer each.

Left out are countries whose capital is disputed, words with two common opposites (light: dark or
heavy), and whatever else people might answer in two ways. A subject answered twice does not import.
"""

from __future__ import annotations


def _pairs(text: str) -> dict[str, str]:
    """``a:b, c:d`` as a dict; commas separate, whitespace around entries does not count."""
    table: dict[str, str] = {}
    for entry in text.split(","):
        subject, answer = " ".join(entry.split()).split(":")
        assert subject not in table, f"tinyworld: {subject} is answered twice"
        table[subject] = answer
    return table


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# country: capital, by continent
_EUROPE = _pairs(
    """France:Paris, Italy:Rome, Spain:Madrid, Portugal:Lisbon, Germany:Berlin, Austria:Vienna,
    Poland:Warsaw, Hungary:Budapest, Greece:Athens, Norway:Oslo, Sweden:Stockholm, Finland:Helsinki,
    Denmark:Copenhagen, Iceland:Reykjavik, Ireland:Dublin, Belgium:Brussels, Bulgaria:Sofia,
    Romania:Bucharest, Croatia:Zagreb, Serbia:Belgrade, England:London, Ukraine:Kyiv,
    Switzerland:Bern, the Netherlands:Amsterdam, Scotland:Edinburgh, Wales:Cardiff,
    the Czech Republic:Prague, Slovakia:Bratislava, Estonia:Tallinn, Latvia:Riga,
    Lithuania:Vilnius"""
)
_ASIA = _pairs(
    """Japan:Tokyo, China:Beijing, India:New Delhi, Nepal:Kathmandu, Thailand:Bangkok,
    Vietnam:Hanoi, Mongolia:Ulaanbaatar, South Korea:Seoul, Iran:Tehran, Iraq:Baghdad, Qatar:Doha,
    Oman:Muscat, Pakistan:Islamabad, Saudi Arabia:Riyadh, the Philippines:Manila"""
)
_AFRICA = _pairs(
    """Egypt:Cairo, Kenya:Nairobi, Morocco:Rabat, Ghana:Accra, Senegal:Dakar, Uganda:Kampala,
    Tunisia:Tunis, Algeria:Algiers, Nigeria:Abuja"""
)
_NORTH_AMERICA = _pairs(
    "Canada:Ottawa, Mexico:Mexico City, Cuba:Havana, Jamaica:Kingston, the United States:Washington"
)
_SOUTH_AMERICA = _pairs(
    """Brazil:Brasilia, Argentina:Buenos Aires, Chile:Santiago, Peru:Lima, Colombia:Bogota,
    Ecuador:Quito, Uruguay:Montevideo"""
)
_OCEANIA = _pairs("Australia:Canberra, New Zealand:Wellington, Fiji:Suva")

_TWO_CONTINENTS = _pairs("Russia:Moscow, Turkey:Ankara")

CAPITALS = {
    **_EUROPE,
    **_ASIA,
    **_AFRICA,
    **_NORTH_AMERICA,
    **_SOUTH_AMERICA,
    **_OCEANIA,
    **_TWO_CONTINENTS,
}
CONTINENTS = {
    country: continent
    for continent, countries in (
        ("Europe", _EUROPE),
        ("Asia", _ASIA),
        ("Africa", _AFRICA),
        ("North America", _NORTH_AMERICA),
        ("South America", _SOUTH_AMERICA),
        ("Oceania", _OCEANIA),
    )
    for country in countries
}

_OPPOSITE_PAIRS = _pairs(
    """big:small, hot:cold, fast:slow, up:down, in:out, on:off, day:night, old:young, happy:sad,
    dark:bright, good:bad, tall:short, heavy:light, wide:narrow, thick:thin, hard:soft, full:empty,
    open:closed, clean:dirty, wet:dry, rich:poor, strong:weak, loud:quiet, near:far, high:low,
    early:late, easy:difficult, left:right, first:last, push:pull, give:take, buy:sell, win:lose,
    begin:end, love:hate, laugh:cry, come:go, always:never, before:after, above:below,
    inside:outside, front:back, top:bottom, north:south, east:west, summer:winter,
    morning:evening, more:less, many:few, sweet:sour, smooth:rough, deep:shallow, awake:asleep,
    rise:fall, float:sink, lost:found, question:answer, friend:enemy, beautiful:ugly,
    polite:rude, safe:dangerous, same:different, remember:forget, true:false,
    brave:cowardly"""
)
OPPOSITES = _OPPOSITE_PAIRS | {b: a for a, b in _OPPOSITE_PAIRS.items()}

SOUNDS = _pairs(
    """dog:woof, cat:meow, cow:moo, sheep:baa, duck:quack, pig:oink, horse:neigh, lion:roar,
    frog:croak, owl:hoot, bee:buzz, snake:hiss, mouse:squeak, hen:cluck, goose:honk, crow:caw,
    dove:coo, turkey:gobble, bear:growl, wolf:howl, bird:tweet"""
)
YOUNG = _pairs(
    """dog:puppy, cat:kitten, cow:calf, sheep:lamb, duck:duckling, pig:piglet, horse:foal, lion:cub,
    frog:tadpole, owl:owlet, goose:gosling, hen:chick, bear:cub, goat:kid, deer:fawn, kangaroo:joey,
    swan:cygnet, eagle:eaglet, wolf:pup, seal:pup, tiger:cub, elephant:calf, whale:calf"""
)
LEGS = _pairs(
    """dog:four, cat:four, cow:four, sheep:four, horse:four, pig:four, lion:four, mouse:four,
    frog:four, bear:four, rabbit:four, fox:four, goat:four, bird:two, duck:two, hen:two, owl:two,
    goose:two, ant:six, bee:six, butterfly:six, beetle:six, spider:eight, crab:ten, snake:no,
    fish:no"""
)
HOMES = _pairs(
    """bee:hive, bird:nest, horse:stable, pig:sty, spider:web, bear:cave, rabbit:burrow, fox:den,
    hen:coop, mouse:hole, beaver:lodge, dog:kennel, cow:barn, squirrel:tree, frog:pond"""
)

COLORS = _pairs(
    """a banana:yellow, grass:green, the sky:blue, snow:white, coal:black, a tomato:red,
    a carrot:orange, a lemon:yellow, a strawberry:red, a leaf:green, milk:white, the sun:yellow,
    a pumpkin:orange, a frog:green, a ruby:red, chocolate:brown, a cherry:red, a crow:black,
    a flamingo:pink, a cucumber:green, an elephant:gray, salt:white, the sea:blue, a plum:purple,
    a polar bear:white, a pea:green, a mouse:gray, corn:yellow"""
)
KINDS = _pairs(
    """an apple:fruit, a banana:fruit, a pear:fruit, a cherry:fruit, a plum:fruit, a lemon:fruit,
    a carrot:vegetable, a potato:vegetable, an onion:vegetable, a cabbage:vegetable,
    a rose:flower, a tulip:flower, a daisy:flower, an oak:tree, a pine:tree, a birch:tree,
    a robin:bird, an owl:bird, an eagle:bird, a swan:bird, a crow:bird, an ant:insect, a bee:insect,
    a beetle:insect, a butterfly:insect, a hammer:tool, a saw:tool, a drill:tool,
    a piano:instrument, a drum:instrument, a flute:instrument, a violin:instrument,
    a trumpet:instrument, a car:vehicle, a bus:vehicle, a train:vehicle, a truck:vehicle,
    a shark:fish, a salmon:fish, a trout:fish, a chair:piece of furniture,
    a table:piece of furniture, a sofa:piece of furniture, a circle:shape, a square:shape,
    a triangle:shape, tea:drink, milk:drink, juice:drink, red:color, blue:color, Monday:day,
    Friday:day, May:month, July:month, France:country, Japan:country, Kenya:country, Paris:city,
    London:city, Tokyo:city"""
)
PLURALS = _pairs(
    """cat:cats, dog:dogs, bird:birds, book:books, tree:trees, child:children, mouse:mice,
    foot:feet, tooth:teeth, man:men, woman:women, goose:geese, sheep:sheep, deer:deer, leaf:leaves,
    knife:knives, wolf:wolves, box:boxes, fox:foxes, bus:buses, baby:babies, city:cities,
    cherry:cherries, potato:potatoes, tomato:tomatoes, loaf:loaves, dish:dishes, ox:oxen"""
)
AMOUNTS = _pairs(
    """days in a week:seven, months in a year:twelve, hours in a day:twenty-four, minutes in an
    hour:sixty, seconds in a minute:sixty, wheels on a bicycle:two, wheels on a car:four, sides on
    a triangle:three, sides on a square:four, fingers on one hand:five, seasons in a year:four,
    continents on Earth:seven, letters in the alphabet:twenty-six, colors in the rainbow:seven,
    weeks in a year:fifty-two, toes on one foot:five, eggs in a dozen:twelve, arms on an
    octopus:eight"""
)
USES = _pairs(
    """cut paper:scissors, write a letter:a pen, eat soup:a spoon, open a lock:a key,
    sweep the floor:a broom, stay dry in the rain:an umbrella, tell the time:a clock,
    hit a nail:a hammer, sew a button:a needle, wash your hands:soap, dry your hands:a towel,
    find the way:a map, climb up high:a ladder, drink tea:a cup, see in the dark:a lamp,
    cut bread:a knife, brush your hair:a hairbrush, catch fish:a net, cut wood:a saw"""
)
JOBS = _pairs(
    """bakes bread:a baker, helps sick people:a doctor, grows food:a farmer, teaches children:a
    teacher, flies a plane:a pilot, puts out fires:a firefighter, catches fish:a fisherman, cooks
    meals:a cook, paints pictures:a painter, sings songs:a singer, builds houses:a builder, cuts
    hair:a barber, writes books:a writer, fixes teeth:a dentist, brings letters:a mail carrier,
    makes clothes:a tailor, drives a bus:a bus driver, sails a ship:a sailor, helps sick animals:a
    vet, bakes cakes:a baker"""
)
SOURCES = _pairs(
    """milk:a cow, an egg:a hen, honey:bees, wool:a sheep, an apple:an apple tree, bread:flour,
    cheese:milk, a raisin:a grape, paper:wood, butter:milk, flour:wheat, rain:clouds, wood:trees"""
)

DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words(
    "January February March April May June July August September October November December"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"

NUMBER_WORDS = _words(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen twenty"""
)

# Words that can be spelled and whose letters can be counted.
WORDS = _words(
    """apple baby ball banana barn basket bear bed bee bell bird blanket boat book box bread bridge
    broom brother brown bus butter butterfly button cake candle car carrot castle cat chair cheese
    cherry chicken child circle clock cloud coat color cow cup dance day deer dinner dog door
    dragon drum duck eagle ear egg elephant evening eye farm feather fence fire fish flower fly
    foot forest fox friend frog fruit garden giraffe goat gold goose grass green guitar hammer hand
    happy hat hello hen hill home honey horse house island jacket juice jump key king kitchen kite
    kitten ladder lake lamp leaf lemon letter library light lion little lunch map meadow milk
    mirror monkey moon morning mother mountain mouse mushroom music nail needle nest night nose
    number onion orange owl paper parrot pencil penguin piano picture pie pig pillow planet plum
    pocket pond potato pumpkin puppy purple queen rabbit rain rainbow red ring river robin rock
    roof room rose ruby sand school scissors sea seed sheep shell ship shoe silver sister sky snail
    snow sock song soup spider spoon spring square squirrel star stone story strawberry street
    summer sun swan table tail tea teacher tiger tomato tooth tower town train tree triangle truck
    turtle umbrella village violin water wheel whistle white wind window winter wood wool word
    yellow zebra"""
)
