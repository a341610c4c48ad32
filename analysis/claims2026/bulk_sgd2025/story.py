"""Learning and the top eigenspace in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="Gradients lie in the space of the largest eigenvalues of the Hessian, but nothing is learnt there. Updates "
    "projected onto it do not decrease the loss further, and updates without that part are as good as whole ones. So "
    "it is at the edge of stability, with momentum, adaptive optimisers and SAM.",
    figure="falls",
    points=(
        Point("SGD: the gradient lies", "the gradient of SGD lies in the top eigenspace", "share of it"),
        Point("SGD: updates within", "updates of SGD within it learn nothing", "share of the loss's fall"),
        Point("SGD: updates without", "updates of SGD without it learn as much", "share of the loss's fall"),
        Point("noise is the cause", "full batches at the same rate leave the space", "gradient's share"),
        Point(
            "gradient descent: updates without",
            "at the edge updates without it learn as much",
            "share of the loss's fall",
        ),
        Point("Adam: updates without", "updates of Adam without it learn as much", "share of the loss's fall"),
        Point(
            "Adam: updates without.*: Adam, rate 3e-4$",
            "updates of Adam without it learn as much at three times the rate",
            "share of the loss's fall",
        ),
        Point("SAM: updates without", "updates of SAM without it learn as much", "share of the loss's fall"),
    ),
    beside_the_paper="The paper's figure was not at hand; its abstract was read alone. Ours holds each optimiser's "
    "projected updates against its whole ones on one axis, a mark for each seed, with lines where "
    "nothing and where as much is learnt. It does not show the loss along training, and one rate of "
    "Adam far from the others takes most of the axis.",
    cannot_show="Of the paper the abstract was read, and what others report of it. A thousand images and 55,000 "
    "weights, a few hundred updates after the branching, one rate for each method and an eigenspace that is found anew "
    "every few updates say nothing of longer training, and test losses were not looked at.",
)
