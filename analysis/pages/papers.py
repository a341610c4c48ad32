"""The papers in their order: how each is cited, and which studies here reproduce it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A paper, or several on one subject.

    ``heading`` names it in short, ``citation`` in full; ``arxiv`` holds its numbers there; ``studies`` are the names of
    the scripts that give verdicts on its claims, with a preset that asks a question of its own behind a dash; their
    figures lie in ``figures/<script>/``.
    """

    heading: str
    citation: str
    arxiv: tuple[str, ...]
    studies: tuple[str, ...]

    @property
    def links(self) -> tuple[tuple[str, str], ...]:
        """The papers on arXiv: a label and an address each.

        >>> PAPERS["dinh2017"].links
        (('arXiv 1703.04933', 'https://arxiv.org/abs/1703.04933'),)
        """
        return tuple((f"arXiv {number}", f"https://arxiv.org/abs/{number}") for number in self.arxiv)


PAPERS = {
    "keskar2017-headline": Paper(
        "At one training loss",
        "The question of Keskar et al. 2017 (On Large-Batch Training for Deep Learning), as their critics ask it",
        ("1609.04836",),
        ("keskar2017-headline",),
    ),
    "keskar2017": Paper(
        "Keskar et al. 2017",
        "On Large-Batch Training for Deep Learning: Generalization Gap and Sharp Minima. ICLR 2017",
        ("1609.04836",),
        ("keskar2017",),
    ),
    "dinh2017": Paper(
        "Dinh et al. 2017",
        "Sharp Minima Can Generalize For Deep Nets. ICML 2017",
        ("1703.04933",),
        ("dinh2017",),
    ),
    "mccandlish2018": Paper(
        "McCandlish et al. 2018", "An Empirical Model of Large-Batch Training", ("1812.06162",), ("mccandlish2018",)
    ),
    "shallue2018": Paper(
        "Shallue et al. 2018",
        "Measuring the Effects of Data Parallelism on Neural Network Training. JMLR 2019",
        ("1811.03600",),
        ("shallue2018",),
    ),
    "smith_le2018": Paper(
        "Smith & Le 2018",
        "A Bayesian Perspective on Generalization and Stochastic Gradient Descent. ICLR 2018",
        ("1710.06451",),
        ("smith_le2018",),
    ),
    "smith2018": Paper(
        "Smith et al. 2018",
        "Don't Decay the Learning Rate, Increase the Batch Size. ICLR 2018",
        ("1711.00489",),
        ("smith2018",),
    ),
    "izmailov2018": Paper(
        "Izmailov et al. 2018",
        "Averaging Weights Leads to Wider Optima and Better Generalization. UAI 2018",
        ("1803.05407",),
        ("izmailov2018",),
    ),
    "large_batch_recipes": Paper(
        "Recipes for large batches",
        "Goyal et al. 2017, You et al. 2017 (LARS), Hoffer et al. 2017, Masters & Luschi 2018 and Mikami et al. 2018, "
        "in this order",
        ("1706.02677", "1708.03888", "1705.08741", "1804.07612", "1811.05233"),
        ("large_batch_recipes",),
    ),
    "update_equivalence": Paper(
        "A larger batch for a smaller learning rate",
        "The common answer to why a batch may grow where a learning rate would fall: B steps of batch 1 end near one "
        "step of batch B at B times the rate. No paper of its own; its claims are those of the answer",
        (),
        ("update_equivalence",),
    ),
    "sgd_stability": Paper(
        "Stability of SGD where it is exactly known",
        "Ma, Bassily & Belkin 2018, Mulayoff & Michaeli 2023, and Wu, Ma & E 2018 (How SGD Selects the Global Minima, "
        "NeurIPS 2018), in this order",
        ("1712.06559", "2306.07850"),
        ("sgd_stability",),
    ),
    "cohen2021": Paper(
        "Cohen et al. 2021",
        "Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability. ICLR 2021",
        ("2103.00065",),
        ("cohen2021",),
    ),
    "stochastic_edge": Paper(
        "The edge of stochastic stability",
        "Andreyev & Beneventano 2024 (Edge of Stochastic Stability) and Andreyev et al. 2026 (Momentum Further "
        "Constrains Sharpness at the Edge of Stochastic Stability), in this order",
        ("2412.20553", "2604.14108"),
        ("stochastic_edge",),
    ),
    "bulk_sgd2025": Paper(
        "Song et al. 2025",
        "Does SGD Really Happen in Tiny Subspaces? ICLR 2025",
        ("2405.16002",),
        ("bulk_sgd2025",),
    ),
    "label_noise2026": Paper(
        "Xu et al. 2026",
        "Does SGD Seek Flatness or Sharpness? An Exactly Solvable Model",
        ("2602.05065",),
        ("label_noise2026",),
    ),
    "andriushchenko2023": Paper(
        "Andriushchenko et al. 2023",
        "A Modern Look at the Relationship between Sharpness and Generalization. ICML 2023",
        ("2302.07011",),
        ("andriushchenko2023",),
    ),
    "forgetting2026": Paper(
        "Decay, sharpness, quantisation and forgetting",
        "Yano et al. 2026 (Pre-training LLM without Learning Rate Decay Enhances Supervised Fine-Tuning. ICLR 2026), "
        "Catalan-Tatjer et al. 2025 (Training Dynamics Impact Post-Training Quantization Robustness) and Watts et al. "
        "2026 (Sharpness-Aware Pretraining Mitigates Catastrophic Forgetting. ICML 2026), in this order",
        ("2603.16127", "2510.06213", "2605.02105"),
        ("forgetting2026",),
    ),
    "marek2025": Paper(
        "Marek et al. 2025",
        "Small Batch Size Training for Language Models: When Vanilla SGD Works, and Why Gradient Accumulation Is "
        "Wasteful",
        ("2507.07101",),
        ("marek2025",),
    ),
    "seesaw2025": Paper(
        "Meterez et al. 2025",
        "Seesaw: Accelerating Training by Balancing Learning Rate and Batch Size Scheduling",
        ("2510.14717",),
        ("seesaw2025",),
    ),
    "late_switching2026": Paper(
        "Wang et al. 2026",
        "Fast Catch-Up, Late Switching: Optimal Batch Size Scheduling via Functional Scaling Laws. ICLR 2026",
        ("2602.14208",),
        ("late_switching2026",),
    ),
    "merrill2025": Paper(
        "Merrill et al. 2025",
        "Critical Batch Size Revisited: A Simple Empirical Approach to Large-Batch Language Model Training",
        ("2505.23971",),
        ("merrill2025",),
    ),
}
"""The papers by the name of their study, in the order in which they are shown."""


def paper_of(study: str) -> Paper | None:
    """Return the paper that a study is about; ``None`` for one that is not about a paper.

    >>> paper_of("keskar2017").heading
    'Keskar et al. 2017'
    """
    return next((paper for paper in PAPERS.values() if study in paper.studies), None)
