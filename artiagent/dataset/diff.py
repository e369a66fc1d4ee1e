"""What differs between two curated sets: counts, origins, verdicts, settings. Read as streams; ids alone are kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from artiagent.curation.funnel import AUDIT
from artiagent.dataset.facts import SetFacts

SHOWN = 20  # changed verdicts that are listed one by one
Change = dict[str, list[Any]]  # what -> [left, right], where they differ


def compare(left: SetFacts, right: SetFacts) -> dict[str, Any]:
    """Differences of two sets, JSON-ready; a topic without any is empty.

    ``{"sets": [...], "jobs": {"shared", "added", "removed"}, "sources": likewise, "verdicts": {"changed", "moves":
    {"old -> new": n}, "examples": {job: [old, new]}}, topic: {name: [left, right]}}`` for every topic of `topics`; a
    value that one side lacks is None.
    """
    others = topics(right)
    return {
        "sets": [_identity(left), _identity(right)],
        "jobs": _overlap(left.verdicts, right.verdicts),
        "sources": _overlap(left.sources, right.sources),
        "verdicts": _verdicts(left.verdicts, right.verdicts),
        **{topic: _changes(table, others[topic]) for topic, table in topics(left).items()},
    }


def topics(facts: SetFacts) -> dict[str, dict[str, Any]]:
    """A set as flat tables by topic: what `compare` compares."""
    licences = facts.licences
    return {
        "counts": {"pairs": facts.ref.rows, "accepted": facts.accepted, "hard negatives": facts.hard_negatives},
        "types": _types(facts.funnel),
        "groups": {f"{name} {key}": n for name, row in facts.groups.items() for key, n in row.items()},
        "licences": dict(licences.images),
        "models": {
            **{f"{model}, {name}": n for model, row in licences.models.items() for name, n in row.items()},
            **{f"weights {name}": n for name, n in facts.models.items()},
        },
        "audit": _audit(Path(facts.ref.uri) / AUDIT),
        "settings": {name: " | ".join(values) for name, values in facts.settings.items()},
        "prompts": dict(facts.prompts),
        "lineage": dict(facts.lineage),
    }


def text(found: Mapping[str, Any]) -> str:
    """The comparison for a terminal."""
    lines = [f"{'':<8} {'digest':<14} {'pairs':>7} {'accepted':>9}"]
    for side, entry in zip(("left", "right"), found["sets"], strict=True):
        lines.append(f"{side:<8} {entry['digest'][:12]:<14} {entry['pairs']:>7} {entry['accepted']:>9}")
    for topic in ("jobs", "sources"):
        row = found[topic]
        lines.append(f"{topic}: {row['shared']} shared, {row['added']} added, {row['removed']} removed")
    verdicts = found["verdicts"]
    lines.append(f"verdicts of shared jobs: {verdicts['changed'] or 'none'} changed")
    lines += [f"  {move:<70} {n:>6}" for move, n in verdicts["moves"].items()]
    for topic, changes in found.items():
        if topic not in ("sets", "jobs", "sources", "verdicts"):
            lines.append(f"{topic}:{'' if changes else ' equal'}")
            lines += [f"  {name:<44} {_cell(a):<24} {_cell(b):<24}".rstrip() for name, (a, b) in changes.items()]
    return "\n".join(lines)


def _identity(facts: SetFacts) -> dict[str, Any]:
    return {"digest": facts.ref.digest, "pairs": facts.ref.rows, "accepted": facts.accepted}


def _types(funnel: Mapping[str, Any]) -> dict[str, int]:
    """Tried, accepted and refused for each reason, by tool and kernel."""
    table: dict[str, int] = {}
    for part, name, row in ((part, name, row) for part, f in funnel.items() for name, row in f["tools"].items()):
        where = name if part == "scored" else f"{name} ({part})"
        table |= {f"{where} tried": row["tried"], f"{where} accepted": row["accepted"]}
        table |= {f"{where} {reason}": n for reason, n in row["reasons"].items()}
    return table


def _audit(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    audit = json.loads(path.read_text())
    probes = {
        f"{name} {key}": probe[key] for name, probe in audit["probes"].items() for key in ("verdict", "auroc", "n")
    }
    return {"verdict": audit["verdict"], **probes}


def _overlap(left: Iterable[str], right: Iterable[str]) -> dict[str, int]:
    a, b = set(left), set(right)
    shared = len(a & b)
    return {"shared": shared, "added": len(b) - shared, "removed": len(a) - shared}


def _verdicts(left: Mapping[str, str], right: Mapping[str, str]) -> dict[str, Any]:
    changed = {job: [verdict, right[job]] for job, verdict in left.items() if right.get(job, verdict) != verdict}
    moves = Counter(f"{old} -> {new}" for old, new in changed.values())
    examples = {job: changed[job] for job in sorted(changed)[:SHOWN]}
    return {"changed": len(changed), "moves": dict(moves.most_common()), "examples": examples}


def _changes(left: Mapping[str, Any], right: Mapping[str, Any]) -> Change:
    names = dict.fromkeys((*left, *right))
    return {name: [left.get(name), right.get(name)] for name in names if left.get(name) != right.get(name)}


def _cell(value: Any) -> str:
    shown = "-" if value is None else str(value)
    return shown if len(shown) <= 23 else f"{shown[:20]}..."
