"""Izmailov et al. 2018 in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="The average of the weights along training (SWA) lies in a wider minimum than the last weights of "
    "SGD, and has a lower test error.",
    figure="line",
    points=(
        Point("lower test error than SGD at the same budget", "SWA has a lower test error than SGD", "SWA - SGD"),
        Point(
            "SWA is wider: the test error", "SWA is wider, measured by the test error along random rays", "SWA over SGD"
        ),
        Point(
            "SGD lies nearer to a wall",
            "SGD lies nearer to a wall of the loss than SWA",
            "loss beyond SGD over that beyond SWA",
        ),
        Point(
            "On their line the train loss is lower at SGD",
            "the training loss is lower at SGD than at SWA",
            "loss, SWA over SGD",
        ),
        Point(
            "of the budget than at 1", "a longer run of SWA lowers the test error further", "longer less shorter run"
        ),
        Point(
            "The average of three weights",
            "the average of three weights is better than the best of them",
            "average less best",
        ),
    ),
    cannot_show="SWA and SGD end close to each other compared with the width of the minimum. The paper's long "
    "training of convolutional networks is not repeated.",
)
