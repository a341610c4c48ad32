"""Flatness and label noise in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="SGD ends in the flattest minimum if and only if the noise of the labels is the same in all outputs. It does "
    "not seek flatness but small fluctuations of the gradient, and else ends in a minimum as sharp as the noise is "
    "unequal.",
    figure="ends",
    points=(
        Point(
            "from random weights",
            "small batches end sharper than the full batch",
            "trace, batch 1 over full",
        ),
        Point("generalise alike", "the two have one test loss", "batch 1 over full"),
        Point("ends at the flattest minimum", "equal noise leads SGD to the flattest minimum", "trace over least"),
        Point(
            "leaves the flattest minimum",
            "unequal noise drives SGD from the flattest minimum to a sharper one",
            "trace, end over start",
        ),
        Point("flattens a sharp start", "equal noise flattens a sharp start", "trace, end over start"),
        Point("as computed", "SGD ends where gradients fluctuate least, as computed", "trace over computed"),
        Point("learning rate does not", "the learning rate does not matter for the end", "trace, twice the rate"),
        Point("tanh", "a tanh network ends sharper with unequal noise too", "trace, unequal over equal"),
    ),
    beside_the_paper="The paper's figure was not at hand; its abstract was read alone. Ours draws where SGD ended "
    "beside where it should by computation, from two starts, so that an end that depends on the start "
    "would be seen. It shows the whole range over seeds, and of each run nothing but its end.",
    cannot_show="The paper was read in its abstract alone, and its own model may be another one than this. Networks of "
    "one hidden layer on four inputs say nothing of recurrent ones and transformers, on which the paper reports.",
)
