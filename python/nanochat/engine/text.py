"""From bytes of tokens to text that can be shown: whole characters, cut at a stop text."""

from __future__ import annotations

import codecs


class TextStream:
    """Holds back an unfinished character, and a tail that may become one of the stop texts.

    The pieces joined equal ``bytes.decode("utf-8", "replace")`` of all bytes, up to the stop text.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = stop
        self._held = ""
        self.stopped = False

    def push(self, data: bytes) -> str:
        """Text that is certain after ``data``."""
        return self._release(self._decoder.decode(data))

    def flush(self) -> str:
        """What was held back; an unfinished character becomes U+FFFD."""
        text = self._release(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        self._held = ""
        found = [position for stop in self._stop if (position := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        longest = max((_overlap(text, stop) for stop in self._stop), default=0)
        cut = len(text) - longest
        self._held = text[cut:]
        return text[:cut]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
