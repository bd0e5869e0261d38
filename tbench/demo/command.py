"""tbench demo: the main job on the embedded simulator, in under a minute."""

from pathlib import Path
from typing import Annotated

import typer

from tbench.capture.option import Option
from tbench.flags import verb


@verb
def demo(
    out: Annotated[
        Path, Option(help="Folder for the trace, the runs and the report.", unit="DIR", short="-o")
    ] = Path("demo-output"),
    seconds: Annotated[
        float, Option(help="How long the application talks.", unit="SECONDS", least=2, most=600)
    ] = 8,
    rate: Annotated[
        float,
        Option(
            help="Conversations per second, about two and a half calls each.",
            unit="RATE",
            least=0.1,
            most=50,
        ),
    ] = 21,
) -> None:
    """Show the main job: capture SDK traffic, replay it against a fast and a slow server, compare.

    Everything runs on this machine against the simulator; nothing is sent anywhere else.
    """
    import os
    import time
    from contextlib import AbstractContextManager

    from tbench.demo.job import Arm, Job, Workload, drive, main_job, server

    def say(line: str) -> None:
        typer.echo(line, err=True)

    began = time.monotonic()
    key = "tbench-demo-key"
    environ = {**os.environ, "TOGETHER_API_KEY": key}
    load = Workload(
        model="meta-llama/Llama-3.3-70B-Instruct-Turbo",
        embedding_model="intfloat/multilingual-e5-large-instruct",
        rate=rate,
        duration=seconds,
        think=0.5,
    )

    def simulated(profile: str) -> AbstractContextManager[str]:
        return server(["serve", "--port", "0", "--profile", profile], environ, say)

    # The captured server is not replayed against: its prefix cache knows the prompts already.
    with simulated("fast") as captured, simulated("fast") as fast, simulated("slow") as slow:
        job = Job(
            upstream=captured,
            drive=lambda base_url: say(f"  {drive(base_url, load, api_key=key)} calls made"),
            baseline=Arm(name="fast", base_url=fast),
            candidate=Arm(name="slow", base_url=slow),
            out=out,
            environ=environ,
        )
        page = main_job(job, say)
    say(f"\nThe report: {page.resolve()}   ({time.monotonic() - began:.0f} s in all)")
