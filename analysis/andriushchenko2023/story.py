"""Andriushchenko et al. 2023 in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="No measure of sharpness goes well with generalisation across training settings. Sharpness rather "
    "goes with the learning rate, and on shifted test data sharper can be better.",
    figure="scatter",
    points=(
        Point("correlates weakly with the gap", "the adaptive worst case goes weakly with the gap", "tau"),
        Point("no sharpness correlates strongly", "no sharpness goes strongly with the gap", "tau of the strongest"),
        Point("falls with the learning rate", "sharpness falls with the learning rate", "tau"),
        Point(
            "goes rather with the learning rate",
            "sharpness goes rather with the learning rate than with the gap",
            "tau, rate less gap",
        ),
        Point(
            "that know the size of the weights",
            "measures in units of the weights do better than plain ones",
            "tau, less that of plain ones",
        ),
        Point("norms of the weights anticorrelate", "larger norms of the weights go with a smaller gap", "tau"),
        Point("on shifted test data", "sharper minima do better on shifted test data", "tau"),
    ),
    beside_the_paper="The paper draws sharpness against the generalisation gap as well, a panel for each measure and "
    "setting with Kendall's tau. Its figures span transformers on ImageNet, fine-tuned language "
    "models and networks on CIFAR-10, so that one sees the relation change from setting to setting; "
    "ours have one small setting. Ours repeat each configuration with other seeds, give tau an "
    "interval, and show by colour how much of the relation is the learning rate.",
    cannot_show="The networks are fully connected, on a thousand images, with five seeds for each setting. "
    "Transformers and fine-tuning on ImageNet are out of reach.",
)
