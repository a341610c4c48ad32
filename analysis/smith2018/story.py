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
    cannot_show="It is one small network on ten thousand images.",
)
