"""What travels between the steps of a promotion, and what stays of it: the order, the candidates, the act."""

from __future__ import annotations

from typing import Literal

from artiagent.promotion.gate import Decision
from artiagent.records import Record

Action = Literal["promote", "force", "rollback"]
State = Literal["done", "kept", "refused", "dry run", "awaiting approval", "nothing to do"]


class Order(Record):
    """What a person asked for. ``version`` None: the alias "challenger"."""

    name: str
    version: str | None = None
    dry_run: bool = False
    reason: str = ""  # of --force; not empty: the gate is overruled
    by: str = ""


class Candidate(Record):
    """A registered version as the gate sees it."""

    version: str
    sha256: str
    kind: Literal["vlm", "reward"] = "vlm"
    revision: str = ""  # of the primary benchmark when its scores were registered
    audit: str = ""
    predictions: str = ""  # folder of the answers of the run that made it
    predictions_code: str = ""  # digest of the sources that they were made with
    run: str = ""  # pipeline run that made it: version of the ZenML model

    @property
    def label(self) -> str:
        return f"version {self.version}"


class Candidates(Record):
    """Both sides; without a champion the challenger has to beat trivial answers."""

    challenger: Candidate
    champion: Candidate | None = None


class Promotion(Record):
    """One act on the aliases of a registered model, complete enough to be carried out again after a crash."""

    name: str
    profile: str
    action: Action
    state: State
    version: str  # that the act is about: gets the alias "champion" when the state is done
    previous: str = ""  # champion before: expected there, and gets the alias "previous"; "": nobody
    decision: Decision | None = None
    reason: str = ""
    by: str = ""
    at: str = ""
    run: str = ""  # MLflow run that keeps decision, card and this record
    note: str = ""  # e.g. that a crash was repaired

    @property
    def summary(self) -> str:
        """One line for people."""
        was = f", before it version {self.previous}" if self.previous else ", the first"
        how = {"promote": "passed the gate", "force": f"forced: {self.reason}", "rollback": "rolled back"}[self.action]
        why = f" ({self.reason})" if self.reason and self.action == "rollback" else ""
        return f"{self.name}: champion is version {self.version}{was}; {how}{why}"
