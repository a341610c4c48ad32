"""Seesaw in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="Where AdamW's rate would be halved, it may be divided by the root of 2 and the batch doubled, at no loss. A "
    "third of the updates are spared. Of the paper the abstract and captions were read, no more.",
    figure="updates",
    points=(
        Point("ends at the loss of halving", "Seesaw ends at the loss of halving", "test loss, Seesaw less halved"),
        Point("fewer updates", "Seesaw takes about 36 % fewer updates", "share, by the schedule"),
        Point("Halving lowers the loss", "halving the rate lowers the loss", "test loss, constant less halved"),
        Point(
            "batch four times as large the loss is not kept",
            "a batch four times as large at one rate does not keep it",
            "test loss, control less Seesaw",
        ),
    ),
    beside_the_paper="The paper's figure was not at hand; its abstract and captions were read. Ours has loss and "
    "updates in one picture, a mark for each seed, and a control that ought to lose, so that one sees "
    "both what is spared and what it costs. It shows the end alone, where loss curves along training "
    "would show at which step of the schedule schedules part.",
    cannot_show="One layer of 29,000 weights and batches from 4 windows are far from the paper's models at their "
    "critical batch. Three steps stand for a cosine. The best rate of halving is the largest tried for 6 of 8 "
    "seeds: at a larger one it may end lower, and the schedules may differ more.",
)
