"""One colour and one marker a method, in every figure and in the trace viewer.

The colours are those of Okabe and Ito (2008) and Tol (2021), safe for colour-blind eyes.
"""

COLOURS = {
    "vanilla": "#777777",
    "eagle3": "#D55E00",
    "lookahead": "#882255",
    "pia": "#CC79A7",
    "pld": "#56B4E9",
    "recycling": "#009E73",
    "rest": "#332288",
    "sam": "#0072B2",
    "sam_eagle3": "#E69F00",
    "sps": "#B09000",
    "stand": "#DDAA33",
    "suffix": "#117733",
    "suffix_eagle3": "#999933",
    "blend": "#AA4499",
    "blend_eagle3": "#661100",
    # of engines
    "ngram": "#44AA99",
    "draft_model": "#4477AA",
}
OTHERS = ("#AA4466", "#228833", "#6699CC", "#997700")
PHASE_COLOURS = {
    "verify": "#777777",
    "draft": "#0072B2",
    "accept": "#E69F00",
    "other": "#CC79A7",
    "prefill": "#009E73",
}
SERIES = ("#0072B2", "#56B4E9", "#009E73", "#E69F00")
"""Of what is no method."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
STAR = (
    "M0,-1L0.24,-0.32L0.95,-0.31L0.38,0.12L0.59,0.81"
    "L0,0.4L-0.59,0.81L-0.38,0.12L-0.95,-0.31L-0.24,-0.32Z"
)
SALTIRE = "M-1,-0.6L-0.6,-1L0,-0.4L0.6,-1L1,-0.6L0.4,0L1,0.6L0.6,1L0,0.4L-0.6,1L-1,0.6L-0.4,0Z"
VEGA_MARKERS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": SALTIRE,
    "<": "triangle-left",
    ">": "triangle-right",
    "*": STAR,
}
"""The same shapes, as Vega has them or as paths."""
GLYPHS = dict(zip(VEGA_MARKERS, "●■▲◆▼✚✖◀▶★", strict=True))
"""The same in text."""


def colour(name: str) -> str:
    """Of a method by its name; of any other name by what its letters add up to."""
    return COLOURS.get(name) or OTHERS[sum(name.encode()) % len(OTHERS)]


def marker(name: str) -> str:
    """Shapes beside colours: no two of our methods share both."""
    names = list(COLOURS)
    number = names.index(name) if name in COLOURS else sum(name.encode())
    return MARKERS[number % len(MARKERS)]


def vega_marker(name: str) -> str:
    """The method's shape by Vega's name."""
    return VEGA_MARKERS[marker(name)]


def glyph(name: str) -> str:
    """The method's shape in text."""
    return GLYPHS[marker(name)]
