"""Forgetting and rounding after five ends of training, in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="Decaying the rate makes a language model sharper: it loses more when rounded, and forgets more when it "
    "learns something else. Averaging the weights and SAM help. Of the papers the abstracts were read, so no size of "
    "theirs is held against ours.",
    figure="damage",
    points=(
        Point("Decay leads to sharper minima", "decay at the end leads to sharper minima", "λ_max, decayed / constant"),
        Point("Decay leads to sharper minima.*: cosine", "cosine decay leads to sharper minima", "cosine / constant"),
        Point("Decay raises the error of quantisation", "a decayed rate makes rounding cost more", "WSD / constant"),
        Point("Decay makes it forget more", "a decayed rate makes it forget more", "WSD / constant"),
        Point("Averages withstand rounding", "averaged weights withstand rounding better", "average / WSD"),
        Point("Sharper networks lose more at 4 bits", "sharper networks lose more at 4 bits", "Kendall's tau"),
        Point("Sharper networks forget more", "sharper networks forget more", "Kendall's tau"),
        Point("under a drift in random", "curvature tells what a drift costs", "measured over expected"),
    ),
    beside_the_paper="The figures of the three papers were not at hand; their abstracts were read. Ours has rounding "
    "and forgetting of the same networks beside each other, a mark for each, so that one sees where "
    "sharpness orders the five ends of training and where one end alone makes the relation. It shows "
    "the ends alone, and not how sharpness grows while the rate falls.",
    cannot_show="One network of 470,000 weights learns half a megabyte, thousands of times less than in the papers. "
    "The three short ends begin with an optimiser that has forgotten its moments, the cosine does not; SAM has one "
    "radius; and the rate of fine-tuning is one for all, whereas the best may differ. That sharper networks "
    "forget more or less rests on one arm, the cosine, whose networks differ most from all others: the variant without "
    "cosine says what is left.",
)
