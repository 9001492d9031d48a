"""Short texts of several kinds, written for the table of ``tok_eval``; all invented.

What a tokenizer's training text taught it shows on the other kinds: names and quotations, terms
and units, a program, LaTeX, digits, and two languages that English vocabularies know little of.
"""

from __future__ import annotations

_CODE = '''\
from __future__ import annotations

import heapq
from collections import defaultdict


def median(values: list[float]) -> float:
    """Middle of the sorted values; the mean of the two middles if there are two."""
    ordered = sorted(values)
    half = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[half]
    return (ordered[half - 1] + ordered[half]) / 2


def shortest_path(edges: dict[str, list[tuple[str, int]]], start: str, goal: str) -> int | None:
    # Dijkstra: the queue holds (distance, node); stale entries are skipped when they surface.
    best: dict[str, float] = defaultdict(lambda: float("inf"))
    best[start] = 0
    queue = [(0, start)]
    while queue:
        distance, node = heapq.heappop(queue)
        if node == goal:
            return distance
        if distance > best[node]:
            continue
        for neighbour, weight in edges.get(node, []):
            if (candidate := distance + weight) < best[neighbour]:
                best[neighbour] = candidate
                heapq.heappush(queue, (candidate, neighbour))
    return None


if __name__ == "__main__":
    graph = {"a": [("b", 7), ("c", 3)], "c": [("b", 2)]}
    assert shortest_path(graph, "a", "b") == 5, "through c"
    print(f"{median([3.5, 1.25, 2.0]):.3f}")
'''

TEXTS = {
    "news": (
        "HALLORN BAY, March 9 - The city council voted 7-4 late on Tuesday to reopen the old "
        "harbour line, eleven years after the last passenger train ran, ending a dispute that "
        "had divided the town since the fish market closed. Under the plan, four trains an "
        "hour will connect the central station with the ferry terminal from next autumn. The "
        "work is expected to cost $38.6 million, two thirds of which comes from the state; "
        'residents will see their property tax rise by about 0.4 percent. "Nobody here needs '
        'to be told what a full parking lot looks like in July," said Mayor Irene Castellan, '
        "who had campaigned for the project. Her opponent, Councilman Doug Whitfield, called "
        'the figures "a wish list" and said he would ask for an independent audit before any '
        "contract is signed. Shares of Norrland Rail, which is widely expected to bid, rose "
        "3.2% in early trading. The company did not respond to requests for comment. A public "
        "hearing has been scheduled for April 14 at 6:30 p.m.; those who can't attend may send "
        "their questions in writing."
    ),
    "science": (
        "Enzymes lower the activation energy of a reaction without being consumed. Their rate "
        "saturates as the concentration of substrate grows, since every active site is then "
        "busy; the Michaelis constant is the concentration at which half of that limit is "
        "reached. Inhibitors are told apart by what they change. A competitive one binds to "
        "the free enzyme at the active site, so that more substrate displaces it: the apparent "
        "constant grows while the limit stays. A non-competitive one binds elsewhere, to the "
        "free enzyme and to the complex alike, and no amount of substrate makes up for it. "
        "Temperature acts twice. Between 5 and 35 \u00b0C a typical rate doubles with every "
        "ten degrees, as the Arrhenius equation predicts, but above some 45 \u00b0C thermal "
        "motion breaks the hydrogen bonds and hydrophobic contacts that hold the tertiary "
        "structure together, and the protein denatures. Photosynthesis shows the same "
        "principles at scale: carboxylation by rubisco, the most abundant protein of the "
        "biosphere, is slow (about 3 per second) and competes with oxygenation, which explains "
        "why C4 plants concentrate CO2 in bundle sheath cells before the Calvin cycle begins."
    ),
    "code": _CODE,
    "math": (
        r"Let $f(x) = x^3 - 3x + 1$. Since $f'(x) = 3(x^2 - 1)$ vanishes at $x = \pm 1$ only, "
        "and $f(-1) = 3 > 0 > -1 = f(1)$, there are three real roots. Substituting $x = 2 "
        r"\cos \theta$ and using $4 \cos^3 \theta - 3 \cos \theta = \cos 3\theta$ gives "
        "$2 \\cos 3\\theta + 1 = 0$, hence\n\\begin{equation} \\label{eq:roots} x_k = 2 \\cos "
        "\\left( \\frac{2 \\pi (3k + 1)}{9} \\right), \\quad k = 0, 1, 2. \\end{equation}\n"
        r"\begin{theorem} Let $G$ be a finite group and $p$ the smallest prime that divides "
        "$|G|$. Then every subgroup $H \\le G$ of index $p$ is normal. \\end{theorem}\n"
        r"\begin{proof} $G$ acts on the cosets $G/H$ by left multiplication, which is a "
        r"homomorphism $\varphi \colon G \to S_p$ with kernel $K \subseteq H$. Now $|G/K|$ "
        r"divides $p!$ and $|G|$, whose prime factors are all $\ge p$; therefore $|G/K| = p = "
        r"[G : H]$, so that $H = K = \ker \varphi$. \end{proof}"
    ),
    "numbers": "3.14159 1,048,576 2026-11-22 0x7f3a 192.168.0.1 +49 30 901820 1e-7 50% 12:45",
    "German": (
        "Das M\u00e4dchen h\u00f6rte den Zug, lange bevor es ihn sah. \u00dcber den Fluss kam "
        "sein Pfeifen, \u00fcber die W\u00e4lder, durch die k\u00fchle Luft des Morgens."
    ),
    "Korean": (
        "\uc544\uce68\uc5d0 \ube44\uac00 \uadf8\uce58\uace0 \ud558\ub298\uc774 "
        "\ub9d1\uc544\uc84c\ub2e4. \uc6b0\ub9ac\ub294 \uac15\uac00\ub97c \uac78\uc73c\uba70 "
        "\uc774\uc57c\uae30\ub97c \ub098\ub204\uc5c8\ub2e4. \uc9c0\ub09c\uc8fc\uc5d0 "
        "\ubb38\uc744 \uc5f0 \uc2dc\ub9bd \ub3c4\uc11c\uad00\uc5d0\ub294 \ud558\ub8e8 "
        "\ud3c9\uade0 2,300\uba85\uc774 \ucc3e\uc544\uc628\ub2e4\uace0 \ud55c\ub2e4. "
        "\uac00\uc7a5 \uc778\uae30 \uc788\ub294 \uacf3\uc740 \uc0bc\uce35\uc5d0 \uc788\ub294 "
        "\uc5b4\ub9b0\uc774 \uc5f4\ub78c\uc2e4\uc778\ub370, \uc8fc\ub9d0\uc774\uba74 "
        "\ube48\uc790\ub9ac\ub97c \ucc3e\uae30\uac00 \uc5b4\ub835\ub2e4. \uc0ac\uc11c "
        "\uae40\ubbfc\uc9c0 \uc528\ub294 \u201c\ucc45\uc744 \ube4c\ub9ac\ub7ec \uc624\ub294 "
        "\uc0ac\ub78c\ubcf4\ub2e4 \uc870\uc6a9\ud788 \uc549\uc544 \uc788\uc744 \uacf3\uc774 "
        "\ud544\uc694\ud574\uc11c \uc624\ub294 \uc0ac\ub78c\uc774 \ub354 "
        "\ub9ce\uc2b5\ub2c8\ub2e4\u201d\ub77c\uace0 \ub9d0\ud588\ub2e4. "
        "\ub3c4\uc11c\uad00\uc740 \ub2e4\uc74c \ub2ec\ubd80\ud130 \ub9e4\uc8fc "
        "\uae08\uc694\uc77c \uc800\ub141\uc5d0 \uc74c\uc545\ud68c\ub97c \uc5f4 "
        "\uacc4\ud68d\uc774\ub2e4. \ud560\uba38\ub2c8\uaed8\uc11c\ub294 "
        "\ub41c\uc7a5\ucc0c\uac1c\ub97c \ub053\uc774\uc2dc\uace0 \ub098\ub294 "
        "\uadf8\ub987\uc744 \uc53b\uc5c8\ub2e4. \ucc3d\ubc16\uc73c\ub85c \uae30\ucc28\uac00 "
        "\uc9c0\ub098\uac00\ub294 \uc18c\ub9ac\uac00 \ub4e4\ub838\uc9c0\ub9cc "
        "\uc544\ubb34\ub3c4 \uace0\uac1c\ub97c \ub4e4\uc9c0 \uc54a\uc558\ub2e4."
    ),
}
