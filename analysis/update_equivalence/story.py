"""A larger batch for a smaller learning rate in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="B steps of single examples end nearly where one step of a batch of B ends at B times the rate. Large "
    "batches are steadier because their gradient has less noise. (It is also written that a larger batch increases the "
    "variance of the gradient; here it falls.)",
    figure="distance",
    points=(
        Point(
            "end close to one step",
            "both ends lie within 10 % of the step at the rates of the training",
            "distance over the step",
        ),
        Point("in proportion to the rate", "the distance of the two ends grows in proportion to the rate", "exponent"),
        Point("in proportion to B", "the distance grows in proportion to B", "exponent"),
        Point("has variance", "the gradient of a batch has variance sigma^2 / B", "exponent of B"),
        Point(
            "second sense of stability",
            "the loss falls in more of the steps of large batches",
            "share, large less small",
        ),
        Point("first sense: an L2 penalty", "an L2 penalty holds the weights down", "growth with over without"),
        Point(
            "it does not help with the second",
            "an L2 penalty does not make the loss fall more steadily",
            "change of the share",
        ),
        Point(
            "the batch size does not decide the first",
            "the weights grow alike at both batch sizes",
            "growth, large over small",
        ),
    ),
    beside_the_paper="No paper has a figure of this; the answer whose claims these are is words and a formula. Words "
    "say in one line why the two should end close together, which no figure does. Ours shows how "
    "close, over four orders of magnitude of the rate, and that the rate times lambda_max tells where "
    "it ends.",
    cannot_show="Nothing diverges at these rates, so weights that run away are not seen. Least squares with an L2 "
    "penalty, of which the answer speaks too, is the study sgd_stability.",
)
