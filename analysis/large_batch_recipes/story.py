"""Recipes for large batches in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="Large batches keep the error of small ones by a rate in proportion to B with warm-up (Goyal), its root "
    "with longer training (Hoffer), or LARS (You). Batch statistics over parts of a batch (ghost norms) help. "
    "Batches of 2 to 32 are best all the same (Masters & Luschi).",
    figure="recipes",
    points=(
        Point(
            r"linear \+ warm-up, batch", "the linear rule with warm-up keeps the error at batch 256", "increase in pp"
        ),
        Point("the rule breaks beyond some batch", "the linear rule breaks at batch 512", "increase in pp"),
        Point("LARS, batch", "LARS keeps the error at batch 512", "increase in pp"),
        Point(
            "LARS has a lower error",
            "LARS is better than SGD with warm-up at batch 512, each tuned there",
            "reduction in pp",
        ),
        Point("batches of 2 to 32 have the lowest error", "batches of 2 to 32 have the lowest error", "best batch"),
        Point("without warm-up it is higher", "the error is higher without warm-up", "increase in pp"),
        Point("ghost batch norm lowers it further", "ghost norms lower the error", "reduction in pp"),
        Point(
            r"sqrt \+ ghosts \+ longer",
            "the root rule with ghost norms and longer training keeps the error at batch 512",
            "increase in pp",
        ),
    ),
    beside_the_paper="Figure 1 of Goyal et al. draws the error against the batch size for the linear rule with warm- "
    "up. It has ResNet-50 on ImageNet over three orders of magnitude of the batch, so that one sees a "
    "long flat part and then a slow rise; ours is flat for a few batches, and arrows stand for what "
    "leaves the axis. Ours sets the rule beside its form without warm-up, LARS and rates tuned at "
    "each batch, so that what a rule costs is told from what the batch costs, and marks which "
    "increase would count.",
    cannot_show="The network has two hidden layers of 64, and batches end at 512, where training makes 192 to 256 "
    "updates. Rates are tuned on a grid of factors of two, of which two neighbours can be as good at the base batch: "
    "the linear rule starts from the larger one and meets the edge of stability one step sooner. Warm-up takes a "
    "quarter of training, since 5 of 90 epochs would be 14 updates. The hour on ImageNet is computed, not run.",
)
