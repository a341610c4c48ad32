"""The meaning of each field of a record, and of each detail of each probe: docs/records.md is made of it.

``a.b`` is a key within a key, ``a[].b`` one within each entry of a list. What begins with *where* is not in every
record. A test measures every probe and finds each of its keys here.
"""

from __future__ import annotations

from sharpness.records.probe_record import ProbeRecord, field_words

FIELDS: dict[str, str] = {
    "probe": "the name of the probe, as in `sharpness probes`",
    "quantity": "what of it the value is, with the matrix or the variant in its name",
    "value": "the number itself",
    "lower": "the lower end of the interval about the examples given: proven, estimated or found, see numbers.md",
    "upper": "the upper end of that interval",
    "confidence": "the probability with which the interval holds",
    "residual": "`\\|\\|A v - lambda v\\|\\|` of the eigenvector that the value belongs to",
    "converged": "whether the iteration met its tolerance",
    "knobs": "the knobs of the probe by name, those with their defaults too",
    "num_hvps": "products of the curvature matrix with a vector",
    "num_gradients": "gradients over all examples, or as many parts of one",
    "num_forwards": "forward passes over all examples",
    "seconds": "wall time of the measurement",
    "peak_memory": "the peak of the process so far in bytes; on CUDA of what it allocated there",
    "seed": "the seed of whatever was drawn at random",
    "dtype": "the precision of weights and products, such as float32",
    "device": "where it was computed, such as cpu",
    "threads": "threads of torch",
    "num_examples": "examples that the loss is a mean over",
    "norm": "what BatchNorm did: frozen, batch or recalibrate",
    "weight_decay": "the factor of the L2 penalty in the loss",
    "batch_sizes": "the sizes of the batches that the data were given in, largest first",
    "hvp_backend": "how products were made: exact, compiled or finite_difference",
    "parameters": "the weights covered: `count`, `tensors`, and `selection` (trainable, or globs of names)",
    "data_sha256": "the hash of the data as the loss saw them",
    "self_check": "what was found before the first number: of the data, the mean, the slope, and of the products "
    "where the probe made any",
    "checkpoint_sha256": "the hash of the weights file that was probed",
    "versions": "of Python, this package, torch, NumPy and SciPy",
    "sampling": "an interval over the choice of examples, where they are a random sample: `lower`, `upper`, "
    "`confidence`, and how it was made",
    "details": "what only this probe reports, and what the command says of checkpoint, network and data: below",
    "reasons": "why a field is null or falls short, under the field's name",
    "schema": "the version of the record's form",
}
OF_MATRIX = {
    "matrix": "which curvature matrix it is of: hessian, gauss_newton, fisher, ...",
    "hvp_error": "the estimated error of a product with a unit vector beyond rounding; 0 for exact ones",
    "kept_bytes": "memory of the graphs that products reuse",
    "targets": "where the matrix is Fisher's: whose targets they are",
    "split": "where LogSoftmax was taken together with the criterion: how",
    "compiled": "where a compiled product was asked for: whether it was used, and why",
    "num_shared_hvps": "where products were taken from another solve of the same loss: how many",
}
OF_EIGENVALUES = {
    "which": "top, bottom, both or magnitude",
    "eigenvalues": "all that were asked for, in that order",
    "lowers": "the lower end for each of them; all intervals hold together",
    "uppers": "the upper ends",
    "residuals": "`\\|\\|A v - lambda v\\|\\|` of each",
    "confidence": "that of all intervals together; null where the start was given",
    "converged": "whether every interval is narrow enough",
    "stopped_by": "certainty, num_products, seconds, or exhausted: no product can tell more",
    "num_products": "products of these solves",
    "num_restarts": "thick restarts",
    "num_starts": "random starts: the first, and one for each verification",
    "defect": "`\\|\\|Q^T A Q - T\\|\\|`, by which the intervals are widened; null where no basis is kept",
    "history": "how the first one closed: products, Ritz value, lower and upper end",
    "reasons": "why something is null, not converged or an estimate",
}
OF_DRAWS = {"draws": "where Fisher's targets were drawn: the spread over the draws, which is in the interval"}
OF_ESTIMATE = {
    "value": "the estimate",
    "standard_error": "its standard error",
    "lower": "the estimate less the half width of the look at which it stopped",
    "upper": "and with it added",
    "confidence": "of the interval, over all looks",
    "converged": "whether it is narrow enough",
    "stopped_by": "certainty, num_products or seconds",
    "num_products": "products of the estimate",
    "method": "xtrace, hutch++, hutchinson or krylov; or how a Fisher matrix was taken exactly",
    "looks": "each look at it: products, estimate, half width",
    "exact": "whether it is from n products with unit vectors, without sampling error",
    "reasons": "why it is not converged",
    "squared_frobenius": "an estimate of the sum of squared eigenvalues",
    "squared_frobenius_standard_error": "its standard error",
    "num_products_that_fit": "the most products that memory and knobs allow",
}
OF_MEAN = {
    "standard_error": "that of the mean",
    "num_drawn": "draws that were made",
    "num_undefined": "draws without a value, left out",
    "looks": "each look at it: draws, mean, half width",
}
OF_RISE = {"loss": "the loss at the weights"}
OF_WORST_CASE = OF_RISE | {
    "num_parts": "parts of the data, each with a maximum of its own",
    "rise_by_start": "the mean rise that each start of the search came to",
    "largest_radius": "the largest radius among the maxima",
}
OF_CURVES = {
    "train_loss": "the loss at each point",
    "train_accuracy": "the accuracy there; null where there is none",
    "test_loss": "the same over the test split; null without one",
    "test_accuracy": "and its accuracy",
}
OF_PLANE = {
    "xs": "the grid along the first axis",
    "ys": "the grid along the second axis",
    **{name: f"{words}, a list for each y" for name, words in OF_CURVES.items()},
    "axes[].name": "the name of an axis",
    "axes[].unit": "its unit",
    "marks[].name": "the name of a marked point",
    "marks[].x": "its place along the first axis",
    "marks[].y": "its place along the second axis",
    "marks[].distance": "its distance from the plane",
    "marks[].train_loss": "the loss at its own weights",
    "marks[].train_accuracy": "the accuracy there",
    "marks[].test_loss": "the loss over the test split there; null without one",
    "marks[].test_accuracy": "and the accuracy",
    "trajectory": "places of the checkpoints of a training on the plane; null where there are none",
    "cosine": "of the two directions before they were made orthogonal",
}
NORMALISED = {"normalisation": "filter or none"}
MEASURED = "the number, its interval, and where it has none the reason"

DETAILS: dict[str, dict[str, str]] = {
    "eigenvalues": OF_EIGENVALUES | OF_DRAWS | OF_MATRIX,
    "layers": {
        "layers[].name": "the layer",
        "layers[].kind": "the class of its module; null for a parameter that only the whole network has",
        "layers[].size": "its weights",
        "layers[].num_hvps": "products of its block",
        "layers[].sampling": "its interval over the choice of examples",
        **{f"layers[].{name}": words for name, words in (OF_EIGENVALUES | OF_DRAWS | OF_MATRIX).items()},
    },
    "density": OF_MATRIX
    | {
        "size": "n, the number of weights",
        "steps": "products asked for per start",
        "num_products": "products made",
        "stopped_by": "steps or seconds",
        "confidence": "of the band of the curve",
        "seed": "of the starts",
        "trace": "the sum of the eigenvalues",
        "trace_standard_error": "its standard error",
        "frobenius_norm": "the root of the sum of their squares",
        "frobenius_norm_standard_error": "its standard error",
        "num_negative": "n times the mass below 0",
        "num_negative_standard_error": "its standard error, of the sampling alone",
        "num_negative_bracket": "bounds of these starts' own mass below 0, times n",
        "effective_rank": "`(sum \\|lambda\\|)^2 / sum lambda^2`",
        "linear_threshold": "lambda_0, the mean of `\\|lambda\\|`, where the axis goes over from linear to logarithmic",
        "moment_error": "the largest mismatch of the quadrature's moments and measured ones",
        "defect": "the largest `\\|\\|Q^T A Q - T\\|\\|` over the largest node",
        "converged": "whether all steps were made and the checks agree",
        "reasons": "why not",
        "num_starts": "random starts",
        "kernel_width": "least standard deviation of the Gaussians that smooth the curve, in asinh(lambda / lambda_0)",
        "nodes": "for each start the nodes of its quadrature",
        "weights": "for each start their masses, which add up to 1",
        "smallest_node": "never below the smallest eigenvalue, rounding aside",
        "largest_node": "never above the largest eigenvalue, rounding aside",
        "grid": "eigenvalues at which the curve is given",
        "density": "the density there, per unit of asinh(lambda / lambda_0)",
        "density_lower": "the lower end of its band; null for one start",
        "density_upper": "the upper end",
        "reorthogonalised": "whether the basis was kept orthogonal",
    },
    "trace": OF_ESTIMATE | OF_MATRIX,
    "diagonal": OF_MATRIX
    | {
        "method": "unit vectors, which is exact, or random signs",
        "stopped_by": "certainty, num_products or seconds",
        "relative_error": "the error over the diagonal, both as lengths of vectors",
        "layers[].name": "the parameter",
        "layers[].size": "its entries",
        "layers[].sum": "their sum",
        "layers[].sum_error": "its standard error",
        "layers[].mean": "their mean",
        "layers[].mean_error": "its standard error",
        "layers[].smallest": "the smallest entry",
        "layers[].smallest_error": "its standard error",
        "layers[].largest": "the largest entry",
        "layers[].largest_error": "its standard error",
        "layers[].negative": "entries below 0",
        "layers[].entry_error": "the root mean square of the entries' standard errors",
    },
    "keskar": OF_RISE
    | {
        "epsilon": "the size of the box",
        "start": "where the search began: gradient_sign, random or zero",
        "max_loss": "the largest loss that was found in the box",
        "share_at_bound": "the share of coordinates at the box's bounds there",
        "num_iterations": "iterations of L-BFGS-B",
        "message": "what SciPy says of its end",
        "second": "where a second box was asked for: the same numbers of it",
    },
    "keskar_maximum": OF_RISE
    | {
        "boxes[].epsilon": "the size of a box",
        "boxes[].phi": "Metric 2.1 in it, in percent",
        "boxes[].max_loss": "the largest loss that was found in it",
        "boxes[].share_at_bound": "the share of coordinates at its bounds there",
        "boxes[].num_gradients": "gradients of its climbs",
        "boxes[].starts[].phi": "where a climb came to",
        "boxes[].starts[].ended": "why it ended",
        "boxes[].starts[].losses": "the best loss after each gradient",
    },
    "worst_case": OF_WORST_CASE,
    "geodesic_sharpness": OF_WORST_CASE
    | {"pairs": "the heads of each pair of matrices", "condition": "the worst condition of a product of a pair"},
    "sam": OF_RISE | {"num_parts": "parts of the data, each with a step of its own"},
    "average_case": OF_RISE | {"standard_error": "that of the mean", "pairs": "the mean rise of each pair +d, -d"},
    "critical_sharpness": OF_RISE
    | {
        "slope": "the slope along the update: how fast the loss falls at first",
        "noise": "the rounding noise of the loss",
        "crossing.step": "eta_c, the step at which the loss is above its start again",
        "crossing.low": "a step at which it is not",
        "crossing.high": "a step at which it is",
        "crossing.fall": "how far the loss fell in between",
        "crossing.jumped": "whether the checks found an earlier crossing than the first bracket's",
        "crossing.trials": "each step that was tried, with the loss",
    },
    "directional_sharpness": OF_RISE
    | {
        "slope": "`d^T g` along the update d",
        "curvature": "`d^T H d`",
        "rayleigh_quotient": "`d^T H d / d^T d`",
    },
    "batch_sharpness": OF_MEAN
    | {"batch_size": "examples of a batch", "mean_over_means": "`E[g^T H g] / E[g^T g]` of the same batches"},
    "interaction": OF_MEAN
    | {
        "batch_size": "examples of a batch",
        "gni": "`E g_B^T H g_B / \\|g\\|^2`",
        "ias": "the mean of `g_B^T H g_B / \\|g_B\\|^2`",
        "squared_gradient": "`\\|g\\|^2` of the whole loss",
    },
    "pac_bayes": OF_RISE
    | {
        "flatness": "1 / sigma^2",
        "search.low": "a sigma whose mean rise is at most the stated one",
        "search.high": "one whose rise is larger",
        "tried": "each sigma with the mean rise and its standard error",
    },
    "adaptive_radius": OF_RISE
    | {
        "sharpness": "1 / alpha^2",
        "search.low": "a radius whose rise is at most the stated one",
        "search.high": "one whose rise is larger",
        "tried": "each radius with the rise that was found",
    },
    "rounding": OF_MATRIX
    | {
        "rows[].bits": "bits of a weight",
        "rows[].expected": "the rise that the curvature expects of independent errors",
        "rows[].expected_lower": "the lower end of the interval about that mean",
        "rows[].expected_upper": "the upper end",
        "rows[].single_lower": "the lower end for one such rounding",
        "rows[].single_upper": "the upper end",
        "rows[].quadratic": "the quadratic model along the errors that were made",
        "rows[].measured": "the rise of the loss itself",
        "rows[].noise": "the rounding noise of that difference",
        "rows[].verdict": "of the quadratic model: holds, fails or below noise",
        "rounded_weights": "weights that were rounded: those of matrices",
    },
    "drift": OF_MATRIX
    | {
        "length": "by how much the weights moved",
        "rows[].direction": "random or sharpest",
        "rows[].quadratic": "the rise by the quadratic model",
        "rows[].lower": "where directions are random: the lower end of its interval",
        "rows[].upper": "where directions are random: the upper end",
        "rows[].quadratic_there": "the model along the directions that were measured",
        "rows[].measured": "the rise of the loss itself",
        "rows[].measured_error": "its standard error over directions",
        "rows[].noise": "the rounding noise of that difference",
        "rows[].verdict": "of the quadratic model: holds, fails or below noise",
        "most_by_quadratic": "what the quadratic model cannot exceed at that distance",
    },
    "learning_coefficient": OF_RISE
    | {
        "nbeta": "the inverse temperature times the examples",
        "localization": "how strongly the chains are held near the weights",
        "step": "the step of the chains",
        "chains": "the coefficient by each chain",
        "r_hat": "the agreement of the chains; 1 is perfect",
        "relaxed": "the share of its stationary variance that each direction has after the burn-in, if quadratic",
        "distances": "how far each chain ended from the weights",
        "gaussian": "the coefficient of the quadratic approximation, from the spectrum, with its interval as for occam",
        "gaussian_at_step": "the same with the bias of the finite step",
        "largest_eigenvalue": "of the Hessian, which bounds the step",
        "trace_of_losses": "the losses along the chains",
    },
    "relative_flatness": OF_MEAN
    | {
        "layers[].name": "the weight matrix",
        "layers[].relative_flatness": "its own",
        "layers[].standard_error": "the standard error of that",
    },
    "norms": {
        "largest": "the largest weight by absolute value",
        "spectral_sum": "the sum of the matrices' spectral norms",
        "log_spectral_product": "the log of their product",
        "layers[].name": "the parameter",
        "layers[].l2": "its Euclidean norm",
        "layers[].spectral": "its spectral norm; null for a vector",
    },
    "occam": OF_MATRIX
    | {
        "standard_error": "that of the sum over the starts",
        "gap": "by how much the two quadratures of the same starts differ; null where there is no lower end",
        "cost": "`N L(w) + lambda/2 \\|w\\|^2`, L without the loss's own penalty",
        "log_evidence": "minus the cost and the value",
        "num_nodes_outside": "nodes of the spectrum below minus the prior's precision, where there is no value",
        "stopped_by": "steps or seconds",
    },
    "fisher_trace": OF_ESTIMATE | OF_MATRIX,
    "fisher_rao_norm": OF_MATRIX | {"squared_length": "`w^T w`", "root": "the root of the value"},
    "preconditioned_sharpness": OF_EIGENVALUES
    | OF_MATRIX
    | {
        "edge_learning_rate": "the rate at which Adam would be at its edge of stability",
        "preconditioner_source": "where P is from: the optimiser's own state, or gradients",
    },
    "generalised_sharpness": OF_MATRIX
    | {
        "gradient_dual_norm": "the length of the gradient in the dual norm",
        "edge_step": "the length of plain steps at the edge of stability",
        "start_values": "the curvature that each start came to",
        "local_maxima": "starts that ended in a local maximum",
    },
    "gradient_noise": {
        "gradient_square": f"`\\|G\\|^2`: {MEASURED}",
        "noise_trace": f"`tr Sigma`: {MEASURED}",
        "simple_noise_scale": f"`B_simple`: {MEASURED}",
        "gradient_curvature": f"`G^T H G`: {MEASURED}",
        "noise_curvature": f"`tr(H Sigma)`: {MEASURED}",
        "noise_scale": f"`B_noise`: {MEASURED}",
        "largest_step": f"`epsilon_max`: {MEASURED}",
        "largest_improvement": f"the fall that this step brings: {MEASURED}",
        "by_batch_size[].batch_size": "a batch size",
        "by_batch_size[].step": f"the best step there: {MEASURED}",
        "by_batch_size[].improvement": f"the fall that it brings: {MEASURED}",
        "unit": "whose gradients were taken: of examples or of batches",
        "num_units": "how many",
        "method": "how: vmap, loop or batches",
        "method_reason": "why",
        "data_noise_scale": "`B_simple` with these examples as the whole distribution",
        "sgd_noise_scale": "g of Smith and Le; null without learning_rate and batch_size",
    },
    "preconditioned_noise": {
        "gradient_square": f"`G^T P^-1 G`: {MEASURED}",
        "noise_trace": f"`tr(P^-1 Sigma)`: {MEASURED}",
        "unit": "whose gradients were taken: of examples or of batches",
        "num_units": "how many",
        "method": "how: vmap, loop or batches",
        "method_reason": "why",
        "preconditioner_source": "where P is from: the optimiser's own state, or gradients",
    },
    "distance": {"start_norm": "the length of the weights at the start", "end_norm": "their length now"},
    "interpolation": OF_CURVES
    | {
        "alphas": "the places on the path; 0 and 1 are the checkpoints",
        "length": "the distance of the checkpoints",
        "path": "line or arc",
    },
    "pyhessian": {
        "ours": "the eigenvalue found here",
        "ours_lower": "the lower end of its interval",
        "ours_upper": "the upper end",
        "relative_difference": "of PyHessian's number from ours",
        "agree": "whether it lies in the interval, to its own tolerance",
    },
    "barrier": {
        "plain": "the line as it is: alphas, losses and accuracies, barrier, test_barrier, length",
        "matched": "the same after hidden units were permuted; null without",
        "matching": "what the matching did: groups, units, moved, sweeps, converged, objective and change of outputs",
        "matched_barrier": "the barrier on the matched line",
    },
    "connectivity": OF_CURVES
    | {
        "ts": "the places on the curve",
        "line": "loss and accuracy on the straight line at the same places",
        "line_barrier": "the barrier there",
        "curve": "the kind of curve: bezier or chain",
        "length": "its length",
        "line_length": "that of the line",
        "bends": "points of the curve that were trained",
        "steps": "updates of that training",
        "training_norm": "what BatchNorm did meanwhile",
        "training_steps": "updates at which its loss was noted",
        "training_losses": "these losses",
    },
    "rays": {
        "distances": "the places on each ray",
        **{name: f"{words}, a list for each ray" for name, words in OF_CURVES.items()},
        **NORMALISED,
        "norm_of_weights": "the length of the weights",
        "standard_error": "that of the mean rise at the largest distance",
    },
    "random_plane": OF_PLANE | NORMALISED,
    "eigen_plane": OF_PLANE
    | NORMALISED
    | {"eigenvalues": "those of the two directions", "residuals": "`\\|\\|A v - lambda v\\|\\|` of each"},
    "three_point_plane": OF_PLANE | NORMALISED,
    "trajectory_plane": OF_PLANE
    | NORMALISED
    | {"explained_variance": "the share of the variance that each direction explains"},
}
OF_ADVICE: dict[str, dict[str, str]] = {
    "branches": {
        "rows[].factor": "the multiple of the run's batch",
        "rows[].batch_size": "the batch size of the branch",
        "rows[].learning_rate": "its rate",
        "rows[].beta2_half_life": "the tokens in which Adam's second moment halves; null without one",
        "rows[].order": "which order of the examples, from 0",
        "rows[].window": "the examples that it was to see",
        "rows[].updates": "its updates",
        "rows[].examples": "the examples that it saw, in whole passes",
        "rows[].loss": "its loss at the end; null where it was not finite",
        "rows[].smoothed": "that of its batches, the last with weight 1/2, the one before with 1/4 and so on",
        "batch_size": "the batch size of the run",
        "rate_rule": "how the rate goes with the batch: linear or sqrt",
        "optimizer_state": "where the branches have the optimiser's state from",
    },
    "advice": {
        "settings": "what the checkpoint was trained with",
        "noise_scales": f"by geometry: {MEASURED}",
        "confidence": "of the intervals",
        "overhead": "the share of more examples that perfect scaling allows",
        "choices[].name": "as it is, perfect scaling, noise scale or branches",
        "choices[].batch_size": "the batch size; null with a reason",
        "choices[].lower": "the lower end of its interval",
        "choices[].upper": "the upper end",
        "choices[].learning_rate": "the rate that goes with it",
        "choices[].beta2": "Adam's beta2 of the same half-life",
        "choices[].warmup_updates": "updates of the warm-up",
        "choices[].updates": "updates to a loss, over the fewest of any batch",
        "choices[].examples": "examples to a loss, over the fewest of any batch",
        "choices[].rests_on": "what it rests on",
        "choices[].reasons": "why what is null is missing",
        "rests_on": "what rate, beta2 and warm-up rest on, and for Adam the choice of the noise scale",
        "unknown": "what cannot be known from here",
        "advised": "the name of the choice that is advised",
    },
}
"""The records of ``sharpness advise`` that no probe makes."""
EVERYWHERE = {
    "warnings": "where there are any: what to bear in mind, in sentences",
    "identity": "network, criterion, your own files and the loss at the checkpoint, by which a record is found again",
    "checkpoint": "the file: its path, what was read in it, the names used, missing and left over, types and casts",
    "model": "the network: its specification and size",
    "data": "the data: their specification, how many of how many examples",
    "criterion": "the loss by name",
    "at_checkpoint": "loss and accuracy there, and how many examples",
    "subset": "of a run: how many of its examples were drawn, null for all",
    "recalibrated": "true where BatchNorm's statistics were taken anew",
    "other_checkpoint": "the path of a second checkpoint; `other_checkpoint_sha256` its hash, `other_run_id` its run",
    "others": "the same of each of several further points",
    "start_checkpoint": "the path of the weights at the start; `start_checkpoint_sha256` their hash",
    "trained_on_examples": "examples of `--trained-on`; `trained_on_sha256` their hash",
    "test_examples": "examples of the test split of lines and planes; `test_data_sha256` their hash",
}
RUN: dict[str, dict[str, str]] = {
    "manifest.json": {
        "schema": "the version of the manifest's form",
        "run_id": "the name of the run: what was trained, with a hash of the config",
        "config_sha256": "the hash of `config.toml`",
        "status": "finished or diverged",
        "reason": "where it diverged: at which update",
        "ended_by": "where it finished: the budget, the patience or the goal that ended it",
        "reached": "where a goal ended it: the number that met it",
        "steps_to_result": "where a goal ended it: updates until then",
        "final": "where it finished: losses and accuracies of the final weights",
        "step": "updates",
        "epochs_done": "epochs",
        "examples": "examples seen",
        "seconds": "time of training",
        "average": "where weights were averaged: their file, how many, loss and accuracy",
        "averages": "where several averages were kept: the same of each",
        "data_sha256": "the hash of the data set",
        "data_source": "where it is from",
        "device": "where it was trained",
        "processes": "processes that shared each batch",
        "threads": "threads of torch",
        "versions": "of Python, this package, torch, NumPy and SciPy",
        "git_commit": "the commit of the code, null outside a repository",
        "command": "the command line",
        "files": "the SHA-256 of every file of the run",
    },
    "train.jsonl": {
        "epoch": "epochs done",
        "step": "updates done",
        "train_loss": "the mean loss of the epoch's batches, of epoch 0 of all examples",
        "train_accuracy": "the same of the accuracy",
        "test_loss": "over the test split; null where it was not due",
        "test_accuracy": "its accuracy",
        "learning_rate": "where there were updates: the rate at the epoch's start",
        "batch_size": "where there were updates: the batch size",
        "g": "where there were updates: the noise scale of SGD, Smith and Le 2018",
        "seconds": "time of training so far",
        "reason": "where the loss was not finite: at which update",
    },
}


def described(path: str, words: dict[str, str]) -> bool:
    """Say whether a key, or one that it lies in, has its words.

    >>> described("crossing.step", {"crossing.step": "eta_c"}), described("plain.length", {"plain": "the line"})
    (True, True)
    """
    return any(path == known or path.startswith((f"{known}.", f"{known}[]")) for known in words)


def rows_of_fields() -> list[tuple[str, str, str]]:
    """Return for each field of a record its name, what it may hold, and what it means."""
    kinds = field_words()
    return [(name, kinds[name], FIELDS[name]) for name in ProbeRecord.__dataclass_fields__]
