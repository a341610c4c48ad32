"""Small batches in the training of language models, in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="Language models can be trained in batches of one, if Adam's second moment remembers the same number of "
    "tokens. Then small batches are as good, less sensitive, and SGD without momentum comes close to Adam. The "
    "abstract and the authors' configs were read, so no number of theirs is held against ours.",
    figure="losses",
    points=(
        Point(
            "Holding the half-life",
            "holding Adam's memory in tokens is better than a fixed beta2 at batch 1",
            "test loss, held less fixed",
        ),
        Point(
            "as good as large ones",
            "small batches are as good as large ones at equal bytes",
            "test loss, smallest less largest",
        ),
        Point(
            "less sensitive to the rate",
            "small batches are less sensitive to the rate",
            "cost of a wrong rate, large less small",
        ),
        Point("is close to AdamW", "SGD without momentum is close to AdamW at batch 1", "test loss, SGD less AdamW"),
        Point(
            "gap between SGD and AdamW grows",
            "the gap between SGD and AdamW grows with the batch",
            "that at the largest less that at the smallest",
        ),
    ),
    beside_the_paper="The paper's figure was not at hand; its abstract and the authors' configs were read. Ours gives "
    "each batch a rate chosen on held-out text and shows the whole range over seeds for a held half- "
    "life, a fixed beta2 and SGD. It has four batch sizes and one size of network, and how sensitive "
    "each is to its rate is left to the figure rates.",
    cannot_show="One layer of 29,000 weights sees half a megabyte, 18 bytes a weight; the paper's models have "
    "hundreds of times as many weights and more, and see 20 tokens a weight. AdamW has one beta1 for all batches; "
    "the authors searched it too. SGD at batch 1 chose the largest rate tried for 3 of 5 seeds: at a larger one "
    "it may come closer to AdamW than here.",
)
