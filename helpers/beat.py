"""A real `celery beat`, whose publishes are witnessed."""

from collections.abc import Mapping
from pathlib import Path

from celery.bin.beat import beat
from celery.loaders.app import AppLoader

from helpers.program import Program, read_options


class Loader(AppLoader):
    """Celery's own, which also loads the witness: `celery beat` has no `-I` as a worker has."""

    def on_worker_init(self) -> None:
        """The application is complete (`celery/apps/beat.py: Beat.init_loader`)."""
        super().on_worker_init()
        import helpers.witness  # noqa: F401


class Beat(Program):
    """One beat, with a schedule file of its own unless the options name one."""

    def __init__(
        self, app: str, options: tuple[str, ...], *, name: str, cwd: Path, env: Mapping[str, str]
    ) -> None:
        read = read_options(beat, options, {})
        arguments = [f"--loader={__name__}:Loader", "-A", app, "beat", "--loglevel=INFO"]
        if not read.get("schedule"):
            arguments += ["--schedule", str(Path(env["TMPDIR"]) / f"{name}-schedule")]
        super().__init__([*arguments, *options], read.get("logfile"), name=name, cwd=cwd, env=env)
