"""Recipes for large batches in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="Large batches keep the error of small ones by a learning rate in proportion to B with warm-up "
    "(Goyal), its root with ghost norms and longer training (Hoffer), or LARS (You). Batches of 2 to 32 "
    "are best all the same (Masters & Luschi).",
    figure="recipes",
    points=(
        Point(
            r"linear \+ warm-up, batch 256",
            "the linear rule with warm-up keeps the error at batch 256",
            "increase in pp",
        ),
        Point("the rule breaks beyond some batch", "the linear rule breaks at batch 1024", "increase in pp"),
        Point("batches of 2 to 32 have the lowest error", "batches of 2 to 32 have the lowest error", "best batch"),
        Point("without warm-up it is higher", "the error is higher without warm-up", "increase in pp"),
        Point(
            "at the same rate it grows with the batch",
            "at one learning rate the error grows with the batch",
            "increase in pp",
        ),
        Point(
            r"sqrt \+ ghost \+ longer",
            "the root rule with ghost norms and longer training keeps the error",
            "increase in pp",
        ),
        Point("ghost batch norm lowers it further", "ghost norms lower the error", "reduction in pp"),
        Point(
            "LARS, linear, has a lower error", "LARS is better than the linear rule at batch 1024", "reduction in pp"
        ),
    ),
    cannot_show="The largest batch makes a few dozen updates, most recipes were tuned at the base batch alone, and "
    "the base rate is so low that warm-up hardly matters. The hour on ImageNet is computed, not run.",
)
