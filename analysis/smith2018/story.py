"""Smith et al. 2018 in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="A larger batch can stand for a smaller learning rate: training loss and test accuracy stay the same, "
    "with fewer updates.",
    figure="training_loss",
    points=(
        Point(
            "a growing batch have one training loss",
            "a falling rate and a growing batch have one training loss",
            "difference",
        ),
        Point("est accuracy is the same whether", "both end with the same test accuracy", "difference"),
        Point("With neither decay nor growth", "the loss stays higher with neither of the two", "difference"),
        Point("grows by 2 the", "a batch that grows by 2 instead leaves the curve", "difference"),
        Point("grows by 25 the", "a batch that grows by 25 instead leaves the curve", "difference"),
        Point("takes fewer updates for the same epochs", "the growing batch takes fewer updates", "updates"),
        Point(
            "five times as large from the start",
            "rate and batch can be five times as large from the start",
            "change of test accuracy",
        ),
        Point(
            "A larger momentum and batch on top",
            "a larger momentum and batch on top cost test accuracy",
            "change of test accuracy",
        ),
    ),
    beside_the_paper="Figure 2 of the paper shows the same, training loss against epochs and against updates, for a "
    "wide residual network on CIFAR-10. Its training is that of a network in use, with so many "
    "updates that those spared can be seen without an effort; in ours they lie close together at the "
    "right. Ours draws each run beside the mean, so that one sees how closely curves coincide, and "
    "has a control with neither decay nor growth, without which curves could coincide because nothing "
    "matters.",
    cannot_show="It is one small network on ten thousand images.",
)
