"""Show a study in a browser: ``python -m nas.dashboard --study quickstart``."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from nas.console import console, run
from nas.errors import UserError
from nas.options import CodeOptions, LocationOptions, People, command, new_app
from nas.study.files import check_study_exists

app = new_app()


@command(app)
def main(
    location: LocationOptions,
    code: CodeOptions,
    study: Annotated[str, typer.Option(help="Name of a study that was begun.")] = "quickstart",
    data: People = None,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8080,
) -> None:
    """Show a study, and all others in its storage, on optuna-dashboard until Ctrl-C.

    It accepts connections from this machine only: the dashboard has no login. From elsewhere, forward the port:
    ssh -L 8080:127.0.0.1:8080 machine.

    Example: python -m nas.dashboard --study quickstart --port 8081
    """
    if not 0 <= port < 65536:
        raise UserError(f"--port {port}: must be from 0 to 65535")
    check_study_exists(study, location.runs, location.storage)

    from nas.study.analysis.results import load_results
    from nas.study.experiment import load
    from nas.study.reporting.dashboard import save_panels, serve_dashboard
    from nas.study.storage.engine import mask_password

    experiment, opened = load(study, location.runs, location.storage, data)
    save_panels(load_results(experiment, opened))
    with serve_dashboard(experiment, opened, port) as (address, serve):
        console.print(f"study {study} of {mask_password(experiment.url)}\n{address}\nCtrl-C ends it", soft_wrap=True)
        with suppress(KeyboardInterrupt):
            serve()


if __name__ == "__main__":
    run(app)
