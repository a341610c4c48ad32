"""``sharpness train``: one run from a config."""

from __future__ import annotations

from sharpness.checkpoints.run_folders import load_run_data
from sharpness.cli.options import Train
from sharpness.cli.output import make_console, say, show_progress
from sharpness.config import from_toml
from sharpness.environment import choose_device
from sharpness.errors import RunError
from sharpness.runs import RunFolder
from sharpness.training import check_config, train


def run_train(command: Train) -> None:
    """Train, or go on, and print where it ended."""
    console = make_console()
    config, device = from_toml(command.config), choose_device(command.device)
    check_config(config)
    dataset = load_run_data(config, command.data_dir)
    run = RunFolder.create(command.out, config)
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
