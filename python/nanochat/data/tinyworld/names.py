"""Names of characters: a list of familiar ones and a grammar of made-up ones.

A made-up name is a beginning and an ending (Ta + vio, Mi + rella); the ending tells girl from boy.
Held out are the made-up names whose checksum says so; familiar names are all in train. The made-up
ones are several tokens long in either split, so that copying names token by token is practised.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from nanochat.data.tinyworld.draw import Draw, Split, held_out


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GIRLS = _words(
    """Ada Adele Agnes Aisha Alice Alma Amelia Amina Amy Ana Anna Anita Anya Astrid Aya Beatrice
    Bella Bianca Carla Carmen Celia Chloe Clara Dana Daria Diana Dora Edith Elena Elin Elisa Ella
    Ellen Elsa Emily Emma Erika Esther Eva Fatima Fiona Freya Frida Gina Grace Greta Hana Hanna
    Heidi Helen Hilda Ida Ines Ingrid Irene Irma Isabel Ivy Jana Jane Janet Jenny Joan Joanna
    Johanna Judy Julia Karin Kate Katya Klara Laila Lara Laura Lea Leila Lena Leni Lina Linda Lisa
    Liv Lola Lotte Louise Lucia Lucy Luisa Lydia Magda Maja Mara Maria Marie Marina Marta Mary
    Matilda Maya Mei Mila Mina Mira Molly Mona Nadia Nancy Naomi Nela Nicole Nina Noemi Nora Olga
    Olivia Paula Petra Polly Priya Rachel Rania Rita Rosa Ruth Salma Sally Sandra Sara Selma Signe
    Silvia Sonia Sophie Stella Susan Tamara Tanya Tara Teresa Thea Tilda Tina Ulla Vera Wanda Wilma
    Yara Yuki Yvonne Zara Zelda Zoe"""
)
BOYS = _words(
    """Aaron Adam Ahmed Alan Albert Alex Ali Amir Anders Andrew Anton Arne Arthur Axel Ben Bernard
    Bjorn Bob Boris Bruno Carl Carlos Casper Charlie Dan Daniel David Dennis Diego Dylan Edgar
    Edwin Elias Emil Eric Erwin Ethan Fabian Felix Fred Fritz Gabriel George Gustav Hamid Hannes
    Hans Harry Hassan Hector Henry Hugo Ian Igor Imran Isaac Ivan Jacob Jakob James Jan Jens Jim
    Joe Joel John Jonas Joseph Juan Julian Karim Karl Kenji Kevin Klaus Kurt Lars Leo Leon Levi
    Liam Linus Louis Luca Lukas Magnus Malik Marco Marcus Martin Mateo Matthew Max Michael Miguel
    Milo Moritz Nathan Nico Niels Noah Odin Olaf Oliver Omar Oscar Otto Owen Pablo Patrick Paul
    Pavel Pedro Peter Philip Pierre Quentin Rafael Ralf Ravi Ray Remy Rene Richard Robert Rolf
    Roman Rudi Samir Samuel Sanjay Sebastian Simon Stefan Sven Tarik Teddy Theo Thomas Tim Timo
    Tobias Tom Tony Valentin Viktor Vincent Walter Werner Willy Xavier Yannis Yusuf Zac"""
)
BEGINNINGS = _words(
    """Ba Bel Bra Bri Ca Cor Da Del Dri Fa Fen Fi Flo Ga Gal Gre Hal Hel Il Ja Jel Jo Ka Kel Ki La
    Lo Lu Ma Mel Mi Mo Na Nel No Or Pa Pel Pi Ra Ril Ro Sa Sel Si Ta Tel Ti Va Vel Vi Wen Yo Za Zel
    Zi"""
)
GIRL_ENDINGS = _words(
    "bela dia fina lisa lya mira nelle nora phie relle rina sha thea tika vina wyn"
)
BOY_ENDINGS = _words("bert bor dan dric fin lan mund nard nix rick mir ton thor vio vor win")


@dataclass(frozen=True)
class Name:
    text: str
    is_girl: bool


@lru_cache(maxsize=1)
def _made_up() -> tuple[Name, ...]:
    familiar = {*GIRLS, *BOYS}
    names = [
        Name(beginning + ending, is_girl)
        for endings, is_girl in ((GIRL_ENDINGS, True), (BOY_ENDINGS, False))
        for beginning in BEGINNINGS
        for ending in endings
    ]
    return tuple(name for name in names if name.text not in familiar)


@lru_cache(maxsize=1)
def _familiar() -> tuple[Name, ...]:
    return tuple([Name(text, True) for text in GIRLS] + [Name(text, False) for text in BOYS])


def names(split: Split) -> tuple[Name, ...]:
    """Every name that texts of ``split`` may use; the two sets have no name in common."""
    made_up = tuple(n for n in _made_up() if held_out(n.text) == (split == "val"))
    return made_up if split == "val" else _familiar() + made_up


def draw_name(draw: Draw, *others: Name) -> Name:
    """A name of the draw's split, different from ``others``.

    Half are familiar and half made up in train; val has made-up ones only. Both are priced as in
    the grammar as a whole (1 bit for the kind, then uniform over both splits), so the price does
    not presuppose knowledge of what is held out. It is therefore never below the true ``-log2 p``.
    """
    before = draw.bits
    while True:
        draw.bits = before
        wants_familiar = draw.chance(0.5)
        if wants_familiar and draw.split == "train":
            name = draw.pick(_familiar())
        else:
            name = draw.pick(_made_up())
            if not draw.belongs(name.text):
                continue
        if name not in others:
            return name
