"""The coordinator is killed between rounds, inside one, and between fixing its contributions and publishing.

The one that goes on is started afterwards; or, where a server has the ledger, it has stood by.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from coordinator.ledger import Ledger
from coordinator.records import RoundState
from coordinator.replay import replay
from coordinator.run_folder import RunFolder
from diffusion_at_home.errors import SeatLost
from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.faults.processes import House, Process, house, wait_until
from tests.integration.live_run import LiveRun, Volunteer, encoded, volunteers
from tests.postgres_server import PostgresServer
from tests.unit.tiny_data import tiny_run_folder

EQUAL_LEASES = (
    "round.images=32",
    "lease.min_steps=2",
    "lease.probe_steps=2",
    "lease.max_steps=2",
    "evaluation.every_images=100000",
    "checkpoint.every_images=100000",
)
"""Whoever asks gets 16 images, so that the same volunteers always make the same versions."""

ROUNDS = 3


@dataclass
class Play:
    """Two volunteers bring the same in every round, whatever happens to the coordinator."""

    folder: RunFolder
    home: House
    process: Process
    run: LiveRun
    anna: Volunteer
    bert: Volunteer
    standby: Process | None = None

    def grants(self) -> list[pb.LeaseGrant]:
        return [self.anna.lease(), self.bert.lease()]

    def hand_in(self, grants: list[pb.LeaseGrant]) -> list[pb.SubmitReply]:
        return [self.submit(volunteer, grant) for volunteer, grant in zip((self.anna, self.bert), grants, strict=True)]

    def submit(self, volunteer: Volunteer, grant: pb.LeaseGrant, offset: int = 0) -> pb.SubmitReply:
        return volunteer.submit(grant, self.delta(grant), offset=offset)

    def delta(self, grant: pb.LeaseGrant) -> bytes:
        return encoded(self.run, 0.01 * grant.round + 0.001 * grant.ranges[0].start)

    def kill_and_restart(self) -> None:
        self.process.kill()
        if self.standby is None:
            self.process, _ = self.home.coordinator(self.folder)
        else:
            self.take_over()

    def take_over(self) -> None:
        """The standby does, as nobody else is there."""
        assert self.standby is not None
        self.process, standby = self.standby, self.standby
        wait_until(lambda: "is open" in standby.output, standby)


def between_rounds(play: Play) -> None:
    play.hand_in(play.grants())
    play.run.wait_for_version(1)
    play.kill_and_restart()


def inside_a_round(play: Play) -> None:
    """With one receipt given, and half of the other contribution here."""
    grants = play.grants()
    receipt = play.submit(play.anna, grants[0])
    data = play.delta(grants[1])
    with pytest.raises(grpc.RpcError):
        play.bert.submit(grants[1], data, upto=1000)
    play.kill_and_restart()
    assert play.submit(play.anna, grants[0]) == receipt
    assert play.bert.beat(grants[1].lease_id).order == pb.HeartbeatReply.ORDER_CONTINUE
    assert play.bert.offset(grants[1].lease_id, data) == 1000
    play.submit(play.bert, grants[1], offset=1000)
    play.run.wait_for_version(1)


def while_closing(play: Play) -> None:
    """The contributions are fixed and the update cannot be written, which holds the round there."""
    obstacle = play.folder.staging / "update-1"
    obstacle.symlink_to("/dev/full")
    grants = play.grants()
    receipts = play.hand_in(grants)
    wait_until(lambda: round_state(play.folder) is RoundState.CLOSING, play.process)
    wait_until(lambda: "storage_error" in play.process.output, play.process)
    assert play.run.status()["version"] == 0
    obstacle.unlink()
    play.kill_and_restart()
    play.run.wait_for_version(1)
    assert play.hand_in(grants) == receipts


def round_state(folder: RunFolder) -> RoundState | None:
    ledger = Ledger(folder.ledger, read_only=True)
    latest = ledger.latest_round()
    ledger.close()
    return latest.state if latest else None


def undisturbed(play: Play) -> None:
    play.hand_in(play.grants())
    play.run.wait_for_version(1)


def digests(root: Path, first_round: Callable[[Play], None], server: PostgresServer | None = None) -> list[str]:
    """Of every version, when the first round goes as told and the others without a fault.

    A `server` has the ledger, and a second coordinator stands by.
    """
    root.mkdir()
    folder = tiny_run_folder(root, *EQUAL_LEASES)
    if server is not None:
        server.take_in(folder)
    with house(root) as home:
        process, run = home.coordinator(folder)
        standby = None if server is None else standing_by(home, folder)
        with volunteers(run, 2) as (anna, bert):
            play = Play(folder, home, process, run, anna, bert, standby)
            first_round(play)
            for number in range(2, ROUNDS + 1):
                play.hand_in(play.grants())
                run.wait_for_version(number)
        assert replay(folder).contributions == 2 * ROUNDS
        assert play.process.terminate() == 0
    ledger = Ledger(folder.ledger, read_only=True)
    found = [version.weights_digest for version in ledger.versions()]
    ledger.close()
    return found


def standing_by(home: House, folder: RunFolder) -> Process:
    """A second coordinator of the run, of the same ports."""
    ports = ("--http-port", str(home.ports[0]), "--grpc-port", str(home.ports[1]))
    standby = home.start("standby", "coordinator", "run", str(folder.root), *ports, "--json")
    wait_until(lambda: "standing by" in standby.output, standby)
    return standby


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return digests(tmp_path_factory.mktemp("undisturbed") / "run", undisturbed)


@pytest.mark.parametrize("killed", [between_rounds, inside_a_round, while_closing], ids=lambda killed: killed.__name__)
def test_versions_are_the_same_bits_as_without_the_fault(
    tmp_path: Path, expected: list[str], killed: Callable[[Play], None]
) -> None:
    assert digests(tmp_path / "root", killed) == expected
    assert len(set(expected)) == ROUNDS + 1


@pytest.mark.parametrize("killed", [inside_a_round, while_closing], ids=lambda killed: killed.__name__)
def test_standby_goes_on_with_the_same_bits(
    tmp_path: Path, expected: list[str], postgres: PostgresServer, killed: Callable[[Play], None]
) -> None:
    assert digests(tmp_path / "root", killed, postgres) == expected


def test_coordinator_that_loses_its_seat_stops_and_the_standby_goes_on_with_the_same_bits(
    tmp_path: Path, expected: list[str], postgres: PostgresServer
) -> None:
    def cut_off_while_it_stands_still(play: Play) -> None:
        grants = play.grants()
        receipt = play.submit(play.anna, grants[0])
        os.kill(play.process.pid, signal.SIGSTOP)
        assert postgres.break_line() > 0
        os.kill(play.process.pid, signal.SIGCONT)
        assert play.process.wait() == SeatLost.exit_code
        assert "no longer the one that may write" in play.process.output
        play.take_over()
        assert play.submit(play.anna, grants[0]) == receipt
        play.submit(play.bert, grants[1])
        play.run.wait_for_version(1)

    assert digests(tmp_path / "root", cut_off_while_it_stands_still, postgres) == expected


def test_round_whose_contributions_are_fixed_takes_no_more(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *EQUAL_LEASES, "round.quorum=1.0", "round.max_seconds=2")
    obstacle = folder.staging / "update-1"
    with house(tmp_path) as home:
        process, run = home.coordinator(folder)
        obstacle.symlink_to("/dev/full")
        with volunteers(run, 2) as (anna, bert):
            anna.submit(anna.lease(), encoded(run, 0.5))
            wait_until(lambda: round_state(folder) is RoundState.CLOSING, process)
            obstacle.unlink()
            process.kill()
            home.coordinator(folder)
            assert bert.lease().round == 2
    assert replay(folder).contributions == 1
