"""The critical batch along training, in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="The critical batch of a language model grows in training and levels off, and the noise scale is "
    "orders of magnitude below it. It is measured by training on from a checkpoint with larger batches and rates by "
    "the square-root rule; doubling the batch as it grows spares updates at no loss. Of the paper the abstract was "
    "read, and summaries of its text.",
    figure="critical",
    points=(
        Point("grows in training", "the critical batch grows in training", "last checkpoint / first"),
        Point("levels off", "the critical batch levels off", "last checkpoint / the one before"),
        Point("is far below the critical batch", "the noise scale is far below it", "critical batch / noise scale"),
        Point("goes with the noise scale", "the critical batch goes with the noise scale", "Kendall's tau"),
        Point(
            "ends at the loss of small batches",
            "doubling the batch as it grows ends at the loss of small batches",
            "test loss, warm-up less small",
        ),
        Point(
            "from the start, ends higher",
            "the batch that this comes to ends higher if it is taken from the start",
            "test loss, large less warm-up",
        ),
    ),
    beside_the_paper="The paper's figure was not at hand; its abstract and summaries of its text were read. Ours draws "
    "the critical batch with two noise scales on the same axis, one of them in the geometry of Adam's "
    "own state, so that one sees which of them lies near it. Its ranges are wide, as a grid of "
    "factors of two and few seeds leave them, and batches end where the text does.",
    cannot_show="One layer of 29,000 weights sees a megabyte once at a rate that stays. The paper's models have 1 and "
    "7 billion weights and rates that decay. The critical batch depends on the rate of the small batches, which a "
    "pilot chose and nothing tuned.",
)
