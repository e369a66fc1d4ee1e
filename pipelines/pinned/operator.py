"""The step operator: a step waits for its devices, runs in a process of its own, and says how it ended.

`submit` returns at once, as dynamic pipelines need it; every step waits in a thread of its own. ZenML then asks for the
status, and retries a failed step by itself. What is under way is known by step run, in this process only.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from zenml.client import Client
from zenml.config.global_config import GlobalConfiguration
from zenml.constants import (
    ENV_ZENML_CONFIG_PATH,
    ENV_ZENML_DISABLE_DATABASE_MIGRATION,
    ENV_ZENML_DYNAMIC_PIPELINE_MONITORING_INTERVAL,
    ENV_ZENML_LOCAL_STORES_PATH,
)
from zenml.enums import ExecutionStatus
from zenml.models.v2.misc.exception_info import ExceptionInfo
from zenml.orchestrators import publish_utils
from zenml.step_operators import BaseStepOperator
from zenml.utils.time_utils import utc_now

from artiagent.store import checkout, home
from pipelines.pinned.crew import Crew, Ended, Job
from pipelines.pinned.flavor import PinnedConfig, PinnedSettings
from pipelines.pinned.leases import Lease, LeaseError, device_names, lease, too_few
from pipelines.pinned.line import Line

if TYPE_CHECKING:
    from zenml.config.base_settings import BaseSettings
    from zenml.config.step_run_info import StepRunInfo
    from zenml.models import StepRunResponse

    from pipelines.pinned.entrypoint import PinnedEntrypoint

INTERVAL = "1"  # seconds between two looks at the steps; ZenML's 10 are for servers far away
UNDER_WAY = (ExecutionStatus.PROVISIONING, ExecutionStatus.RUNNING, ExecutionStatus.INITIALIZING)


class PinnedOperator(BaseStepOperator):
    """Steps of one host, each in a process that sees the devices it leased and no other."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        os.environ.setdefault(ENV_ZENML_DYNAMIC_PIPELINE_MONITORING_INTERVAL, INTERVAL)

    @property
    def config(self) -> PinnedConfig:
        return cast(PinnedConfig, self._config)

    @property
    def settings_class(self) -> type[BaseSettings]:
        return PinnedSettings

    @property
    def entrypoint_config_class(self) -> type[PinnedEntrypoint]:
        from pipelines.pinned.entrypoint import PinnedEntrypoint

        return PinnedEntrypoint

    def submit(self, info: StepRunInfo, entrypoint_command: list[str], environment: dict[str, str]) -> None:
        """Queue a step. Raises LeaseError when the host has too few devices for it, however long one waits."""
        settings = cast(PinnedSettings, self.get_settings(info))
        names = device_names(self.config.names)
        if settings.devices > len(names):
            raise LeaseError(too_few(info.pipeline_step_name, settings.devices, names))
        step = PinnedStep(info, settings, self.config)
        _steps[info.step_run_id] = step
        step.begin(entrypoint_command[3:], environment)

    def get_status(self, step_run: StepRunResponse) -> ExecutionStatus:
        """Of the process; why one failed without a word of its own is published here."""
        step = _steps.get(step_run.id)
        if step is None:
            publish(step_run.id, f"step {step_run.name}: its run was started by a process that is gone; run it again")
            return ExecutionStatus.FAILED
        status = step.status
        if status == ExecutionStatus.FAILED:
            publish(step_run.id, step.reason)
        return status

    def wait(self, step_run: StepRunResponse) -> ExecutionStatus:
        """Until the process has ended."""
        _steps[step_run.id].ended.wait()
        return self.get_status(step_run)

    def cancel(self, step_run: StepRunResponse) -> None:
        """End the step. Stopped on purpose it is not retried."""
        publish_utils.publish_step_run_status_update(step_run.id, ExecutionStatus.STOPPING)
        if step := _steps.get(step_run.id):
            step.cancel()

    def cleanup_step_submission(self, step_run: StepRunResponse) -> None:
        _steps.pop(step_run.id, None)


class PinnedStep:
    """One attempt at one step: waits, works, has ended."""

    def __init__(self, info: StepRunInfo, settings: PinnedSettings, config: PinnedConfig) -> None:
        self.id, self.name, self.run = info.step_run_id, info.pipeline_step_name, info.run_name
        self.attempt = info.step_run.version
        self.settings, self.config = settings, config
        self.ended = Event()
        self.status = ExecutionStatus.PROVISIONING
        self.reason = ""
        self._cancelled = Event()

    @property
    def log(self) -> Path:
        return home() / "logs" / self.run / f"{self.name}-{self.attempt}.log"

    def begin(self, arguments: list[str], environment: dict[str, str]) -> None:
        Thread(target=self._begin, args=(arguments, environment), name=f"pinned {self.name}", daemon=True).start()

    def cancel(self) -> None:
        self._cancelled.set()
        if _crew is not None:
            _crew.kill(str(self.id))

    def _begin(self, arguments: list[str], environment: dict[str, str]) -> None:
        try:
            held = self._lease()
            try:
                self._go_on()
                self._start(held, arguments, environment)
            finally:
                held.release()  # here; the process goes on having it
        except Exception as error:  # noqa: BLE001  (nobody else is in this thread to hear of it)
            self._end(str(error))

    def _lease(self) -> Lease:
        names, count, line = device_names(self.config.names), self.settings.devices, _devices
        if not count:  # a place instead of a device
            names, count, line = tuple(f".cpu-{n}" for n in range(self.config.cpu_steps)), 1, _places
        with line.wait(self.name, self._go_on) as waiting:
            holder = f"{self.name} of {self.run}"
            return lease(names, count, holder, self.settings.hours * 3600, waiting, line.name)

    def _go_on(self) -> None:
        if self._cancelled.is_set():
            raise LeaseError(f"{self.name}: stopped before it began")

    def _start(self, held: Lease, arguments: list[str], environment: dict[str, str]) -> None:
        visible = ",".join(held.devices) if self.settings.devices else ""
        place = f"device {visible}" if visible else "cpu"
        own = {
            **environment,
            "CUDA_VISIBLE_DEVICES": visible,
            ENV_ZENML_LOCAL_STORES_PATH: GlobalConfiguration().local_stores_path,
            ENV_ZENML_DISABLE_DATABASE_MIGRATION: "true",
        }
        job = Job(str(self.id), arguments, own, ENV_ZENML_CONFIG_PATH, f"[{self.name} | {place}]", str(self.log))
        self._oom = oom_kills()
        self._place = place
        self.status = ExecutionStatus.RUNNING
        crew = the_crew(self.config)
        crew.start(job, held.files, self._ended)
        Thread(target=self._watch, args=(crew,), name=f"deadline {self.name}", daemon=True).start()

    def _watch(self, crew: Crew) -> None:
        """A step that outlives its deadline is ended, like a pod; so is one that was stopped while it began."""
        end = time.monotonic() + self.settings.hours * 3600
        while not self.ended.wait(1):
            if time.monotonic() > end and not self.reason:
                self.reason = f"{self.name}: not done {self.settings.hours:g} h after it began, its profile's deadline"
                crew.kill(str(self.id))
            elif self._cancelled.is_set():
                crew.kill(str(self.id))

    def _ended(self, how: Ended) -> None:
        self._end("" if how.code == 0 else self.reason or self._why(how))

    def _end(self, reason: str) -> None:
        self.reason = reason
        stopped = ExecutionStatus.STOPPED if self._cancelled.is_set() else ExecutionStatus.FAILED
        self.status = stopped if reason else ExecutionStatus.COMPLETED
        self.ended.set()

    def _why(self, how: Ended) -> str:
        if how.code is None:
            what = "the supervisor of its process ended"
        elif how.code < 0:
            what = f"its process on {self._place} was killed by signal {signal.Signals(-how.code).name}"
            if -how.code == signal.SIGKILL:
                met = oom_kills() > self._oom
                what += ", by the kernel, for lack of memory" if met else ", by a person or a container's memory limit"
        else:
            what = f"its process on {self._place} ended with exit code {how.code}"
        last = f"; last it said: {how.tail[-1]}" if how.tail else ""
        return f"{self.name}: {what}{last}; see {self.log}"


_devices, _places = Line("devices"), Line("places")
_steps: dict[UUID, PinnedStep] = {}
_crew: Crew | None = None
_crew_lock = Lock()


def the_crew(config: PinnedConfig) -> Crew:
    """The processes of this runner; the first step brings up what starts them."""
    global _crew  # noqa: PLW0603  (one for a process, whatever instances of the operator ZenML makes)
    with _crew_lock:
        if _crew is None or not _crew.alive:
            preload = [name for part in config.preload.split(",") if (name := part.strip())]
            _crew = Crew(checkout() or Path.cwd(), preload)
        return _crew


def publish(step_run_id: UUID, reason: str) -> None:
    """Let a step that did not come to say it itself have failed, with a reason."""
    if Client().get_run_step(step_run_id, hydrate=False).status in UNDER_WAY:
        publish_utils.publish_step_run_status_update(
            step_run_id=step_run_id, status=ExecutionStatus.FAILED, end_time=utc_now(),
            exception_info=ExceptionInfo(traceback=reason, message=reason),
        )  # fmt: skip


def oom_kills() -> int:
    """How many processes the kernel has killed for lack of memory since it started; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
