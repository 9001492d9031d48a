"""What the stories are made of: wordings of openings, turns and endings, and eight plots.

Slots: {A} is the hero with {he} {his} {him} and {He} {His}; {B} the friend, introduced once as
{friend} ("Ben" or "Ben the owl"), with {bhe} {bhis} {bhim} and {bHe} {bHis}; {kind} {trait} {home}
describe the hero, {When} is a day. The rest is named by the plot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.data.tinyworld.draw import Phrasings, either

ANIMALS = either(
    """rabbit | fox | bear | mouse | cat | dog | duck | frog | owl | squirrel | hedgehog | turtle |
    horse | lion | tiger | elephant | monkey | penguin | goat | deer | pig | snail | bee | dragon"""
)
TRAITS = either("kind | brave | curious | cheerful | clever | quiet | shy | gentle")
HOMES = (
    "by the sea",
    "near a forest",
    "in a small village",
    "on a farm",
    "at the foot of a hill",
    "near a river",
    "in a big town",
    "by a blue lake",
)
COLORS = either("red | blue | green | yellow | white | purple | gray | pink | brown | black")
WEATHERS = either("sunny | windy | rainy | cold | warm | foggy")
TIMES = either("morning | afternoon | day")
SPOTS = (
    "under the bed",
    "behind the door",
    "in the garden",
    "under a bush",
    "behind the barn",
    "in a basket",
    "next to the well",
    "under the table",
    "in the tall grass",
    "beside the pond",
    "behind a big stone",
    "under the old bridge",
)

OPENINGS = (
    "{A} was a {trait} little {kind} who lived {home}.",
    "Once upon a time, there was a {trait} {kind} named {A}. {He} lived {home}.",
    "There once was a little {kind} named {A} who lived {home}. {He} was very {trait}.",
    "A {trait} {kind} named {A} lived {home}.",
)
WHEN = (
    "One {weather} {time}",
    "On a {weather} {time}",
)
FRIEND_COMES = (
    "Then {friend} came by and asked what was wrong.",
    'Soon {friend} saw {him} and asked, "Can I help you?"',
    "{His} friend {friend} heard about it and came at once.",
    "Just then, {friend} walked up and smiled at {him}.",
)
SAD = (
    "{A} felt very sad.",
    "{A} sat down and began to cry.",
    "{A} did not know what to do.",
    '"Oh no!" said {A}.',
)
THANKS = (
    '"Thank you, {B}!" said {A}.',
    "{A} gave {B} a big hug.",
    '"You are a true friend, {B}," said {A}.',
    '{A} smiled and said, "Thank you so much!"',
)
ENDINGS = (
    "They laughed and played until the sun went down.",
    "That night, {A} went to bed happy.",
    "From that day on, {A} and {B} were the best of friends.",
    "And so the day had a happy end.",
    "They both knew that things are easier with a friend.",
    "Later, they sat side by side and looked at the stars.",
)


@dataclass(frozen=True)
class Query:
    """A question that a plot answers; ``rivals`` names the slots whose fillers are wrong."""

    asks: Phrasings
    say: str
    answer: str
    rivals: tuple[str, ...]


@dataclass(frozen=True)
class Plot:
    """Sentences in order, each with its wordings; the fillers of its slots; what one may ask."""

    name: str
    slots: dict[str, Sequence[str]]
    sentences: tuple[tuple[str, ...], ...]
    queries: tuple[Query, ...]


def _who(verb: str, answer: str) -> Query:
    return Query(
        Phrasings(
            train=(
                f"Who {verb}?",
                f"Tell me who {verb}.",
                f"Do you know who {verb}?",
                f"In this story, who {verb}?",
            ),
            val=(f"Can you tell me who {verb}?", f"In the story, who {verb}?"),
        ),
        say=f"It was {{{answer}}}.",
        answer=f"{{{answer}}}",
        rivals=("A", "B"),
    )


def _what(question: str, say: str, slot: str) -> Query:
    """``question`` continues after "What" or "what", for example "color was the kite"."""
    return Query(
        Phrasings(
            train=(
                f"What {question}?",
                f"Tell me: what {question}?",
                f"In this story, what {question}?",
            ),
            val=(f"In the story, what {question}?", f"Please tell me: what {question}?"),
        ),
        say=say,
        answer=f"{{{slot}}}",
        rivals=(slot,),
    )


def _where(question: str, slot: str) -> Query:
    return Query(
        Phrasings(
            train=(
                f"Where {question}?",
                f"Tell me: where {question}?",
                f"In this story, where {question}?",
            ),
            val=(f"In the story, where {question}?", f"Please tell me: where {question}?"),
        ),
        say=f"It was {{{slot}}}.",
        answer=f"{{{slot}}}",
        rivals=(slot,),
    )


PLOTS = (
    Plot(
        "lost",
        {
            "color": COLORS,
            "toy": either("ball | kite | hat | drum | boat | doll | book | scarf | bell | cup"),
            "spot": SPOTS,
        },
        (
            (
                "{A} had a {color} {toy} that {he} loved very much.",
                "The thing {he} loved most was a {color} {toy}.",
                "{His} grandmother had given {him} a {color} {toy}.",
            ),
            (
                "{When}, the {toy} was gone.",
                "{When}, {A} could not find the {toy}.",
                "{When}, {he} lost the {toy}.",
            ),
            SAD,
            FRIEND_COMES,
            (
                "They looked and looked, and at last {B} found the {color} {toy} {spot}.",
                "They looked everywhere. Then {B} saw the {color} {toy} {spot}.",
                'After a while, {B} called, "Here it is!" The {color} {toy} was {spot}.',
            ),
            THANKS,
        ),
        (
            _who("found the {toy}", "B"),
            _who("lost the {toy}", "A"),
            _what("color was the {toy}", "It was {color}.", "color"),
            _where("was the {toy}", "spot"),
            _what("did {A} lose", "{He} lost a {color} {toy}.", "toy"),
        ),
    ),
    Plot(
        "stuck",
        {
            "color": COLORS,
            "toy": ("kite", "ball", "balloon", "hat", "paper plane", "scarf"),
            "top": (
                "in an old oak tree",
                "in a tall pine tree",
                "in the apple tree",
                "on the roof of the barn",
                "on top of the tower",
                "on a high wall",
            ),
            "means": ("a ladder", "a long stick", "a strong rope", "a fishing rod"),
        },
        (
            (
                "{When}, {A} went outside with a {color} {toy}.",
                "{When}, {A} was playing with a {color} {toy}.",
                "{When}, {A} went for a walk with {his} {color} {toy}.",
            ),
            (
                "A strong wind came, and the {toy} got stuck {top}.",
                "The wind took the {toy}, and soon it was stuck {top}.",
                "All at once the {toy} flew away and got stuck {top}.",
            ),
            (
                "{A} jumped and jumped, but it was too high.",
                "{A} could not reach it.",
                "It was much too high for {A}.",
            ),
            FRIEND_COMES,
            (
                "{B} went home and came back with {means}.",
                "{B} had an idea and brought {means}.",
                '"I know what we need," said {B}, and went to get {means}.',
            ),
            (
                "Soon the {toy} was down again.",
                "With it, {bhe} got the {toy} down.",
                "In no time, {A} had the {toy} back.",
            ),
            THANKS,
        ),
        (
            _who("brought {means}", "B"),
            _who("had a {color} {toy}", "A"),
            _what("color was the {toy}", "It was {color}.", "color"),
            _where("was the {toy} stuck", "top"),
            _what("did {B} bring", "{bHe} brought {means}.", "means"),
        ),
    ),
    Plot(
        "baking",
        {
            "dish": (
                "an apple pie",
                "a honey cake",
                "a plum cake",
                "a cherry pie",
                "a carrot cake",
                "pancakes",
                "a loaf of bread",
                "a berry cake",
            ),
            "guest": ("mother", "father", "grandmother", "grandfather", "sister", "brother"),
            "missing": ("flour", "milk", "sugar", "butter", "salt", "cream"),
        },
        (
            (
                "{When}, {A} wanted to make {dish} for {his} {guest}.",
                "{When}, {he} began to make {dish} for {his} {guest}.",
                "It was the birthday of {his} {guest}, so {A} wanted to make {dish}.",
            ),
            (
                "But there was no {missing} in the kitchen.",
                "But {he} had no {missing} left.",
                "But when {he} looked for {missing}, there was none.",
            ),
            (
                "So {he} went to see {friend}.",
                "{He} ran to the house of {friend}.",
                "Then {he} thought of {friend} and knocked on the door.",
            ),
            (
                '"Of course I can help," said {B}, and gave {him} the {missing}.',
                "{B} was glad to help and gave {him} a lot of {missing}.",
                '"Take all you need," said {B}, and gave {him} the {missing}.',
            ),
            (
                "They worked side by side, and soon the kitchen smelled wonderful.",
                "Together they mixed and stirred until all was done.",
                "An hour later, everything was ready.",
            ),
            (
                "{A}'s {guest} loved it.",
                "It tasted so good that {his} {guest} asked for more.",
                '{His} {guest} said, "This is the best I ever had!"',
            ),
            THANKS,
        ),
        (
            _who("gave the {missing} to {A}", "B"),
            _what("did {A} want to make", "{He} wanted to make {dish}.", "dish"),
            _what("was missing in the kitchen", "There was no {missing}.", "missing"),
            _who("wanted to make {dish}", "A"),
        ),
    ),
    Plot(
        "little one",
        {
            "young": ("kitten", "puppy", "duckling", "lamb", "chick", "piglet", "foal", "calf"),
            "state": ("lost", "cold", "hungry", "tired", "wet", "afraid"),
            "spot": SPOTS,
            "care": ("a warm blanket", "some milk", "some bread", "a soft bed", "some water"),
        },
        (
            (
                "{When}, {A} heard a small sound {spot}.",
                "{When}, {he} heard somebody cry {spot}.",
                "{When}, something moved {spot}.",
            ),
            (
                "It was a little {young}, and it was {state}.",
                "There sat a tiny {young}. It looked very {state}.",
                "{A} looked and saw a {young}. The poor thing was {state}.",
            ),
            (
                '"Do not worry," said {A}. "I will help you."',
                '"Where is your mother?" asked {A}.',
                "{A} took it up with care.",
            ),
            (
                "{He} called {friend}, who brought {care}.",
                "{His} friend {friend} came and brought {care}.",
                "Together with {friend}, who had {care}, {he} sat down beside it.",
            ),
            (
                "When the {young} felt better, they took it home to its mother.",
                "Then they found its mother, and the {young} jumped with joy.",
                "By the evening, the {young} was back with its mother.",
            ),
            (
                '"Well done," said {B}.',
                '"You have a good heart," said {B} to {A}.',
                "{A} and {B} were very proud.",
            ),
        ),
        (
            _what("did {A} find", "{He} found a {young}.", "young"),
            _where("was the {young}", "spot"),
            _what("did {B} bring", "{bHe} brought {care}.", "care"),
            _who("found the {young}", "A"),
            _who("brought {care}", "B"),
        ),
    ),
    Plot(
        "afraid",
        {
            "fear": (
                "the dark",
                "deep water",
                "thunder",
                "high places",
                "loud noises",
                "the old bridge",
                "big dogs",
                "the night",
            ),
            "gift": (
                "a small lamp",
                "a lucky stone",
                "a silver bell",
                "a warm scarf",
                "a golden button",
                "a little song",
            ),
        },
        (
            (
                "There was only one problem: {he} was afraid of {fear}.",
                "But {A} was afraid of {fear}.",
                "Nobody knew that {A} was afraid of {fear}.",
            ),
            (
                "{When}, {he} told {friend} about it.",
                "{When}, {friend} asked {him} why {he} looked so sad.",
                "{When}, {he} talked with {friend}.",
            ),
            (
                '"I was afraid once, too," said {B}.',
                '"Everybody is afraid of something," said {B}.',
                "{B} did not laugh at {him}.",
            ),
            (
                "Then {B} gave {him} {gift}.",
                '"This will help you," said {B}, and gave {him} {gift}.',
                "The next day, {B} gave {him} {gift}.",
            ),
            (
                "Step by step, {A} learned to be brave.",
                "{A} took a deep breath and tried again.",
                "They practiced together until it was easy.",
            ),
            (
                "Soon {A} was not afraid of {fear} anymore.",
                'In the end {A} said, "I am not afraid of {fear} now!"',
                "After that, {fear} did not seem so bad.",
            ),
        ),
        (
            _what("was {A} afraid of", "{He} was afraid of {fear}.", "fear"),
            _what("did {B} give to {A}", "{bHe} gave {him} {gift}.", "gift"),
            _who("was afraid of {fear}", "A"),
            _who("gave {gift} to {A}", "B"),
        ),
    ),
    Plot(
        "building",
        {
            "thing": (
                "a tree house",
                "a small boat",
                "a raft",
                "a bird house",
                "a swing",
                "a stone bridge",
                "a little tower",
                "a wooden cart",
            ),
            "trouble": ("the wind", "the rain", "a storm", "a big wave", "a falling branch"),
            "parts": ("wood", "rope", "nails", "stones", "tools", "paint"),
        },
        (
            (
                "{When}, {A} began to build {thing}.",
                "{When}, {he} had a plan: {he} wanted to build {thing}.",
                "More than anything, {A} wanted to build {thing}.",
            ),
            (
                "{He} worked hard, but {trouble} broke it.",
                "It was almost ready when {trouble} broke it.",
                "But then came trouble, for {trouble} broke it.",
            ),
            SAD,
            FRIEND_COMES,
            (
                "{B} brought {parts}, and they began again.",
                '"I have {parts} at home," said {B}. "Let us try again."',
                "{B} came back with {parts}, and they went to work.",
            ),
            (
                "This time it was strong and did not break.",
                "Two days later, it was better than before.",
                "They did not stop until it was done.",
            ),
            THANKS,
        ),
        (
            _what("did {A} build", "{He} built {thing}.", "thing"),
            _what("broke it", "It was {trouble}.", "trouble"),
            _what("did {B} have", "{bHe} had {parts}.", "parts"),
            _who("had {parts}", "B"),
            _who("wanted to build {thing}", "A"),
        ),
    ),
    Plot(
        "sharing",
        {
            "food": (
                "bread",
                "cheese",
                "soup",
                "cake",
                "nuts",
                "berries",
                "apples",
                "pears",
            ),
            "where": (
                "on a green hill",
                "on a bench in the park",
                "under a big tree",
                "at the lake",
                "at the market",
                "by the river",
            ),
            "present": (
                "a white feather",
                "a pretty shell",
                "a red flower",
                "a wooden whistle",
                "a blue button",
                "a round stone",
            ),
        },
        (
            (
                "{When}, {A} sat {where} and ate some {food}.",
                "{When}, {he} went out with a basket full of {food} and rested {where}.",
                "{When}, {A} had {food} for lunch {where}.",
            ),
            (
                "Then {friend} came along. {B} had nothing to eat.",
                "There {he} met {friend}, who was very hungry.",
                "Soon {friend} sat down beside {him} and looked hungry.",
            ),
            (
                '"We can share," said {A}, and gave {bhim} half of the {food}.',
                "{A} did not think twice and shared the {food} with {bhim}.",
                '"Please have some {food}," said {A}.',
            ),
            (
                '"How good that is!" said {B}.',
                "They ate and talked for a long time.",
                "{B} was so happy that {bhe} began to sing.",
            ),
            (
                "The next day, {B} gave {him} {present}.",
                "To say thank you, {B} gave {him} {present}.",
                "Before {bhe} went home, {B} gave {him} {present}.",
            ),
        ),
        (
            _who("was hungry", "B"),
            _who("shared the {food}", "A"),
            _what("did {A} share", "{He} shared the {food}.", "food"),
            _what("did {B} give to {A}", "{bHe} gave {him} {present}.", "present"),
            _where("did they eat", "where"),
        ),
    ),
    Plot(
        "visit",
        {
            "gift": (
                "hot soup",
                "yellow flowers",
                "a good book",
                "sweet oranges",
                "honey tea",
                "a funny picture",
            ),
            "obstacle": ("snow", "rain", "mud", "fog", "ice", "wind"),
            "way": ("forest", "valley", "field", "village", "park", "hills"),
        },
        (
            (
                "{When}, {A} heard that {friend} was ill.",
                "{When}, {his} friend {friend} was ill and stayed in bed.",
                "{When}, {he} learned that {friend} did not feel well.",
            ),
            (
                '"I will bring {bhim} {gift}," said {A}.',
                "{A} wanted to bring {bhim} {gift}.",
                "{A} packed {gift} in a bag for {bhim}.",
            ),
            (
                "The way went through the {way}, and there was {obstacle} everywhere.",
                "{He} had to go through the {way}, where the {obstacle} made it hard to walk.",
                "In the {way}, the {obstacle} was so bad that {he} almost turned back.",
            ),
            (
                "But {A} did not give up.",
                "But {he} went on, step by step.",
                "But {he} thought of {B} and walked on.",
            ),
            (
                'When {he} knocked on the door, {B} was so glad. "You came!" said {B}.',
                "At last {he} came to the house, and {B} smiled from ear to ear.",
                '"What a nice surprise!" said {B} when {A} came in.',
            ),
            (
                "The next day, {B} felt much better.",
                "Soon {B} was well again.",
                "{B} felt better right away.",
            ),
        ),
        (
            _who("was ill", "B"),
            _who("went to see {B}", "A"),
            _what("did {A} bring", "{He} brought {gift}.", "gift"),
            _what("was everywhere on the way", "It was {obstacle}.", "obstacle"),
        ),
    ),
)
