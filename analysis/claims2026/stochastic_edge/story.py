"""The edge of stochastic stability in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="SGD sharpens until batch sharpness, the curvature of batches along their own gradients, is 2 / eta; "
    "lambda_max stays below. Momentum b lowers this edge to 2 (1 - b) / eta in small batches and raises it to "
    "2 (1 + b) / eta in large ones.",
    figure="plateaus",
    points=(
        Point("SGD: batch sharpness", "the batch sharpness of SGD settles at 2 / eta", "in units of it"),
        Point(
            "small batches: batch sharpness", "momentum b in small batches settles at 2 (1 - b) / eta", "in units of it"
        ),
        Point("full batch: batch sharpness", "momentum b in full batches settles at 2 (1 + b) / eta", "in units of it"),
        Point("SGD: the eigenvalue stays", "lambda_max of SGD stays below 2 / eta", "in units of it"),
        Point("below batch sharpness", "lambda_max of SGD lies below batch sharpness", "ratio of the medians"),
        Point("lower for smaller", "lambda_max of SGD is lower for smaller batches", "smallest over largest"),
        Point("rises with the batch", "with momentum the plateau rises with the batch", "full over smallest"),
    ),
    beside_the_paper="The figures of the two papers were not at hand; of the first the authors' text and code were "
    "read, of the second the abstract. Ours puts all batches, rates and momenta on one axis in units "
    "of 2 / eta, with both plateaus marked, so that one sees which of the two a batch is nearer to. "
    "It gives a median over late training, where curves along training would show whether batch "
    "sharpness has settled.",
    cannot_show="A thousand images are fitted in the end, and what would settle later is not seen. The rate "
    "grows at first, and small batches come to the edge of a smaller rate before the first measurement: curvature is "
    "seen to fall with that edge, not to rise to it. Of the paper on momentum the abstract alone was read, which does "
    "not say which batches are small.",
)
