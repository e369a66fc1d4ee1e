"""Stage "search": prompts in; candidates with their rewards, rounds with their judgements, figures and a report out.

Knows what is resumed and what lies where: ``search-*.parquet`` a row a candidate, ``rounds/`` a row a round,
``best/`` the best picture of every search as it stands, ``search.json`` and ``search.html``. A killed run goes on with
the prompts it has not finished.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from artiagent.config import EvaluationSection, SearchSection
from artiagent.mitigation.generators import Generator, open_generator
from artiagent.mitigation.judges import Judge
from artiagent.mitigation.search.curves import summarise_search
from artiagent.mitigation.search.judging import Judges, judge_rounds
from artiagent.mitigation.search.records import Candidate, SearchReport
from artiagent.mitigation.search.rounds import PromptSearch, budget_of, play_round, random_calls, searches_of
from artiagent.records import CheckpointRef, DatasetRef, stable_hash
from artiagent.store import DatasetWriter, open_dataset, write_atomic

ROUNDS, BEST, FIGURES, PAGE = "rounds", "best", "search.json", "search.html"
# Of a section, what changes no candidate: where prompts come from (they are hashed themselves), and the report's.
ELSEWHERE = {"prompts", "limit", "resamples", "batch", "window", "threads", "device"}


def search(
    section: SearchSection,
    evaluation: EvaluationSection,
    prompts: Sequence[str],
    generator: CheckpointRef,
    reward: CheckpointRef,
    clip: CheckpointRef,
    vlm: CheckpointRef,
    parser: CheckpointRef | None,
    out: Path,
) -> DatasetRef:
    """Search for each prompt with each algorithm, have the best of every round judged, write figures and report.

    Args:
        section: algorithms, budgets, sampler.
        evaluation: how the VLM is asked.
        prompts: see ``read_prompts``.
        generator: FluxPipeline folder.
        reward: reward folder; member 0 of its ensemble steers, member 1 judges.
        clip: encoder whose features measure diversity.
        vlm: fine-tuned transformers folder, a judge.
        parser: of the counter of parts, a judge; None: without.
        out: folder of the data set of kind "search"; see the module.

    Raises ValueError for an empty list, unreadable prompts or weights of other kinds, StoreError when ``out`` holds
    another search.
    """
    if not prompts:
        raise ValueError("no prompts to search for; see search.prompts")
    stamp = stable_hash(
        section.model_dump_json(exclude=ELSEWHERE), *prompts, generator.sha256, reward.sha256, length=12
    )
    if (drawn := open_dataset(out, stamp)) is None:
        drawn = draw_candidates(section, prompts, *_opened(section, generator, reward), out, stamp)
    judges = Judges(evaluation, reward, clip, vlm, parser)
    rounds = judge_rounds(judges, drawn, section.top, out / ROUNDS)
    roles = {"generator": generator, "steering and held-out verifier": reward, "vlm": vlm, "clip": clip}
    roles |= {"parts": parser} if parser else {}
    report = summarise_search(section, evaluation, drawn, rounds, {role: ref.sha256 for role, ref in roles.items()})
    write_report(report, drawn, rounds, out)
    return drawn.model_copy(update={"summary": {**drawn.summary, **headline(report)}})


def draw_candidates(
    section: SearchSection, prompts: Sequence[str], drawer: Generator, verifier: Judge, out: Path, stamp: str
) -> DatasetRef:
    """The searches themselves, steered by ``verifier``; resumes by prompt and algorithm."""
    writer: DatasetWriter[Candidate] = DatasetWriter(out, "search", ("image",), stamp)
    if missing := list(_missing(section, prompts, writer)):
        drawer.embed([prompt for _, chosen in missing for _, prompt in chosen])
        began = time.perf_counter()
        _play(section, drawer, verifier, writer, missing, len(prompts))
        seconds = time.perf_counter() - began
    unknown = {prompt: words for prompt in prompts if (words := drawer.unknown_words(prompt))}
    for prompt, words in unknown.items():
        print(f"note: the generator does not know {', '.join(words)}: {prompt!r}", file=sys.stderr)
    facts: dict[str, float | int | str] = {
        "generator": drawer.name, "prompts": len(prompts), "steps": drawer.steps,
        "calls_per_image": drawer.calls_per_image, "random_calls": random_calls(section, drawer),
        "unknown_words": ", ".join(sorted({word for words in unknown.values() for word in words})),
    }  # fmt: skip
    if missing:  # of this process: what an earlier one did is not timed
        facts |= {"images_per_second": round(drawer.decoded / seconds, 2), "search_seconds": round(seconds, 1)}
    return writer.finish(facts)


def _opened(section: SearchSection, generator: CheckpointRef, reward: CheckpointRef) -> tuple[Generator, Judge]:
    from artiagent.learning.reward import open_reward

    drawer = open_generator(
        generator, size=section.size, steps=section.steps, guidance=section.guidance, device=section.device,
        dtype=section.dtype, threads=section.threads, batch=section.batch,
    )  # fmt: skip
    return drawer, open_reward(reward, member=0, device=section.device)


def headline(report: SearchReport) -> dict[str, float | int | str]:
    """The few figures that a run's summary and the tracker show."""
    shown: dict[str, float | int | str] = {}
    for name, course in report.courses.items():
        for score, gain in course.gains.items():
            shown |= {f"{name}.{score}.last": course.curves[score][-1].value, f"{name}.{score}.gain": gain.value}
    return shown


def write_report(report: SearchReport, drawn: DatasetRef, rounds: DatasetRef, out: Path) -> None:
    """``search.json`` and ``search.html`` beside the candidates."""
    from artiagent.report.search import render_search

    write_atomic(out / FIGURES, report.model_dump_json(indent=1).encode())
    write_atomic(out / PAGE, render_search(report, drawn, rounds).encode())


def _missing(
    section: SearchSection, prompts: Sequence[str], writer: DatasetWriter[Candidate]
) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Algorithm and the numbered prompts of a window that are not on disk; windows in order, all algorithms of each."""
    numbered = list(enumerate(prompts))
    for start in range(0, len(numbered), section.window):
        for name in section.algorithms:
            chosen = numbered[start : start + section.window]
            if chosen := [(number, prompt) for number, prompt in chosen if _batch(number, name) not in writer]:
                yield name, chosen


def _play(
    section: SearchSection, drawer: Generator, verifier: Judge, writer: DatasetWriter[Candidate],
    missing: list[tuple[str, list[tuple[int, str]]]], prompts: int,
) -> None:  # fmt: skip
    """Play all that is missing; what a search found is kept as a picture even when the run is interrupted."""
    budgets = {name: budget_of(name, section, drawer) for name in section.algorithms}
    todo, decoded = sum(budgets[name] * len(chosen) for name, chosen in missing), drawer.decoded
    with tqdm(desc="search", unit="call", total=prompts * sum(budgets.values()), unit_scale=True) as bar:
        bar.update(bar.total - todo)
        for name, chosen in missing:
            searches = searches_of(name, chosen, section, drawer)
            try:
                while (before := drawer.calls, play_round(searches, drawer, verifier))[1]:
                    bar.update(drawer.calls - before)
                    rate = (drawer.decoded - decoded) / max(bar.format_dict["elapsed"], 1e-9)
                    bar.set_postfix(algorithm=name, prompts=f"{chosen[-1][0] + 1}/{prompts}", images=f"{rate:.1f}/s")
                for each in searches:
                    writer.write(_batch(each.number, name), each.rows)
            finally:
                _keep_best(searches, writer.directory)
            bar.update(sum(budgets[name] - each.calls for each in searches))  # what the budget did not reach for


def _keep_best(searches: Sequence[PromptSearch], out: Path) -> None:
    for each in searches:
        if each.best is not None:
            write_atomic(out / BEST / f"{each.number:05d}-{each.name}.png", each.best.images["image"])


def _batch(number: int, algorithm: str) -> str:
    return f"{number:05d}-{algorithm}"
