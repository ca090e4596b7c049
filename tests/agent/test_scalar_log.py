from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from promptrl_plugin.agent.tensorboard import ScalarLog
from promptrl_plugin.errors import UserError


def test_tensorboard_reads_it_and_forgets_what_a_killed_run_repeats(tmp_path: Path) -> None:
    with ScalarLog(tmp_path, 0) as log:
        for step in (10, 20, 30):
            log.write(step, {"loss": step / 100, "entropy": 1.0})
    path = log.path
    path.write_bytes(path.read_bytes()[:-5])  # killed in the middle of a record
    with ScalarLog(tmp_path, 20) as log:
        log.write(20, {"loss": 7.0})
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("loss")] == [(10, 0.1), (20, 7.0)]
    assert [e.step for e in events.Scalars("entropy")] == [10]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another place"):
        ScalarLog(tmp_path / "file", 0)
