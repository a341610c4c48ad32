"""Cohen et al. 2021 in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="Full-batch training sharpens until lambda_max reaches 2 / eta, and stays there. Beyond it a step on a "
    "quadratic diverges; here the loss still falls, though not at every step.",
    figure="edge",
    points=(
        Point(
            "square loss: the top eigenvalue rises",
            "lambda_max rises until it reaches 2 / eta (square loss)",
            "there over its first",
        ),
        Point(
            "square loss: the eigenvalue then stays",
            "lambda_max, halfway between steps, then stays at 2 / eta (square loss)",
            "in units of it",
        ),
        Point(
            "cross-entropy: the eigenvalue then stays",
            "lambda_max, halfway between steps, stays at 2 / eta with cross-entropy too",
            "in units of it",
        ),
        Point(
            "the loss rises at some updates",
            "the loss rises at more of the updates once the edge is reached",
            "share of updates, after less before",
        ),
        Point(
            "the loss falls over many updates", "the loss falls over many updates all the same", "loss, end over onset"
        ),
        Point("^Polyak", "the edge moves with momentum as the formula says", "in units of it"),
        Point("SGD.* below 2 / eta", "SGD in small batches stays below 2 / eta", "in units of it"),
        Point("batch sharpness stays at 2 / eta", "the batch sharpness of SGD stays at 2 / eta", "in units of it"),
    ),
    beside_the_paper="Figure 1 of the paper draws the training loss and lambda_max along training for several learning "
    "rates, with a line at 2 / eta for each. It shows what a summary hides: when lambda_max arrives "
    "and how the loss goes on falling there; the figure eigenvalue, among the others here, does that. "
    "Ours puts losses, rates, momentum and small batches on one axis in units of the edge, a mark for "
    "each seed, and tells the iterates, which oscillate, from the points between them.",
    cannot_show="Small batches fit a thousand images while batch sharpness could still rise, and full batches stop "
    "before lambda_max would fall again. Larger networks and the whole of CIFAR-10 are not run.",
)
