"""Output while a study runs: a bar on a terminal, lines of text elsewhere."""

import pytest


pytestmark = pytest.mark.needs_extras


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test advances."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_line_when_a_stage_begins_and_every_half_minute(capsys, clock):
    from experiments.terminal import progress_bar

    def lines():
        return capsys.readouterr().out.splitlines()

    with progress_bar(1095) as progress:
        assert lines() == []
        progress.set_description("tuning teacher adamw")
        assert lines() == ["tuning teacher adamw: 0 of 1095 runs, 0 diverged"]
        progress.set_description("tuning teacher sgd")
        progress.advance(319.6)
        clock[0] += 29
        progress.advance(0.4)
        progress.count_diverged(2)
        assert lines() == []
        clock[0] += 2
        progress.advance(0)
        assert lines() == ["tuning teacher sgd: 320 of 1095 runs, 2 diverged"]
        clock[0] += 29
        progress.advance(1)
        assert lines() == []
        progress.set_description("final teacher sgd")
        assert lines() == ["final teacher sgd: 321 of 1095 runs, 2 diverged"]
        progress.count_diverged(1)
        progress.advance(2000)
        clock[0] += 30
        progress.set_description("final teacher adamw")
        assert lines() == ["final teacher adamw: 1095 of 1095 runs, 3 diverged"]
    message = "Diverged runs: 3. Their loss was not finite, so they get the score of "
    assert lines() == [f"{message}chance."]


def test_no_message_without_divergence(capsys):
    from experiments.terminal import progress_bar

    with progress_bar(2) as progress:
        progress.advance(2)
    assert "Diverged runs" not in capsys.readouterr().out


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    from experiments.terminal import progress_bar

    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar(24) as progress:
        progress.set_description("tuning sgd")
        progress.advance(7)
        progress.count_diverged(1)
    text = capsys.readouterr().out
    assert "tuning sgd" in text
    assert "1 diverged," in text
    assert "7/24" in text
    assert "7 of 24" not in text
    assert "Diverged runs: 1. Their loss was not finite" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_an_interrupt_has_a_note_with_the_finished_runs(terminal, capsys, monkeypatch):
    from experiments import interrupts
    from experiments.terminal import progress_bar

    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    received = []
    monkeypatch.setattr(interrupts, "_received", received)
    with pytest.raises(interrupts.Interrupted) as stop, progress_bar(24) as progress:  # noqa: PT012
        progress.set_description("tuning sgd")
        progress.advance(6.6)
        progress.count_diverged(1)
        received.append(2)
        progress.advance(1)
    assert stop.value.__notes__ == ["while tuning sgd, after 7 of 24 runs"]
    assert "Diverged runs" not in capsys.readouterr().out
