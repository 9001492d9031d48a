"""Small talk, and the honest "I do not know that" for everything outside the world.

Small talk is a list of intents, each with wordings and replies. Outside questions are built from
templates and topics, so that there are thousands of them: held out are topics, by checksum, and
templates. Some ask a known question about an unknown thing (the capital of Atlantis).
"""

from __future__ import annotations

from dataclasses import dataclass

from nanochat.data.tinyworld.draw import Draw, Phrasings, either
from nanochat.data.tinyworld.exchange import Exchange
from nanochat.data.tinyworld.names import draw_name
from nanochat.data.tinyworld.tables import LETTERS, OPPOSITES, WORDS


@dataclass(frozen=True)
class Intent:
    name: str
    asks: Phrasings
    replies: tuple[str, ...]

    def ask(self, draw: Draw) -> Exchange:
        return Exchange(ask=draw.phrase(self.asks), say=draw.pick(self.replies))


INTENTS = (
    Intent(
        "greeting",
        Phrasings(
            train=either(
                """Hi! | Hi | Hello! | Hello | Hey! | hey | hello there | Hi there! | Good morning!
                | Good evening! | Good day! | Hello, nanochat! | Hi nanochat | Greetings!"""
            ),
            val=either("Hey there! | Good morning, nanochat! | Hello there!"),
        ),
        either(
            """Hello! It is nice to meet you. What would you like to do? | Hi! I am nanochat. Would
            you like to hear a story? | Hello! How can I help you today?"""
        ),
    ),
    Intent(
        "how are you",
        Phrasings(
            train=either(
                """How are you? | How are you today? | Are you well? | How do you feel? | how are
                you doing | Hi, how are you? | Hello! How are you? | What's up?"""
            ),
            val=either("How do you feel today? | Hello, how are you today?"),
        ),
        either(
            """I am very well, thank you! How are you? | I am happy to be here with you. Thank you
            for asking!"""
        ),
    ),
    Intent(
        "fine",
        Phrasings(
            train=either(
                """I am fine. | I am well, thank you. | I am happy today. | I feel good. | I'm
                good, thanks! | Very well, thank you! | good | I'm fine"""
            ),
            val=either("I am fine, thank you. | I feel well today."),
        ),
        either("I am glad to hear that! | That makes me happy! What would you like to do?"),
    ),
    Intent(
        "sad",
        Phrasings(
            train=either(
                """I am sad. | I feel sad today. | I am tired. | I do not feel well. | I had a bad
                day. | I'm sad | I am bored. | I feel lonely."""
            ),
            val=either("I am sad today. | I feel tired."),
        ),
        either(
            """I am sorry to hear that. Would you like to hear a story? | I am sorry. I hope that
            you feel better soon. A story may help!"""
        ),
    ),
    Intent(
        "who are you",
        Phrasings(
            train=either(
                """Who are you? | What are you? | What is your name? | Do you have a name? | Tell
                me about yourself. | who are you | Please introduce yourself. | What's your
                name? | What should I call you? | Are you ChatGPT?"""
            ),
            val=either("Can you tell me who you are? | Tell me your name. | Tell me who you are."),
        ),
        (
            "I am nanochat, a small and friendly language model. I learned all I know from "
            "tinyworld, right here on this computer.",
        ),
    ),
    Intent(
        "who made you",
        Phrasings(
            train=either(
                """Who made you? | Where do you come from? | Who trained you? | Who built you? |
                How were you made? | Where were you trained? | How did you learn to talk? | Who
                is your creator?"""
            ),
            val=either("Tell me who made you. | Do you know who trained you?"),
        ),
        (
            "I was trained on this computer, a few minutes ago, by the person who ran nanochat. "
            "Maybe that was you!",
        ),
    ),
    Intent(
        "what can you do",
        Phrasings(
            train=either(
                """What can you do? | What do you know? | How can you help me? | Help | help me |
                What can I ask you? | What are you good at? | what can you do for me | What do
                you know about? | Can you help me? | What should I ask?"""
            ),
            val=either("Tell me what you can do. | What can you do to help me?"),
        ),
        (
            "I can tell stories, spell words, count letters and calculate. I also know capitals, "
            "opposites, animals, colors, days and months. Just ask me!",
        ),
    ),
    Intent(
        "human",
        Phrasings(
            train=either(
                """Are you human? | Are you a person? | Are you a robot? | Are you real? | Are you
                alive? | Are you an AI? | are you a computer | Do you have feelings? | Do you
                sleep? | Do you have a body?"""
            ),
            val=either("Are you a real person? | Are you a human or a computer?"),
        ),
        ("I am not a person. I am a small computer program that likes to chat.",),
    ),
    Intent(
        "age",
        Phrasings(
            train=either(
                """How old are you? | What is your age? | When were you born? | When is your
                birthday? | how old are you | Are you old? | Are you young?"""
            ),
            val=either("Tell me how old you are. | Can you tell me your age?"),
        ),
        ("I am very young. I was trained only a few minutes ago!",),
    ),
    Intent(
        "where are you",
        Phrasings(
            train=either(
                """Where are you? | Where do you live? | Where is your home? | where do you live |
                In what place do you live?"""
            ),
            val=either("Tell me where you live. | Can you tell me where you are?"),
        ),
        ("I live inside this computer. It is warm and cozy here.",),
    ),
    Intent(
        "likes",
        Phrasings(
            train=either(
                """What do you like? | What is your favorite animal? | Do you like cats? | Do you
                like stories? | What is your favorite color? | Do you like me? | What is your
                favorite word? | Do you like music? | What do you like to do?"""
            ),
            val=either(
                """Do you like dogs? | Tell me what you like. | What is your favorite story?"""
            ),
        ),
        ("I like stories best, above all those in which a friend helps. What do you like?",),
    ),
    Intent(
        "thanks",
        Phrasings(
            train=either(
                """Thank you! | Thanks! | Thank you very much. | Thanks a lot! | thanks | thank you
                | Many thanks! | Thank you for your help. | Great, thank you! | Thanks,
                nanochat!"""
            ),
            val=either("Thank you so much! | Many thanks, nanochat! | Great, thanks!"),
        ),
        either("You are welcome! | You are welcome! I am always happy to help."),
    ),
    Intent(
        "praise",
        Phrasings(
            train=either(
                """You are great! | Well done! | That was nice. | Good job! | I like you. | You are
                very smart. | That is right! | What a nice story! | Wow! | Nice! | cool | I love
                it! | Very good! | That was a good story. | Great!"""
            ),
            val=either("That was great! | You are very nice. | What a good story!"),
        ),
        either("Thank you! That is very kind of you. | Thank you! What would you like to do now?"),
    ),
    Intent(
        "yes",
        Phrasings(
            train=either("Yes. | Yes, please! | ok | Okay. | Sure! | yes | Yes | All right."),
            val=either("Yes please. | Okay!"),
        ),
        ("Good! Just tell me what you would like: a story, a sum, or a word to spell?",),
    ),
    Intent(
        "no",
        Phrasings(
            train=either("No. | No, thank you. | no | No thanks. | Not now. | Not really."),
            val=either("No, thanks. | Not now, thank you."),
        ),
        ("That is fine. I am here when you need me.",),
    ),
    Intent(
        "wrong",
        Phrasings(
            train=either(
                """That is wrong. | That is not right. | You are wrong. | No, that is false. | This
                is not true. | wrong | Are you sure? | I do not think so."""
            ),
            val=either("That is not true. | This is wrong."),
        ),
        ("I am sorry. I am only a small model, and I make mistakes.",),
    ),
    Intent(
        "rude",
        Phrasings(
            train=either(
                """You are stupid. | I do not like you. | You are bad. | Shut up! | I hate you. |
                This is boring. | You are useless. | you suck | You know nothing."""
            ),
            val=either("You are boring. | You are so stupid."),
        ),
        ("I am sorry that I could not please you. I will do my best!",),
    ),
    Intent(
        "goodbye",
        Phrasings(
            train=either(
                """Goodbye! | Bye! | See you later! | Good night! | bye | Bye bye! | I have to go
                now. | See you tomorrow! | goodbye | Farewell! | I must go."""
            ),
            val=either("Goodbye, nanochat! | Good night, nanochat! | Bye, see you later!"),
        ),
        either("Goodbye! It was nice to talk with you. | Goodbye! Come back soon."),
    ),
)

JOKES = Phrasings(
    train=either(
        """Tell me a joke. | Do you know a joke? | Make me laugh. | A joke, please! | joke"""
    ),
    val=either("Can you tell me a joke? | Tell me a joke, please."),
)
JOKE_REPLIES = either(
    """What do you call a bear with no teeth? A gummy bear! | Why did the bee go to school? To
    learn how to spell! | What has four wheels and flies? A garbage truck!"""
)

_MEET = Phrasings(
    train=either(
        """My name is {n}. | I am {n}. | Hi, I am {n}. | Hello, my name is {n}. | I'm {n} | Hello! I
        am {n}. | You can call me {n}. | Call me {n}. | my name is {n} | i am {n} | hi, i'm {n}"""
    ),
    val=either("Hello, I am {n}. | Hi, my name is {n}. | Hi! You can call me {n}."),
)
_RECALL = Phrasings(
    train=either("What is my name? | Do you know my name? | Who am I? | What's my name?"),
    val=either("Can you tell me my name? | Tell me my name."),
)


def small_talk(draw: Draw) -> Exchange:
    i = draw.below(len(INTENTS) + 1)
    if i == len(INTENTS):
        return Exchange(ask=draw.phrase(JOKES), say=draw.pick(JOKE_REPLIES))
    return INTENTS[i].ask(draw)


def intent(draw: Draw, name: str) -> Exchange:
    return next(intent for intent in INTENTS if intent.name == name).ask(draw)


def meet(draw: Draw) -> tuple[Exchange, Exchange]:
    """The user says a name, and later asks for it."""
    name = draw_name(draw).text
    greeting = draw.pick(
        either("Hello, {n}! It is nice to meet you. | Nice to meet you, {n}! How can I help you?")
    )
    return (
        Exchange(ask=draw.phrase(_MEET).format(n=name), say=greeting.format(n=name), answer=name),
        Exchange(ask=draw.phrase(_RECALL), say=f"Your name is {name}.", answer=name),
    )


def nameless(draw: Draw) -> Exchange:
    """The user asks for a name that was never given."""
    return Exchange(
        ask=draw.phrase(_RECALL), say="I do not know your name yet. What should I call you?"
    )


REFUSAL = "I do not know that."
_REFUSALS = (
    f"{REFUSAL} I only know my small world of stories, words, numbers and simple facts.",
    f"{REFUSAL} I am a small model and know only a small world. Ask me for a story or a capital!",
)
TOPICS = either(
    """the stock market | quantum physics | the president | football | the best phone | the French
    Revolution | my car | the price of gold | black holes | the weather tomorrow | politics |
    the last election | Python code | machine learning | the Roman Empire | my taxes | the
    internet | a good movie | the meaning of life | basketball | chess | a recipe for lasagna |
    the speed of light | Shakespeare | the human brain | bitcoin | the war | DNA | dinosaurs |
    the moon landing | the largest planet | Einstein | a good restaurant | my homework | the law
    | algebra | the periodic table | the news | a hotel in Rome | climate change | a computer
    virus | tennis | the Olympic Games | Napoleon | the pyramids | a famous singer | rock music
    | guitars | the best laptop | volcanoes | electricity | a rocket | vitamins | my health | a
    headache | the economy | the bank | a new job | marketing | a business plan | the universe |
    gravity | atoms | chemistry | biology | history | geography | philosophy | religion | art |
    Picasso | Mozart | the Beatles | Star Wars | Harry Potter | video games | Minecraft | Google
    | Apple phones | Tesla | airplanes | submarines | the Titanic | the Eiffel Tower | Mount
    Everest | the Amazon river | deserts | earthquakes | penguins in the wild | whales and ships
    | the population of Spain | the king of Norway | the flag of Brazil | the language of
    Iceland | the age of the Earth | the distance to the sun | the boiling point of water | the
    square root of two | prime numbers | calculus | the stock price | insurance | a wedding |
    love poems | my girlfriend | my boss | a password | the password | how to cook rice | how to
    fix a bike | how to lose weight | how to get rich | how to learn German | how to write code
    | how engines work | how magnets work | how to play poker | how to grow roses"""
)
_OUTSIDE = Phrasings(
    train=either(
        """Tell me about {t}. | What do you know about {t}? | Explain {t}. | Can you explain {t} to
        me? | What do you think about {t}? | I want to know more about {t}. | Do you know
        anything about {t}? | Write a poem about {t}. | Give me a summary of {t}. | Help me with
        {t}. | Write an essay about {t}. | Why is {t} important? | tell me more about {t} |
        Translate {t} into French."""
    ),
    val=either(
        """Can you tell me about {t}? | Can you tell me more about {t}? | Write a poem about {t}
        for me. | Please explain {t}."""
    ),
)
_SINGLE = Phrasings(
    train=either(
        """Who won the game last night? | Who is the president of France? | What time is it? | What
        day is it today? | What is the weather like? | Will it rain tomorrow? | What is the
        meaning of life? | Who wrote Hamlet? | What is the largest planet? | How far is the
        moon? | How tall is the tallest mountain? | What is the population of China? | When did
        the war end? | Who invented the telephone? | Write a program in Python. | Translate
        hello into French. | What is two to the power of ten? | Which phone should I buy? | What
        is the fastest car? | Who is the richest man in the world? | How do I get rich? | Can
        you order a pizza? | Play some music. | What should I cook for dinner? | Is there life
        on Mars? | How do airplanes fly? | Why is the sky blue? | What is love? | Who painted
        the Mona Lisa? | What is the speed of light? | How old is the universe? | What is the
        currency of Japan? | What language do they speak in Brazil? | Who was the first man on
        the moon? | What is the best movie of all time? | How many people live in Paris? | Who
        is the king of Spain? | What is the longest river in the world? | How do I fix my
        computer? | Should I sell my house? | Am I ill? | What happened yesterday? | Who will
        win the election? | Can you see me? | What am I thinking? | How do I open a bank
        account? | What is a black hole? | Who discovered America?"""
    ),
    val=either(
        """Who is the president of the United States? | What is the largest river in the world? |
        What is the weather like today? | How old is the moon? | What is the population of
        Japan? | Who wrote the best book of all time? | How do computers fly? | Who is the king
        of Norway?"""
    ),
)
_UNKNOWN_THING = Phrasings(
    train=(
        "What is the opposite of {n}?",
        "Who is {n}?",
        "Where is {n}?",
        "What does {n} mean?",
        "Where does {n} live?",
        "How old is {n}?",
        "What color is {n}?",
        "Do you know {n}?",
        "What is {n}?",
        "Who is the president of {n}?",
        "Tell me where {n} is.",
        "Can you tell me where {n} lives?",
        "Can you tell me how old {n} is?",
        "Do you know where {n} is?",
        "Tell me what {n} means.",
        "Tell me who the president of {n} is.",
    ),
    val=("Can you tell me who {n} is?", "Do you know who {n} is?", "Tell me who {n} is."),
)
PLACES = either(
    """Atlantis | Narnia | Texas | California | Bolivia | Malta | Cyprus | Angola | Sudan | Mali |
    Laos | Cambodia | Haiti | Panama | Belize | Libya | Yemen | Syria | Zambia | Bavaria | Florida
    | Alaska | Mars | Jupiter | Hogwarts | Mordor | Gotham | Bhutan | Gabon | Malawi | Kuwait |
    Samoa | Monaco | Togo | Chad | Niger | Guyana | Rwanda | Eritrea | Burundi"""
)
_UNKNOWN_PLACE = Phrasings(
    train=(
        "What is the capital of {n}?",
        "Which continent is {n} in?",
        "Tell me the capital of {n}.",
        "Which city is the capital of {n}?",
        "What is the capital city of {n}?",
    ),
    val=("Can you tell me the capital of {n}?", "Do you know the capital city of {n}?"),
)
_NO_OPPOSITE = Phrasings(
    train=(
        "What is the opposite of {n}?",
        "Tell me the opposite of {n}.",
        "Do you know the opposite of {n}?",
        "Give me the opposite of {n}.",
        "Can you say the opposite of {n}?",
    ),
    val=("Can you tell me the opposite of {n}?", "Name the opposite of {n}."),
)


def _single(draw: Draw) -> str:
    return draw.phrase(_SINGLE)


def _about_topic(draw: Draw) -> str:
    return _fill(draw, _OUTSIDE, "t", TOPICS)


def _about_name(draw: Draw) -> str:
    return draw.phrase(_UNKNOWN_THING).format(n=draw_name(draw).text)


def _about_place(draw: Draw) -> str:
    return _fill(draw, _UNKNOWN_PLACE, "n", PLACES)


def _about_opposite(draw: Draw) -> str:
    return _fill(draw, _NO_OPPOSITE, "n", tuple(w for w in WORDS if w not in OPPOSITES))


def _noise(draw: Draw) -> str:
    """What a cat types."""
    words = ["".join(draw.pick(LETTERS) for _ in range(draw.between(3, 7))) for _ in range(2)]
    return " ".join(words[: draw.between(1, 2)])


def _fill(draw: Draw, phrasings: Phrasings, slot: str, things: tuple[str, ...]) -> str:
    thing = draw.pick([thing for thing in things if draw.belongs(f"outside:{thing}")])
    return draw.phrase(phrasings).format(**{slot: thing})


OUTSIDE = (
    (0.25, _single),
    (0.34, _about_topic),
    (0.17, _about_name),
    (0.10, _about_place),
    (0.08, _about_opposite),
    (0.06, _noise),
)


def outside(draw: Draw) -> Exchange:
    """A question from outside the world, and the refusal."""
    return Exchange(ask=draw.weighted(OUTSIDE)(draw), say=draw.pick(_REFUSALS), answer=REFUSAL)
