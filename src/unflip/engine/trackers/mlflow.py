"""MLflow: a run in the store or on the server that MLflow's own settings name (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unflip.engine.trackers.tracker import PROJECT, Outcome, Run, Tracker
from unflip.errors import MissingExtra
from unflip.runs import leaves

PARAMS = 100
"""That a server takes at once."""
LONGEST = 500
"""Of a value, in characters, that every server takes."""
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class Mlflow(Tracker):
    """MLflow keeps every value that it was ever told. So a step that it has is not told again, after a resume or a step back."""

    def __init__(self, run: Run) -> None:
        try:
            import mlflow
            from mlflow.entities import Metric, Param
            from mlflow.tracking import MlflowClient, is_tracking_uri_set
        except ImportError:
            raise MissingExtra("mlflow", "mlflow") from None
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # how it makes its tables
        uri = mlflow.get_tracking_uri() if is_tracking_uri_set() else run.kept.get("store") or mlflow.get_tracking_uri()
        self.client, self.metric = MlflowClient(uri), Metric
        before = self._before(run.kept.get("run"))
        self.told: dict[str, int] | None = None if before is None else {}
        """The last step of each curve; None where all of them are new."""
        self.id = before.info.run_id if before is not None else self._begun(run.name)
        self.kept: Mapping[str, str] = {"run": self.id, "store": uri}
        self.where = f"run {self.id} in {uri}"
        there = {} if before is None else before.data.params  # which cannot be changed; what a resume changes is an event
        params = [Param(key, str(value)[:LONGEST]) for key, value in leaves(run.config).items() if key not in there]
        for first in range(0, len(params), PARAMS):
            self.client.log_batch(self.id, params=params[first : first + PARAMS])

    def _before(self, id: str | None) -> Any:
        """The run of that id, going on; None where there is none, or no longer."""
        from mlflow.exceptions import MlflowException

        if id is None:
            return None
        try:
            self.client.update_run(id, status="RUNNING")
            return self.client.get_run(id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _begun(self, name: str) -> str:
        """The id of a new run."""
        from mlflow.exceptions import MlflowException

        called = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = self.client.get_experiment_by_name(called)
        try:
            experiment = self.client.create_experiment(called) if found is None else found.experiment_id
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # by a run that began just now
                raise
            found = self.client.get_experiment_by_name(called)
            if found is None:
                raise
            experiment = found.experiment_id
        return str(self.client.create_run(experiment, run_name=name, tags={"mlflow.source.name": "unflip"}).info.run_id)

    def log(self, numbers: Mapping[str, float], seen: int) -> None:
        now = int(time.time() * 1000)
        new = [self.metric(name, value, now, seen) for name, value in numbers.items() if seen > self._last(name)]
        if new:
            self.client.log_batch(self.id, metrics=new)
        if self.told is not None:
            self.told |= {each.key: seen for each in new}

    def _last(self, name: str) -> int:
        if self.told is None:
            return -1
        if name not in self.told:
            self.told[name] = max((each.step for each in self.client.get_metric_history(self.id, name)), default=-1)
        return self.told[name]

    def image(self, name: str, path: Path, seen: int) -> None:
        self.client.log_artifact(self.id, str(path), name)

    def event(self, what: str, seen: int) -> None:
        self.client.set_tag(self.id, f"event.{seen:09d}.{time.time_ns()}", what[:LONGEST])  # there can be several

    def rewind(self, seen: int) -> None:
        self.told = self.told or {}

    def close(self, outcome: Outcome) -> None:
        self.client.set_terminated(self.id, STATUS[outcome])
