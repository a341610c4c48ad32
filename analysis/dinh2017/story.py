"""Dinh et al. 2017 in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="A rescaling of its weights changes nothing that a ReLU network computes, and makes a minimum as sharp as "
    "one likes. So sharpness alone says nothing about generalisation.",
    figure="curvature",
    points=(
        Point("The rescaling changes no output", "the rescaling changes no output", "change over output"),
        Point("Keskar's box moves", "the rescaling moves phi", "factor"),
        Point(
            "makes the flatter of SB and LB the sharper",
            "the flatter of SB and LB can be made the sharper one",
            "lambda_max over the other's",
        ),
        Point("Relative flatness does not move", "relative flatness stays as it was", "factor"),
        Point("Fisher-Rao norm does not move", "the Fisher-Rao norm stays as it was", "factor"),
        Point(
            "is at or above its bound",
            "lambda_max follows the bound that the layers' own curvatures give",
            "lambda_max over the bound",
        ),
        Point(
            "No α changes the order",
            "no rescaling changes the order of SB and LB by an invariant measure",
            "largest value over the other's",
        ),
        Point("infinite volume", "the region of low loss around a minimum has infinite volume", "growth over theory"),
    ),
    beside_the_paper="The paper has sketches alone, such as the level curves of a loss of two weights, along which a "
    "rescaling moves without a change. They show at a glance why the rescaling makes a minimum sharp, "
    "which ours do not. Ours measure it: lambda_max and the trace of trained networks, each seed "
    "drawn, beside what the layers' own curvatures predict.",
    cannot_show="The networks were rescaled on purpose; whether training ends in such places is not tested.",
)
