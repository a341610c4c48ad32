"""Keskar et al. 2017 in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="A network that is trained in large batches (LB) ends in a sharp minimum, one in small batches (SB) in a "
    "flat one, and the sharp one generalises worse.",
    figure="batch_size",
    points=(
        Point("LB is 1 to 2 orders sharper", "LB minima are ten to a thousand times sharper than SB minima by phi"),
        Point("LB generalises worse", "LB generalises worse on F1"),
        Point(
            "LB is sharper with equal epochs, linear rate too|LB is sharper .*: equal epochs, linear rate$",
            "LB is sharper when its learning rate is larger in proportion to B",
        ),
        Point(
            "LB is sharper with equal training loss too",
            "LB is sharper when both are compared at one training loss",
        ),
        Point("On the straight line the loss rises more", "the loss rises faster beside LB than beside SB"),
        Point("SB ends 3 to 10 times as far", "SB ends 3 to 10 times as far from its start as LB"),
        Point("Sharpness grows with the batch size", "sharpness grows steadily with the batch size"),
        Point("Test accuracy falls beyond a threshold", "test accuracy falls beyond some batch size"),
    ),
    cannot_show="F1 is the network with the smallest gap in the paper, 0.2 pp, and a second seed moves test accuracy "
    "by more. The paper's convolutional networks are not trained here. The main job's setting has a "
    "larger gap.",
)
