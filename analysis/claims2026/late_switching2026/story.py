"""Late switching in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="Small batches may become large late: the loss soon catches up with that of large ones. So the same data go "
    "farther than with an early switch or with either batch alone. Of the paper the abstract was read, no more.",
    figure="rates",
    points=(
        Point("lower than an early one", "a late switch ends lower than an early one", "test loss, late less early"),
        Point("lower than large batches", "a late switch ends lower than large batches", "test loss, late less large"),
        Point("lower than small batches", "a late switch ends lower than small batches", "test loss, late less small"),
        Point("Fast catch-up", "after a switch the loss catches up with large batches", "share of the lead left"),
    ),
    beside_the_paper="The paper's figure was not at hand; its abstract was read alone. Ours shows all four schedules "
    "at every learning rate tried, so that one sees whether an order of schedules hangs on one rate, "
    "and that the best rate of large batches lies at the edge. Its bars are wide, as they show the "
    "spread over seeds and not that of the differences, and it shows no course of the loss, on which "
    "a reader would see the loss catch up.",
    cannot_show="One layer of 29,000 weights sees half a megabyte twice at a rate that stays, and large batches "
    "have their best rate at the edge of those tried: they may end lower. The paper has models of up to 1.1 billion "
    "weights and schedules that were not read.",
)
