import json
import signal

import pytest

from regen.console import STOP_SIGNALS
from regen.train.lifecycle import fingerprint, open_run, stop_signals


def test_a_differing_configuration_is_named(tmp_path):
    before = {"loop": {"seed": 0, "num_workers": 2}, "data": ["a"], "width": 8}
    now = {"loop": {"seed": 1, "num_workers": 0}, "data": ("a",), "depth": 4}
    with pytest.raises(ValueError, match="The run in .* has other settings") as error:
        open_run(tmp_path, now, before, resume=True)
    assert (
        "(depth was absent and is now 4; loop.seed was 0 and is now 1; width was 8 and is now absent)"
        in str(error.value)
    )


def test_open_run_writes_the_configuration_and_refuses_to_mix_runs(tmp_path):
    run, config = tmp_path / "a" / "run", {"width": 8, "loop": {"num_workers": 2}}
    open_run(run, config, None, resume=True, write=False)
    assert not run.exists(), "only the main process writes"
    open_run(run, config, None, resume=True)
    open_run(run, config, config, resume=True)
    with pytest.raises(ValueError, match="already a run in"):
        open_run(run, config, config, resume=False)
    stored = json.loads((run / "config.json").read_text())
    assert stored == config | {"fingerprint": fingerprint(config)}
    with pytest.raises(ValueError, match="must be writable"):
        open_run(run / "config.json", {}, None, resume=True)


def test_the_fingerprint_knows_what_acts_on_the_result():
    config = {"width": 8, "loop": {"num_workers": 2, "seed": 0}}
    assert fingerprint(config) == fingerprint({"width": 8, "loop": {"num_workers": 0, "seed": 0}})
    assert fingerprint(config) != fingerprint({"width": 8, "loop": {"num_workers": 2, "seed": 1}})


@pytest.mark.parametrize("number", STOP_SIGNALS[1:])
def test_ctrl_c_after_a_signal_leaves_at_once(number, capfd):
    with stop_signals() as received:
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
        assert received == [number]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().err.count("Stopping after this step") == 1
