"""Solvers against a problem with a known solution, and the bookkeeping of schedule nodes."""

import math

import pytest
import torch

from artiagent.synthesis.solvers import calls, flux_times, nodes, resolution_mu, walk

SOLVERS = ("euler", "rf_solver", "fireflow")


def decay(z: torch.Tensor, t: float, node: int) -> torch.Tensor:
    return -z * (1 + t)  # z(1) = z(0) exp(-1.5)


def error(solver: str, steps: int) -> float:
    times = [k / steps for k in range(steps + 1)]
    z = walk(solver, decay, torch.ones(1, dtype=torch.float64), times, up=True)
    return abs(float(z) - math.exp(-1.5))


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("rf_solver", 2), ("fireflow", 2)])
def test_order_on_an_analytic_problem(solver: str, order: int) -> None:
    measured = math.log2(error(solver, 40) / error(solver, 80))
    assert measured == pytest.approx(order, abs=0.15)


def test_rf_solver_is_the_explicit_midpoint() -> None:
    times = flux_times(7, 0.5)
    z = torch.tensor([0.3, -1.2], dtype=torch.float64)
    expected = z.clone()
    for a, b in zip(times, times[1:], strict=False):
        middle = expected + (b - a) / 2 * decay(expected, a, 0)
        expected = expected + (b - a) * decay(middle, a + (b - a) / 2, 0)
    torch.testing.assert_close(walk("rf_solver", decay, z, times, up=True), expected)


@pytest.mark.parametrize("solver", SOLVERS)
def test_calls_and_nodes_agree_with_the_walk(solver: str) -> None:
    seen: list[int] = []

    def spy(z: torch.Tensor, t: float, node: int) -> torch.Tensor:
        seen.append(node)
        assert t == pytest.approx(node / 10)  # five uniform steps: node k lies at k/10
        return torch.zeros_like(z)

    times = [k / 5 for k in range(6)]
    for up in (True, False):
        seen.clear()
        walk(solver, spy, torch.zeros(1), times, up=up)
        assert seen == list(nodes(solver, 5, up))
        assert len(seen) == calls(solver, 5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_injection_call_but_the_first_has_a_recorded_node(solver: str) -> None:
    recorded = set(nodes(solver, 6, up=True))
    missing = [n for n in nodes(solver, 6, up=False) if n not in recorded]
    assert missing == [12]


@pytest.mark.parametrize("solver", SOLVERS)
def test_down_undoes_up(solver: str) -> None:
    times = flux_times(60, 0.5)
    z = torch.tensor([1.0, -2.0], dtype=torch.float64)
    back = walk(solver, decay, walk(solver, decay, z, times, up=True), times, up=False)
    assert float((back - z).abs().max()) < (0.2 if solver == "euler" else 0.005)


def test_flux_schedule() -> None:
    mu = resolution_mu(4096, 256, 4096, 0.5, 1.15)
    assert mu == pytest.approx(1.15)
    times = flux_times(4, mu)
    assert times[0] == 0 and times[-1] == 1 and times == sorted(times)
    assert times[2] == pytest.approx(math.exp(mu) / (math.exp(mu) + 1))
    assert flux_times(4, None) == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_unknown_solver_is_named() -> None:
    with pytest.raises(ValueError, match="heun.*euler"):
        walk("heun", decay, torch.ones(1), [0, 1], up=True)
