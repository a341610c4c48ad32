"""``sharpness train``: one run from a config."""

from __future__ import annotations

from sharpness.cli.options import Train
from sharpness.cli.output import make_console, say, show_progress
from sharpness.config import from_toml
from sharpness.errors import RunError
from sharpness.machine.distributed import from_all_ranks, on_all_ranks, rank
from sharpness.machine.environment import choose_device
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_run_data
from sharpness.training import check_config, train
from sharpness.training.processes import processes


def run_train(command: Train) -> None:
    """Train, or go on, and print where it ended."""
    config, device = from_toml(command.config), choose_device(command.device)
    check_config(config)
    with processes(device) as device:
        console = make_console(rank() > 0)  # the others are silent
        dataset = on_all_ranks(lambda: load_run_data(config, command.data_dir))
        run = from_all_ranks(on_all_ranks(lambda: RunFolder.create(command.out, config) if rank() == 0 else None))[0]
        with show_progress(console, f"train {config.run_id}", "epochs") as progress:
            manifest = train(config, dataset, run, device, progress)
    if manifest["status"] != "finished":
        raise RunError(f"{command.out}: the run {manifest['status']}: {manifest['reason']}; it is recorded as such")
    final = manifest["final"]
    say(
        console,
        f"{command.out}: {manifest['step']} steps in {manifest['seconds']:.0f} s; "
        f"train loss {final['train_loss']:.4f}, accuracy {100 * final['train_accuracy']:.2f} %; "
        f"test loss {final['test_loss']:.4f}, accuracy {100 * final['test_accuracy']:.2f} %",
    )
