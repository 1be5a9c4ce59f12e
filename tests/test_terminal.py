"""What is said while a study runs: a bar on a terminal, and lines elsewhere."""

import pytest


pytestmark = pytest.mark.needs_extras


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test moves on."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_line_where_a_stage_begins_and_every_half_minute(capsys, clock):
    from experiments.terminal import progress

    def lines():
        return capsys.readouterr().out.splitlines()

    with progress(1095) as bar:
        assert lines() == []
        bar.say("tuning teacher adamw")
        assert lines() == ["tuning teacher adamw: 0 of 1095 runs, 0 diverged"]
        bar.say("tuning teacher sgd")
        bar.advance(319.6)
        clock[0] += 29
        bar.advance(0.4)
        bar.count_diverged(2)
        assert lines() == []
        clock[0] += 2
        bar.advance(0)
        assert lines() == ["tuning teacher sgd: 320 of 1095 runs, 2 diverged"]
        clock[0] += 29
        bar.advance(1)
        assert lines() == []
        bar.say("final teacher sgd")
        assert lines() == ["final teacher sgd: 321 of 1095 runs, 2 diverged"]
        bar.count_diverged(1)
        bar.advance(2000)
        clock[0] += 30
        bar.say("final teacher adamw")
        assert lines() == ["final teacher adamw: 1095 of 1095 runs, 3 diverged"]
    said = "3 diverged (their loss was not finite; they count as chance)"
    assert lines() == [said]


def test_nothing_is_said_of_no_divergence(capsys):
    from experiments.terminal import progress

    with progress(2) as bar:
        bar.advance(2)
    assert "diverged (" not in capsys.readouterr().out


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    from experiments.terminal import progress

    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress(24) as bar:
        bar.say("tuning sgd")
        bar.advance(7)
        bar.count_diverged(1)
    text = capsys.readouterr().out
    assert "tuning sgd" in text
    assert "1 diverged," in text
    assert "7/24" in text
    assert "7 of 24" not in text
    assert "1 diverged (their loss was not finite" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_an_interrupt_says_how_far_it_came(terminal, capsys, monkeypatch):
    from experiments import interrupts
    from experiments.terminal import progress

    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    received = []
    monkeypatch.setattr(interrupts, "_received", received)
    with pytest.raises(interrupts.Interrupted) as stop, progress(24) as bar:  # noqa: PT012
        bar.say("tuning sgd")
        bar.advance(6.6)
        bar.count_diverged(1)
        received.append(2)
        bar.advance(1)
    assert stop.value.__notes__ == ["while tuning sgd, after 7 of 24 runs"]
    assert "diverged (" not in capsys.readouterr().out
