"""Tinyworld: a synthetic corpus, small enough to be learned in minutes on a laptop.

Stories about named characters, true facts, spelling, counting, arithmetic with the calculator and
small talk, as documents for pretraining and as conversations for chat training. Every text is a
pure function of (index, split, seed): there is no end to them, no state and no file.

The splits are disjoint in what a model could otherwise remember: names of characters, operands of
sums, words asked about, topics outside the world, and the wordings of questions. A fact itself is
in train, phrased otherwise. The rule for each stands at the head of the module that makes it.

    draw           random choices and their price in bits; what is held out
    tables, names  the facts, the words, the characters
    exchange       a question and its answer, from which everything else is made
    facts, numbers, spelling, stories, talk     makers of exchanges
    documents, conversations                    mixtures of them, for the two stages of training
"""

from nanochat.data.tinyworld.conversations import conversation
from nanochat.data.tinyworld.documents import document, story_bits

__all__ = ["conversation", "document", "story_bits"]
