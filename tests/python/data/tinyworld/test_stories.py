import re
import zlib

import pytest

from nanochat.data.tinyworld import names, story_bits
from nanochat.data.tinyworld.draw import Draw
from nanochat.data.tinyworld.names import Name
from nanochat.data.tinyworld.plots import PLOTS, Plot
from nanochat.data.tinyworld.stories import Story, tell


def _stories(plot: Plot, n: int = 1500) -> list[Story]:
    return [s for i in range(n) if (s := tell(Draw(7, "val", "story", i))).plot is plot]


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_a_story_answers_the_questions_about_it(plot: Plot) -> None:
    stories = _stories(plot)
    assert stories
    for index, story in enumerate(stories):
        draw = Draw(7, "val", "ask", index)
        for exchange in story.ask_some(draw, len(plot.queries)):
            assert exchange.answer in exchange.say
            assert exchange.answer in story.text
            assert exchange.answer not in exchange.rivals
            assert "{" not in exchange.ask + exchange.say


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_every_wording_of_a_plot_tells_what_the_others_tell(plot: Plot) -> None:
    """What a question may be about must stand in the text whichever wordings were drawn."""
    for slot in plot.slots:
        sure = any(all(f"{{{slot}}}" in text for text in wordings) for wordings in plot.sentences)
        assert sure, f"{plot.name}: {{{slot}}} may be missing"
    assert any(all("{friend}" in t for t in wordings) for wordings in plot.sentences)


def test_names_of_the_splits_do_not_mix() -> None:
    for split in ("train", "val"):
        allowed = {name.text for name in names.names(split)}  # type: ignore[arg-type]
        for index in range(300):
            story = tell(Draw(1, split, "story", index))  # type: ignore[arg-type]
            assert {story.hero, story.slots["B"]} <= allowed


def test_what_the_user_asked_for_is_told_and_costs_nothing() -> None:
    hero = Name("Zoe", is_girl=True)
    fixed = [tell(Draw(1, "train", "s", i), hero=hero, animal="owl") for i in range(200)]
    free = [tell(Draw(1, "train", "s", i)) for i in range(200)]
    assert {(story.hero, story.slots["kind"]) for story in fixed} == {("Zoe", "owl")}
    saved = sum(story.bits for story in free) - sum(story.bits for story in fixed)
    assert 10 < saved / 200 < 14  # a name, and half of the time a kind of animal


def test_the_bound_is_below_what_compression_reaches_and_above_zero() -> None:
    pairs = [story_bits(i, split="val", seed=3) for i in range(1000)]
    text = "\n".join(story for story, _ in pairs).encode()
    bits = sum(bits for _, bits in pairs)
    assert 0.1 < bits / len(text) < 0.3
    assert bits < 8 * len(zlib.compress(text, 9)) / 2


def test_different_choices_are_different_stories() -> None:
    """Bits are exact where the text tells the choices apart; check that it nearly always does."""
    texts = [story_bits(i, split="train", seed=3)[0] for i in range(3000)]
    assert len(set(texts)) == len(texts)


def test_articles_fit_the_words_that_follow() -> None:
    for index in range(1500):
        text = tell(Draw(5, "train", "article", index)).text
        assert not re.search(r"\b[Aa] [aeio]|\b[Aa]n (?!hour)[^aeiou]", text), text
