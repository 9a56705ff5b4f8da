"""List the workers of a study: ``python -m nas.workers --study quickstart``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from nas.console import console, print_tables, run
from nas.options import LocationOptions, command, new_app
from nas.study.files import check_study_exists

app = new_app()


@command(app)
def main(
    location: LocationOptions,
    study: Annotated[str, typer.Option(help="Name of a study that was searched.")] = "quickstart",
    reap: Annotated[bool, typer.Option("--reap", help="Requeue stale trials: each resumes elsewhere.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the workers of a study, on all machines, and its stale trials.

    A trial is stale if it is marked as running but its worker's process is gone,
    or sent no heartbeat for a minute. The next worker that asks for a trial
    requeues it; --reap does so at once.

    Example: python -m nas.workers --study mpii --storage postgresql+psycopg://me@host/nas
    """
    check_study_exists(study, location.runs, location.storage)

    from nas.study.experiment import stored_study
    from nas.study.reporting.worker_status import requeue, stale_table, worker_status, worker_table
    from nas.study.storage.retry import retry_while_unavailable
    from nas.study.storage.study_store import StudyStore

    opened = stored_study(study, location.runs, location.storage)
    url = StudyStore(opened).url
    status = retry_while_unavailable(url, lambda: worker_status(opened))
    requeued: list[int] = []
    if reap:
        requeued = retry_while_unavailable(url, lambda: requeue(opened))
        status = retry_while_unavailable(url, lambda: worker_status(opened))
    if as_json:
        record = {"study": study, "workers": status.workers, "stale": status.stale, "handed_back": requeued}
        print(json.dumps(record))
        return
    console.print(f"study {study}: {status.summary()}", soft_wrap=True)
    print_tables(worker_table(status), stale_table(status))
    if requeued:
        console.print(f"requeued: trial{'' if len(requeued) == 1 else 's'} {', '.join(map(str, requeued))}")
    elif reap:
        console.print("nothing to requeue")
    elif status.stale:
        console.print("with --reap, the same command requeues them", soft_wrap=True)


if __name__ == "__main__":
    run(app)
