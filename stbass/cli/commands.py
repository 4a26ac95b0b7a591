"""The commands and their options. What a command does is in a module of its own, imported when it runs."""

from __future__ import annotations

import gc
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stbass.cli.named import APPLICATION

__all__ = ["cli"]

_SHORT = {"cancel", "doctor", "graph", "limit", "runs", "status"}
"""Commands that end in a moment."""


class _Commands(TyperGroup):
    """Commands whose errors are in typer's words alone, without those of the library that it checks values with."""

    def invoke(self, ctx: Any) -> Any:
        """Run what was asked for."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


# No rich in the help: loading it would more than double the time that `stbass --help` takes.
cli = typer.Typer(
    name="stbass",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong command line, 3 wrong setting or something missing,"
    " 4 the deadline passed, 130 interrupted.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"stbass {version('stbass-celery')}")
        raise typer.Exit


@cli.callback()
def _stbass(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Programs of processes that talk over channels: on one event loop, or on a Celery fleet."""
    if context.invoked_subcommand in _SHORT:
        # To look for garbage among all that is imported would take a tenth of its time.
        gc.disable()


Endpoints = Annotated[
    list[str], typer.Option("--endpoint", "-e", metavar="ENDPOINT", help="An endpoint to serve; may be repeated.")
]
Include = Annotated[
    list[str] | None,
    typer.Option("--include", "-I", metavar="MODULE", help="A module whose processes may run; may be repeated."),
]
Functions = Annotated[
    list[str] | None,
    typer.Option(
        "--functions", metavar="MODULE", help="A module whose plain functions task lists may call; may be repeated."
    ),
]
Application = Annotated[str, typer.Option("--app", "-A", metavar="MODULE", help="The Celery application.")]


def _checked_deadline(seconds: float | None) -> float | None:
    # A range of typer's is not enough: it lets infinity pass, and the oldest typer allowed lets what is no number pass.
    from stbass._values.checks import checked_deadline

    try:
        return checked_deadline(seconds)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


Deadline = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        callback=_checked_deadline,
        metavar="S",
        help="Seconds that it gets; by default no bound.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write the outcome as one line of JSON.")]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", "-c", min=1, metavar="N", help="How many processes run at once.")
]


@cli.command(epilog="Example: stbass worker -e anthropic -e local:8080 --include my_agents --concurrency 500")
def worker(
    endpoint: Endpoints,
    include: Include = None,
    functions: Functions = None,
    concurrency: Concurrency = None,
    pool: Annotated[
        str | None,
        typer.Option("--pool", "-P", metavar="POOL", help="asyncio (the default), prefork, threads or solo."),
    ] = None,
    grace: Annotated[
        float | None,
        typer.Option("--grace", min=0, metavar="S", help="Seconds that processes get to end after SIGTERM."),
    ] = None,
    app: Application = APPLICATION,
    name: Annotated[str | None, typer.Option("--name", "-n", help="The worker's name; %h is the host.")] = None,
    log_level: Annotated[str, typer.Option("--log-level", "-l", metavar="LEVEL")] = "INFO",
    log_format: Annotated[
        str | None, typer.Option("--log-format", metavar="FORMAT", help="text, or json: one object per line.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", min=1, max=65535, metavar="N", help="Serve metrics for Prometheus here."),
    ] = None,
) -> None:
    """Run a Celery worker for these endpoints, in the foreground. SIGTERM ends it in good order."""
    from stbass.cli.worker import run_worker

    options = (log_level, log_format, pool, metrics_port)
    run_worker(endpoint, include or [], functions or [], concurrency, grace, app, name, *options)


@cli.command(epilog="Example: stbass limit anthropic --running 50 --rate 1000/min")
def limit(
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="Whose limit it is.")],
    running: Annotated[
        str | None,
        typer.Option("--running", metavar="N", help="How many processes run at once; 0 stops it, none lifts this."),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option("--rate", metavar="N/min", help="How many begin in a time: /s, /min, /h, /d; none lifts this."),
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Lift all limits of the endpoint.")] = False,
    as_json: AsJson = False,
    app: Application = APPLICATION,
) -> None:
    """Show, set or lift the limits of an endpoint, for the whole fleet. They hold at once, for what waits too."""
    from stbass.cli.limit import run_limit

    run_limit(endpoint, running, rate, off, as_json, app)


@cli.command(epilog="Example: stbass status --require anthropic")
def status(
    require: Annotated[
        list[str] | None,
        typer.Option("--require", metavar="ENDPOINT", help="Exit with 1 if no healthy worker serves it; repeatable."),
    ] = None,
    as_json: AsJson = False,
    app: Application = APPLICATION,
) -> None:
    """Show what each endpoint does: workers, running and limit, queued, oldest, last loss of a worker, refused."""
    from stbass.cli.status import run_status

    raise typer.Exit(run_status(require or [], as_json, app))


@cli.command(epilog="Example: stbass top --serve 8400")
def top(
    serve: Annotated[
        int | None,
        typer.Option("--serve", min=1, max=65535, metavar="PORT", help="Show it in a browser, at this port."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Where that port is. Whoever reaches it sees all.")
    ] = "127.0.0.1",
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="How browsers reach it, if that is not its address.")
    ] = None,
    app: Application = APPLICATION,
) -> None:
    """Show the fleet live: endpoints, what runs and how far it is, failures; follow a run, or cancel it."""
    from stbass.cli.top import run_top

    raise typer.Exit(run_top(app, serve, host, url))


@cli.command(epilog="Example: stbass doctor")
def doctor(as_json: AsJson = False, app: Application = APPLICATION) -> None:
    """Check what is installed, the servers and the workers: a line for each, with the remedy; 1 on an error."""
    from stbass.cli.doctor import run_doctor

    raise typer.Exit(run_doctor(as_json, app))


@cli.command(epilog="Example: stbass dev -e anthropic -e local:8080 --include my_agents")
def dev(
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--endpoint", "-e", metavar="ENDPOINT", help="An endpoint to serve; without any, those of the application."
        ),
    ] = None,
    include: Include = None,
    concurrency: Concurrency = None,
    app: Application = APPLICATION,
    redis: Annotated[
        str | None, typer.Option("--redis", metavar="URL", help="A Redis to use instead of an embedded one.")
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            "--port",
            min=0,
            max=65534,
            help="The embedded Redis's port, and the next one is the fake LLM's; 0 picks free ones.",
        ),
    ] = 6399,
) -> None:
    """Local development: Redis, a fake LLM and one worker per endpoint, in one log, until Ctrl-C.

    The workers are started again when a Python file in this directory changes.
    """
    from stbass.cli.dev import run_dev

    raise typer.Exit(run_dev(endpoint or [], include or [], concurrency, app, redis, port))


@cli.command(epilog="Example: stbass demo")
def demo(
    deadline: Annotated[
        float,
        typer.Option("--deadline", min=1.0, callback=_checked_deadline, metavar="S", help="The demo's own deadline."),
    ] = 6.0,
) -> None:
    """Show what stbass does, in under a minute: Redis, two workers, agents that succeed, fail and come too late."""
    from stbass.cli.demo import run_demo

    raise typer.Exit(run_demo(deadline))


class _Format(StrEnum):
    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"
    JSON = "json"


Reference = Annotated[
    str, typer.Argument(metavar="MODULE:NAME", help="A process or a composition, found from the working directory.")
]


@cli.command(epilog="Example: stbass run pipelines:daily --registry pipelines:registry --deadline 600")
def run(
    composition: Reference,
    given: Annotated[
        str | None, typer.Option("--input", metavar="JSON", help="What it finds on its channel `input`.")
    ] = None,
    registry: Annotated[
        str | None, typer.Option("--registry", metavar="MODULE:NAME", help="Where placements are looked up.")
    ] = None,
    deadline: Deadline = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing while it runs.")] = False,
) -> None:
    """Run a composition to its end. Progress goes to standard error, its value to standard output."""
    from stbass.cli.compositions import run_here

    raise typer.Exit(run_here(composition, given, registry, deadline, as_json, quiet))


@cli.command(epilog="Example: stbass graph pipelines:daily --format svg > daily.svg")
def graph(
    composition: Reference,
    form: Annotated[_Format, typer.Option("--format", "-f", help="What it is drawn as.")] = _Format.TEXT,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Draw a composition: what runs in order and what at once, where it is placed, and the channels between."""
    from stbass.cli.compositions import draw

    raise typer.Exit(draw(composition, (_Format.JSON if as_json else form).value))


RunId = Annotated[str, typer.Argument(metavar="ID", help="The id of the run.")]


@cli.command(epilog="Example: stbass runs --most 50")
def runs(
    most: Annotated[int, typer.Option("--most", min=1, max=10_000, metavar="N", help="How many are listed.")] = 20,
    app: Application = APPLICATION,
    as_json: Annotated[bool, typer.Option("--json", help="Write a line of JSON for each.")] = False,
) -> None:
    """List the runs that were started last: under way, and ended."""
    from stbass.cli.runs import list_runs

    raise typer.Exit(list_runs(app, most, as_json))


@cli.command(epilog="Example: stbass follow order-42")
def follow(
    run_id: RunId,
    after: Annotated[
        str | None, typer.Option("--after", metavar="EVENT", help="Only what came after the event of this id.")
    ] = None,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Draw who ran when, once it has ended, or at Ctrl-C.")
    ] = False,
    app: Application = APPLICATION,
    as_json: Annotated[bool, typer.Option("--json", help="Write a line of JSON for each event.")] = False,
) -> None:
    """Show what happens in a run, from its beginning, until it has ended. The exit code says how it ended."""
    from stbass.cli.runs import follow as follow_run

    raise typer.Exit(follow_run(app, run_id, after, as_json, timeline))


@cli.command(epilog="Example: stbass cancel order-42")
def cancel(run_id: RunId, app: Application = APPLICATION, as_json: AsJson = False) -> None:
    """Cancel a run, with all that it has placed elsewhere, and wait until it has ended."""
    from stbass.cli.runs import cancel as cancel_run

    raise typer.Exit(cancel_run(app, run_id, as_json))


@cli.command(epilog="Example: stbass attach 4f1c… --deadline 600")
def attach(
    group_id: Annotated[
        str, typer.Argument(metavar="GROUP_ID", help="The id of PARResult.group, where it was started.")
    ],
    deadline: Deadline = None,
    app: Application = APPLICATION,
    as_json: Annotated[bool, typer.Option("--json", help="Write a line of JSON for each process.")] = False,
) -> None:
    """Wait for a PLACED_PAR that was started elsewhere, and show its timeline."""
    from stbass.cli.runs import attach as attach_group

    raise typer.Exit(attach_group(app, group_id, deadline, as_json))


models = typer.Typer(
    name="process",
    no_args_is_help=True,
    help="Models of stbass.dataflow in YAML files: run, check and draw them. A model file is code: it names classes "
    "that are imported and run.",
)
cli.add_typer(models)


class _ProcessType(StrEnum):
    LOCAL = "local"
    RAY = "ray"
    CELERY = "celery"


class _Direction(StrEnum):
    LR = "LR"
    TD = "TD"
    RL = "RL"
    BT = "BT"


Model = Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="The model, in YAML.")]
ProcessType = Annotated[
    _ProcessType | None, typer.Option("--process-type", "-t", help="Where to run it, whatever the file says.")
]


@models.command("run", epilog="Example: stbass process run model.yaml --state sqlite:jobs.db")
def process_run(
    file: Model,
    job_id: Annotated[
        str | None, typer.Option("--job-id", metavar="ID", help="Go on with this job; needs a state that lasts.")
    ] = None,
    process_type: ProcessType = None,
    state: Annotated[
        str | None,
        typer.Option(
            "--state", metavar="STATE", help="Where its state is kept: sqlite:PATH, postgresql://…, redis://…"
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing while it runs.")] = False,
) -> None:
    """Run a model to its end. Progress goes to standard error, what came of it to standard output."""
    from stbass.cli.process import run_process

    kind = None if process_type is None else process_type.value
    raise typer.Exit(run_process(file, job_id, kind, state, as_json, quiet))


@models.command("validate", epilog="Example: stbass process validate model.yaml")
def process_validate(
    file: Model,
    process_type: ProcessType = None,
    no_import: Annotated[
        bool,
        typer.Option("--no-import", help="Import no module of the model: for a file from somebody else; finds less."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say all that is wrong with a model. Its modules are imported and its components made, but none of them runs."""
    from stbass.cli.process import validate_process

    kind = None if process_type is None else process_type.value
    raise typer.Exit(validate_process(file, kind, as_json, not no_import))


@models.command("diagram", epilog="Example: stbass process diagram model.yaml > model.mmd")
def process_diagram(
    file: Model,
    direction: Annotated[_Direction, typer.Option("--direction", "-d", help="Which way it is drawn.")] = _Direction.LR,
    process_type: ProcessType = None,
) -> None:
    """Draw a model in Mermaid's language, on standard output."""
    from stbass.cli.process import draw_process

    raise typer.Exit(draw_process(file, direction.value, None if process_type is None else process_type.value))


@models.command("jobs", epilog="Example: stbass process jobs --state sqlite:jobs.db --older-than 30d --delete")
def process_jobs(
    state: Annotated[
        str, typer.Option("--state", metavar="STATE", help="Where they are: sqlite:PATH, postgresql://…, redis://…")
    ],
    job_id: Annotated[
        list[str] | None, typer.Option("--job-id", metavar="ID", help="Only this one; may be repeated.")
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="TIME", help="Only those made longer ago: 90s, 12h, 30d.")
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete those of them that have ended, or that --job-id names.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the jobs that are kept, and delete those that nobody needs any more."""
    from stbass.cli.process_jobs import list_jobs

    raise typer.Exit(list_jobs(state, job_id or (), older_than, delete, as_json))
