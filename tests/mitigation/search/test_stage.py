import json

import numpy as np
import pytest

from artiagent.config import EvaluationSection, SearchSection
from artiagent.images import decode
from artiagent.mitigation.generators import open_generator
from artiagent.mitigation.search.curves import summarise_search, tracks_of
from artiagent.mitigation.search.judging import diversity, judge_rounds
from artiagent.mitigation.search.records import Candidate, Round
from artiagent.mitigation.search.rounds import budget_of, play_round, searches_of
from artiagent.mitigation.search.stage import BEST, draw_candidates, write_report
from artiagent.store import StoreError, read_rows

PROMPTS = ("a red dog on grass", "a blue cat", "a cat on grass")
SECTION = SearchSection(rounds=3, size=32, neighbours=3, particles=3, window=2, budget=1.0, resamples=200)


class Brightness:
    """A verifier that likes bright pictures; breaks off after ``calls`` batches."""

    name, sha256 = "brightness", "b"

    def __init__(self, calls: int = 10**9) -> None:
        self.left = calls

    def __call__(self, images) -> np.ndarray:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return np.array([image.mean() / 255 for image in images], dtype=np.float32)


class Onlookers:
    """Judges by arithmetic: redness held out, blueness for the VLM, dark pictures are faulty."""

    stamp = "onlookers"

    def scores(self, pictures, prompts):
        return [
            {"held_out": float(p[..., 0].mean()), "vlm": float(p[..., 2].mean()), "faulty": float(p.mean() < 100)}
            for p in pictures
        ]

    def features(self, pictures):
        flat = np.stack([p.reshape(-1) for p in pictures]).astype(np.float32)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def drawer(few_step):
    return open_generator(few_step, size=32, dtype="float32", threads=1)


@pytest.fixture(scope="module")
def searched(drawer, tmp_path_factory):
    out = tmp_path_factory.mktemp("search")
    drawn = draw_candidates(SECTION, PROMPTS, drawer, Brightness(), out, "stamp")
    return drawn, judge_rounds(Onlookers(), drawn, SECTION.top, out / "rounds"), out


def rows_of(ref):
    return {row.key: (row.record, row.images["image"]) for row in read_rows(ref, Candidate)}


def test_every_candidate_is_recorded_and_budgets_add_up(searched, drawer) -> None:
    rows = rows_of(searched[0])
    for algorithm in SECTION.algorithms:
        for prompt in PROMPTS:
            found = [c for c, _ in rows.values() if (c.algorithm, c.prompt) == (algorithm, prompt)]
            assert max(c.calls for c in found) <= budget_of(algorithm, SECTION, drawer) == 56
            if algorithm != "particles":  # whose later rounds begin on the way
                assert max(c.calls for c in found) == 4 * len(found)
    assert sum(c.algorithm == "random" for c, _ in rows.values()) == 14 * len(PROMPTS)


def test_calls_on_record_are_those_of_the_transformer(few_step, tmp_path) -> None:
    fresh = open_generator(few_step, size=32, dtype="float32", threads=1)
    drawn = draw_candidates(SECTION, PROMPTS, fresh, Brightness(), tmp_path, "stamp")
    last = {}
    for record, _ in rows_of(drawn).values():
        last[record.algorithm, record.prompt] = record.calls, record.decoded
    assert fresh.calls == sum(calls for calls, _ in last.values())
    assert fresh.decoded == sum(decoded for _, decoded in last.values())


def test_best_so_far_never_falls_and_is_flagged(searched) -> None:
    drawn, rounds, _ = searched
    candidates = rows_of(drawn)
    tracks = tracks_of(row.record for row in read_rows(rounds, Round))
    assert set(tracks) == set(SECTION.algorithms)
    for track in tracks.values():
        assert (np.diff(track.scores["reward"], axis=0) >= 0).all()
        assert (np.diff(track.calls) > 0).all()
    for row in read_rows(rounds, Round):
        best, image = candidates[row.record.best]
        assert best.is_best
        assert best.reward == row.record.scores["reward"] == pytest.approx(decode(image).mean() / 255, abs=1e-6)
        before = [c.reward for c, _ in candidates.values() if (c.algorithm, c.prompt) == (best.algorithm, best.prompt)
                  and c.round <= row.record.round]  # fmt: skip
        assert best.reward == max(before)


def test_pictures_of_the_best_few_are_kept(searched) -> None:
    rows = rows_of(searched[0])
    assert all(bool(image) == record.kept for record, image in rows.values())
    found = [c for c, _ in rows.values() if (c.algorithm, c.prompt) == ("random", PROMPTS[0])]
    best = sorted(found, key=lambda c: -c.reward)[: SECTION.top]
    assert all(c.kept for c in best)
    assert not all(c.kept for c in found)


def test_a_seed_draws_its_candidate_again(searched, drawer) -> None:
    record, image = next(v for v in rows_of(searched[0]).values() if v[0].algorithm == "random" and v[1])
    again = drawer.generate([record.prompt], drawer.noise([record.seed]))[0]
    assert np.abs(again.astype(int) - decode(image)).max() <= 1


@pytest.mark.parametrize("after", [1, 9, 22])
def test_an_interrupted_search_goes_on_to_the_same_rows(after: int, searched, drawer, tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        draw_candidates(SECTION, PROMPTS, drawer, Brightness(after), tmp_path, "stamp")
    assert list((tmp_path / BEST).glob("*.png"))  # what was found so far
    finished = len(list((tmp_path / "chunks").glob("*.parquet")))
    if finished:
        with pytest.raises(StoreError, match="other settings"):
            draw_candidates(SECTION, PROMPTS, drawer, Brightness(), tmp_path, "other")
    counted = Brightness()
    resumed = draw_candidates(SECTION, PROMPTS, drawer, counted, tmp_path, "stamp")
    assert rows_of(resumed) == rows_of(searched[0])
    assert resumed.digest == searched[0].digest
    batches = 2 * (3 + 4 + 5 * 2)  # of the verifier for both windows: random, zero-order, particles with their looks
    assert (10**9 - counted.left < batches) == bool(finished)  # what was finished is not drawn again


def test_prompts_do_not_hang_on_their_neighbours(searched, drawer, tmp_path) -> None:
    alone = draw_candidates(SECTION, PROMPTS[1:2], drawer, Brightness(), tmp_path, "stamp")
    with_others = [c for c, _ in rows_of(searched[0]).values() if c.prompt == PROMPTS[1]]
    by_itself = [c for c, _ in rows_of(alone).values()]
    assert [c.seed for c in by_itself] == [c.seed for c in with_others]
    assert np.allclose([c.reward for c in by_itself], [c.reward for c in with_others], atol=1e-3)


def test_judgements_resume_and_belong_to_their_search(searched) -> None:
    drawn, rounds, out = searched
    assert judge_rounds(Onlookers(), drawn, SECTION.top, out / "rounds") == rounds
    stranger = Onlookers()
    stranger.stamp = "others"
    with pytest.raises(StoreError, match="other settings"):
        judge_rounds(stranger, drawn, SECTION.top, out / "rounds")


def test_report_says_what_was_measured(searched) -> None:
    drawn, rounds, out = searched
    report = summarise_search(SECTION, EvaluationSection(), drawn, rounds, {"generator": "f" * 64})
    write_report(report, drawn, rounds, out)
    figures = json.loads((out / "search.json").read_text())
    course = figures["courses"]["random"]
    assert course["calls"] == [8, 24, 56]
    gain = course["gains"]["reward"]
    ends = course["curves"]["reward"][0]["value"], course["curves"]["reward"][-1]["value"]
    assert gain["value"] == pytest.approx(ends[1] - ends[0], abs=1e-6)
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert figures["cost"]["random.search_calls"] == 52
    page = (out / "search.html").read_text()
    assert all(prompt in page for prompt in PROMPTS)
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_diversity_of_one_picture_is_zero_and_of_opposites_two() -> None:
    one = np.array([[1.0, 0.0]], dtype=np.float32)
    assert diversity(np.repeat(one, 4, axis=0)) == pytest.approx(0, abs=1e-6)
    assert diversity(np.concatenate([one, -one])) == pytest.approx(2)
    assert diversity(one) == 0


@pytest.mark.parametrize("algorithm", ["zero_order", "particles"])
def test_a_budget_too_small_for_a_round_ends_the_search_after_the_first(drawer, algorithm) -> None:
    section = SECTION.model_copy(update={"budget": 0.05})
    searches = searches_of(algorithm, [(0, PROMPTS[0])], section, drawer)
    assert play_round(searches, drawer, Brightness()), "without one the search has no picture to return"
    assert searches[0].calls > budget_of(algorithm, section, drawer)
    assert not play_round(searches, drawer, Brightness())
    assert searches[0].round == 1 and searches[0].rows
