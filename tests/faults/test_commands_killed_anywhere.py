"""`dah coordinator init`, `backup` and `restore` are killed at every point: all or nothing, and the next one goes through."""

from __future__ import annotations

from pathlib import Path

from coordinator.backup import back_up
from coordinator.replay import replay
from coordinator.restore import restore
from coordinator.run_folder import RunFolder
from tests.faults.plan import FaultPlan
from tests.faults.points import Point, Under, Who, points_of
from tests.faults.processes import House, house, wait_until
from tests.faults.supervisor import await_death_at
from tests.integration.damage import ROUNDS, train
from tests.integration.live_run import volunteers
from tests.unit.tiny_data import build_tiny_data, tiny_run_folder
from tests.unit.tiny_run import TINY

SAVED_EACH_ROUND = (
    "evaluation.every_images=8",
    "evaluation.draws=1",
    "evaluation.max_images=4",
    "checkpoint.every_images=1000000",
)


def killed(home: House, point: Point, *words: str) -> None:
    """`dah coordinator` with `words` dies at `point`."""
    record = home.root / "passed"
    process = home.start(words[0], "coordinator", *words, faults=FaultPlan(record, point.name))
    await_death_at(process, point.name, record)


def done(home: House, *words: str) -> None:
    """The same again, and undisturbed."""
    process = home.start(words[0], "coordinator", *words)
    assert process.wait() == 0, process.output


def test_run_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    build_tiny_data(tmp_path / "data")
    config = tmp_path / "tiny.toml"
    config.touch()
    settings = [word for setting in (*TINY, f"data.path='{tmp_path / 'data'}'") for word in ("--set", setting)]
    for number, point in enumerate(points_of(Who.COORDINATOR, Under.INIT)):
        folder = RunFolder(tmp_path / str(number) / "run")
        folder.root.parent.mkdir()
        words = ("init", str(folder.root), "--config", str(config), *settings)
        with house(tmp_path) as home:
            killed(home, point, *words)
            if not folder.root.exists():
                done(home, *words)
        assert [path.name for path in folder.root.parent.iterdir()] == ["run"]
        assert replay(folder).versions == 1


def test_former_or_new_backup_is_whole_at_whatever_point_it_is_killed(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ROUNDS, *SAVED_EACH_ROUND, "run.total_images=1000000")
    out = RunFolder(tmp_path / "backup")
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder)
        back_up(folder, out)
        held = [0]
        with volunteers(run, 1) as (anna,):
            for number, point in enumerate(points_of(Who.COORDINATOR, Under.BACKUP), 1):
                train(run, anna, number)
                wait_until(lambda: not any(folder.exports.iterdir()), coordinator)
                killed(home, point, "backup", str(folder.root), str(out.root))
                restored = RunFolder(tmp_path / f"restored-{number}")
                held.append(restore(out, restored).version)
                assert held[-2] <= held[-1] <= number
                assert replay(restored).versions == held[-1] + 1
            assert held[-1] > 0
            assert back_up(folder, out).version == number
        assert not (out.root / "incoming").exists()
        for index, point in enumerate(points_of(Who.COORDINATOR, Under.RESTORE)):
            restored = RunFolder(tmp_path / str(index) / "restored")
            restored.root.parent.mkdir()
            killed(home, point, "restore", str(out.root), str(restored.root))
            if not restored.root.exists():
                done(home, "restore", str(out.root), str(restored.root))
            assert [path.name for path in restored.root.parent.iterdir()] == ["restored"]
            assert replay(restored).versions == number + 1
