"""Keskar et al. 2017 in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="Large batches (LB) end in a sharp minimum, small ones (SB) in a flat one, and the sharp one generalises "
    "worse.",
    figure="batch_size",
    points=(
        Point(
            "LB is 1 to 2 orders sharper",
            "LB minima are ten to a thousand times as sharp as SB minima",
            "phi, LB over SB",
        ),
        Point("LB generalises worse", "LB generalises worse over four networks", "LB - SB"),
        Point(
            "LB is sharper with equal epochs, linear rate too|LB is sharper .*: equal epochs, linear rate$",
            "LB is sharper when its learning rate is larger in proportion to B",
            "phi, LB over SB",
        ),
        Point(
            "LB is sharper with equal training loss too",
            "LB is sharper when both are compared at one training loss",
            "phi, LB over SB",
        ),
        Point("On the straight line the loss rises more", "the loss rises faster beside LB than beside SB", "LB - SB"),
        Point("SB ends 3 to 10 times as far", "SB ends 3 to 10 times as far from its start as LB", "SB over LB"),
        Point("Sharpness grows with the batch size", "sharpness grows steadily with the batch size", "exponent of B"),
        Point(
            "Test accuracy falls beyond a threshold",
            "test accuracy falls beyond some batch size",
            "from which batch on",
        ),
    ),
    beside_the_paper="Figure 4 of the paper shows the same, test accuracy and sharpness against the batch size after "
    "equal epochs. It has networks (F2 and C1) whose accuracy falls plainly beyond a threshold, up to "
    "much larger batches, and both curves in one panel, so that the fall and the sharpness are seen "
    "together. Ours shows every run, so that a fall can be told from what a seed moves, tests the "
    "threshold, and has sharpness on a logarithmic axis, where small batches can be read too.",
    cannot_show="F1 has the smallest difference of test accuracy in the paper, 0.2 pp, less than a second seed moves "
    "it. The paper's convolutional networks, where it is larger, are not trained: the one here is small and "
    "has neither batch normalisation nor augmentation. Claims over the networks rest on the mean of four, whose "
    "interval holds how much they differ. The README's first command has a setting chosen to resolve the difference.",
)
