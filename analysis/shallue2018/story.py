"""Shallue et al. 2018 in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="With everything tuned at each batch size, the steps to a goal first fall as 1/B, then less, then not "
    "at all. Where this happens depends on the workload, and no simple rule gives the learning rate.",
    figure="steps_vs_batch",
    points=(
        Point("Steps fall as 1/B at small batches", "steps fall as 1/B at small batches", "exponent of B"),
        Point(
            "Steps do not fall at the largest batches", "steps no longer fall at the largest batches", "exponent of B"
        ),
        Point(
            "FC momentum scales to larger batches", "momentum makes larger batches useful", "B_crit, with over without"
        ),
        Point(
            "does not follow the linear rule", "the best learning rate does not follow the linear rule", "exponent of B"
        ),
        Point(
            "The largest useful batch depends on the network",
            "the useful batch depends on the network",
            "B_crit, one network over the other",
        ),
        Point(
            "The largest useful batch of a transformer",
            "a transformer on a text has another useful batch than a network of images",
            "B_crit, transformer over the other",
        ),
        Point(
            "With the better of both budgets",
            "a large batch is no worse once both budgets are allowed",
            "error, large less small batch",
        ),
        Point(
            "The noise scale predicts the critical batch size",
            "B_simple predicts the critical batch size",
            "B_simple over B_crit",
        ),
    ),
    beside_the_paper="Figure 1 of the paper shows the same, steps to a goal against the batch size with a dashed line "
    "of perfect scaling, a panel for each workload. It has nine of them, up to ResNet-50 on ImageNet "
    "and language models, batches of up to 65,536 and more trials in each search, so that the flat "
    "part is reached more plainly. Ours repeats every search independently, so that one sees what the "
    "luck of a search moves, and lays optimisers and networks over each other in one panel.",
    cannot_show="The networks are small and the goal is reached within some epochs. The transformer has "
    "29,000 weights and windows of 16 bytes.",
)
