"""Izmailov et al. 2018 in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="The average of weights along SGD at a constant rate (SWA) has a lower test error than SGD with a decaying "
    "rate, as it is wider. It lies in the middle of the minimum around which SGD at a constant rate moves; the other "
    "ends at its edge, with a lower training loss.",
    figure="line",
    points=(
        Point("lower test error than SGD at the same budget", "SWA has a lower test error than SGD", "SWA less SGD"),
        Point("SWA is wider: the test error", "SWA is wider by the test error along random rays", "SWA over SGD"),
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
            "The average has a lower test error than the weights",
            "the average is better than the weights that it averages",
            "average less mean of the weights",
        ),
        Point(
            "The average of three weights",
            "the average of three weights is better than the best of them",
            "average less best",
        ),
        Point(
            "Training is stationary",
            "training at SWA's constant rate is stationary, as the picture needs",
            "train loss, second half over first",
        ),
    ),
    beside_the_paper="The paper draws the line through SWA and SGD too, with training loss and test error, and its "
    "networks are deep ones on CIFAR-100, of one run each. Theirs shows at a size that matters that "
    "the two minima lie apart. Ours draws all seeds with their mean, goes farther beyond both ends, "
    "and has logarithmic axes, on which the wall beyond SGD and the slow rise beyond SWA can both be "
    "read.",
    cannot_show="One network of two convolutions learns 5,000 images, with 12 weights in the average at SGD's budget, "
    "where the paper's have 16 layers and more, and 40 to 60 weights. Batches are smaller and the weight decay is six "
    "times as strong, so that training becomes stationary within minutes. The paper's pictures of rays, line and plane "
    "are of deep networks on CIFAR-100, one run each; rays and line here are of all seeds with their difference, and "
    "the planes of one.",
)
