"""Smith & Le 2018 in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="Noise in the gradient helps up to a point, so there is a best batch size, in proportion to eta N / "
    "(1 - m). The Bayesian evidence tells good minima from bad ones.",
    figure="accuracy_vs_batch",
    points=(
        Point(
            "has a peak at a batch size",
            "test accuracy has its peak at a batch size inside the range tried",
            "rise over the range's ends",
        ),
        Point("proportional to the learning rate", "the best batch is proportional to eta", "exponent"),
        Point(
            "evidence is best at the L2 strength",
            "the evidence is best at the L2 strength of the lowest test loss",
            "distance of the two",
        ),
        Point("proportional to the number of training images", "the best batch is proportional to N", "exponent"),
        Point(r"proportional to 1/\(1 - m\)", "the best batch is proportional to 1 / (1 - m)", "exponent"),
        Point("a better evidence goes with a lower test loss", "better evidence goes with lower test loss", "tau"),
        Point(
            "With random labels no L2 strength",
            "the evidence warns where labels are random",
            "gain over knowing nothing",
        ),
    ),
    cannot_show="The peak is a few tenths of a point high, as much as a few seeds move it, and its place cannot be "
    "tested where none is seen. The stochastic differential equation behind the law is not simulated.",
)
