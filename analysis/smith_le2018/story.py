"""Smith & Le 2018 in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="The noise of SGD, of scale g = eta (N / B - 1) / (1 - m), helps up to a point, so there is a best batch "
    "size, in proportion to eta N / (1 - m). SGD acts as a stochastic differential equation with that noise. The "
    "Bayesian evidence tells good minima from bad ones.",
    figure="collapse",
    points=(
        Point(
            "the noise scale explains more",
            "g explains more of the accuracy than eta or B alone",
            "share of variance, g less the better other",
        ),
        Point(
            "has a peak at a batch size",
            "test accuracy has its peak at a batch size inside the range tried",
            "rise over the range's ends",
        ),
        Point("proportional to the learning rate", "the best batch is proportional to eta", "exponent"),
        Point("proportional to the number of training images", "the best batch is proportional to N", "exponent"),
        Point(r"proportional to 1/\(1 - m\)", "the best batch is proportional to 1 / (1 - m)", "exponent"),
        Point(
            "On a network SGD and its equation agree",
            "SGD and its equation agree at small learning rates",
            "late train loss, SGD over equation",
        ),
        Point(
            "On a network they part",
            "SGD and its equation part at large learning rates",
            "late train loss, SGD over equation",
        ),
        Point(
            "evidence is best at the L2 strength",
            "the evidence is best at the L2 strength of the lowest test loss",
            "distance of the two",
        ),
    ),
    beside_the_paper="The paper draws test accuracy against the batch size for several learning rates, sizes of the "
    "data and momenta, and beside it the best batch of each. Its networks learn clean labels, and the "
    "straight lines of the best batch show the law in its plainest form. Ours has those curves at the "
    "top; below they are drawn against the noise scale, where all points test the law and not the "
    "place of a maximum alone.",
    cannot_show="The networks have 16 hidden units and a fifth of their labels are random, as on clean labels the peak "
    "is a few tenths of a point high. Batches are drawn anew at each update, not in epochs. The equation has no "
    "momentum. N goes from 250 to 1,000 alone.",
)
