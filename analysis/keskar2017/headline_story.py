"""Sharpness and generalisation at one training loss, in plain words."""

from analysis.report.story import Point, Story

STORY = Story(
    claim="Large batches generalise worse because their minima are sharper. Critics say that the rate, the number of "
    "updates or the training loss differ instead: here the runs that are ranked end at one training loss.",
    figure="conditions",
    points=(
        Point(
            "Sharper minima have a lower test accuracy",
            "sharper minima have a lower test accuracy",
            "tau, lambda_max",
        ),
        Point("Sharper minima have a higher test loss", "sharper minima have a higher test loss", "tau, lambda_max"),
        Point("LB generalises worse", "LB generalises worse at one rate", "LB - SB"),
        Point("LB is 1 to 2 orders sharper", "LB is ten to a thousand times sharper by phi", "phi, LB over SB"),
        Point(
            "linear rate LB is worse by no more",
            "LB with a rate in proportion to B is no worse than SB",
            "LB - SB",
        ),
        Point("tuned rates too", "LB is sharper when the rate is tuned at each batch", "phi, LB over SB"),
        Point(
            "Noise pushes the weights out",
            "small batches leave the sharp minimum of LB for a flatter one",
            "phi, SB over LB going on",
        ),
        Point(
            "What noise finds there generalises better",
            "the flatter minimum that they find there generalises better",
            "SB - LB going on",
        ),
    ),
    beside_the_paper="The paper has no figure of this: it gives accuracy and sharpness of SB and LB in tables, and "
    "Figure 4 draws both against the batch size. Its tables have six networks on the whole of MNIST, "
    "TIMIT and CIFAR, with gaps of up to five points, where ours has one small network. Ours changes "
    "many things besides the batch, ends them at one training loss, sets test loss beside accuracy, "
    "and shows by two measures that no rescaling moves whether the relation is one of sharpness "
    "alone.",
    cannot_show="One network of three hidden layers without normalisation learns a thousand images, a fifth of whose "
    "labels are random. What makes minima sharp or flat is the training alone, in thirty ways. Held-out images do not "
    "tell the best of three rates for SB, between which sharpness differs many times. Runs with augmentation stop "
    "after 300 epochs above the training loss of the others and are in no ranking, and those that go on from a minimum "
    "do so for 40 epochs. All others take the epochs and updates that they need to that loss, so that none is trained "
    "less than another; equal epochs and equal updates, for which critics ask too, are then impossible, and are among "
    "the conditions of the study of Keskar et al. (preset full).",
)
