"""The stability of SGD where it is exactly known, in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="On least squares theory gives the largest learning rate at which SGD is stable, for every batch size and L2 "
    "penalty. The same condition says when noise pushes a weight out of a sharp basin.",
    figure="map",
    points=(
        Point("no walk runs away", "no walk runs away below the computed rate", "share of walks"),
        Point(
            "Mulayoff & Michaeli's formula",
            "half of the walks run away where the mean square stops shrinking",
            "measured over computed rate",
        ),
        Point(
            "Noise pushes the weight out",
            "noise pushes more walks out of the sharp basin than the full batch does",
            "share, batch 1 less full",
        ),
        Point("lets the rate be larger", "at batch 1 an L2 penalty lets the rate be larger", "with over without"),
        Point(
            "moves the largest rate as computed", "an L2 penalty moves the rate as computed", "measured over computed"
        ),
        Point(
            "larger share of the early steps",
            "the loss falls in more of the steps of the full batch",
            "share, full less batch 1",
        ),
        Point(
            "Half of the walks leave",
            "half of the walks leave the sharp basin where linear stability ends",
            "measured over computed rate",
        ),
        Point("eta / B alone decides", "eta / B alone decides who leaves, at the smallest batches", "exponent of B"),
    ),
    beside_the_paper="The figures of the three papers were not at hand, so none is compared; what they claim are "
    "formulas of the largest stable rate. Ours shows what such a formula leaves out: the share of "
    "walks that run away at each rate and batch size, beside the rate where the mean square stops "
    "shrinking and the one where nearly every walk begins to grow. It is a map of one problem, and "
    "says nothing of networks.",
    cannot_show="Least squares has one basin, and the loss with two basins has one weight and no noise at its minima.",
)
