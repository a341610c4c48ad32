"""McCandlish et al. 2018 in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="The noise scale of the gradient, B_simple, predicts how large a batch is still useful, and it grows "
    "while the network learns.",
    figure="saturation",
    points=(
        Point(
            "The best step saturates with",
            "the best step grows with the batch and saturates at the noise scale",
            "bend fitted over scale measured",
        ),
        Point(
            "The predicted best step is right",
            "the best step of a batch is predicted to a factor of 2",
            "found over predicted",
        ),
        Point(
            "The mean noise scale until the goal predicts",
            "B_simple predicts the critical batch to a factor of 10",
            "B_simple over B_crit",
        ),
        Point(
            "The noise scale grows tenfold",
            "B_simple grows tenfold while the loss falls from 1 to 0.01",
            "end over start",
        ),
        Point(
            "Steps and examples to the goal",
            "steps and examples to a goal trade off along a hyperbola",
            "spread of log steps",
        ),
        Point("to the inverse learning rate", "B_simple is proportional to the inverse learning rate", "exponent"),
        Point(
            "does not depend on the size of the data",
            "the number of training images does not matter to B_simple",
            "more data over less",
        ),
        Point(
            "by branches is tenfold",
            "branches (Merrill et al.) give a batch ten times as large as B_simple",
            "their batch over B_simple",
        ),
    ),
    beside_the_paper="Figure 3 of the paper draws the formula: the speed of training against the batch size in units "
    "of the noise scale. Its one curve has no units and names both regimes and the turning point "
    "between them, which is the better explanation. Ours tests it: best steps found by line searches "
    "at several moments of training, with intervals, on curves that are predicted from gradients and "
    "Hessian with nothing fitted.",
    cannot_show="One small network and one data set; branches begin at two moments alone, with three batch sizes. "
    "Language models and reinforcement learning are not run.",
)
